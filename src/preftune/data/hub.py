"""Rows of a dataset on the hub, and what is said when they cannot be had."""

from collections.abc import Iterator

from preftune.data.rows import Row
from preftune.refusals import Refusal


def hub_rows(dataset_id: str, revision: str | None, split: str) -> Iterator[Row]:
    """Yield the rows of one split of a dataset, from the hub or from its cache.

    Raises:
        Refusal: The hub cannot be reached, the dataset is gated, or it has no such revision or split.
    """
    import datasets
    import httpx

    try:
        rows = datasets.load_dataset(dataset_id, revision=revision, split=split)
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise Refusal(_reason(error, dataset_id, revision, split)) from error
    for number, row in enumerate(rows, start=1):
        yield Row(f"{dataset_id}[{split}]:{number}", row)


def _reason(error: Exception, dataset_id: str, revision: str | None, split: str) -> str:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    local = "set data.path to a local file in the same layout"
    if isinstance(error, ConnectionError):
        return (
            f"data.id must be within reach, got {dataset_id!r}, of which split {split!r} at revision "
            f"{revision or 'main'!r} was needed, and no answer from the hub; {local}, or load the dataset "
            "once where there is a network, so that the cache holds it"
        )
    if "gated" in said:
        return (
            f"data.id must be open to you, got {dataset_id!r}, which is gated; accept its terms on its page "
            f"and set HF_TOKEN, or {local}"
        )
    if "doesn't exist" in said:
        return (
            f"data.id must name a dataset on the hub, got {dataset_id!r} at revision {revision or 'main'!r}, "
            f"which does not exist or is private; set HF_TOKEN for a private one, or {local}"
        )
    if "split" in said:
        return f"data.split must be a split of {dataset_id!r}, got {split!r}: {said}"
    return (
        f"data.id must name a dataset that can be loaded, got {dataset_id!r} (split {split!r}, revision "
        f"{revision or 'main'!r}): {said}; {local}"
    )
