"""Rows of a dataset on the hub, and what is said when they cannot be had."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from preftune.data.rows import CHUNK_ROWS, Chunk, first_line
from preftune.data.tables import table_chunks
from preftune.refusals import Refusal


def hub_chunks(
    dataset_id: str, revision: str | None, split: str, place: str = "data", *, streaming: bool = False
) -> Iterator[Chunk]:
    """Yield the rows of one split of a dataset, from the hub or from its cache.

    Raises:
        Refusal: The hub cannot be reached, the dataset is gated, or it has no such revision or split.
    """
    rows = _loaded(dataset_id, revision, split, place, streaming=streaming)
    first = 1
    for table in rows.with_format("arrow").iter(CHUNK_ROWS):
        yield from table_chunks(table, f"{dataset_id}[{split}]", first)
        first += len(table)


def hub_fingerprint(dataset_id: str, revision: str | None, split: str, place: str = "data") -> str:
    """Return a hex digest of one split of a dataset.

    Raises:
        Refusal: As `hub_chunks`.
    """
    rows = _loaded(dataset_id, revision, split, place)
    return hashlib.sha256(json.dumps([dataset_id, revision, split, rows._fingerprint]).encode()).hexdigest()


def _loaded(dataset_id: str, revision: str | None, split: str, place: str, *, streaming: bool = False) -> Any:
    import datasets
    import httpx

    try:
        return datasets.load_dataset(dataset_id, revision=revision, split=split, streaming=streaming)
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise Refusal(_reason(error, dataset_id, revision, split, place)) from error


def _reason(error: Exception, dataset_id: str, revision: str | None, split: str, place: str) -> str:
    said = first_line(error)
    local = f"set {place}.path to a local file in the same layout"
    if isinstance(error, ConnectionError):
        return (
            f"{place}.id must be within reach, got {dataset_id!r}, of which split {split!r} at revision "
            f"{revision or 'main'!r} was needed, and no answer from the hub; {local}, or load the dataset "
            "once where there is a network, so that the cache holds it"
        )
    if "gated" in said:
        return (
            f"{place}.id must be open to you, got {dataset_id!r}, which is gated; accept its terms on its page "
            f"and set HF_TOKEN, or {local}"
        )
    if "doesn't exist" in said:
        return (
            f"{place}.id must name a dataset on the hub, got {dataset_id!r} at revision {revision or 'main'!r}, "
            f"which does not exist or is private; set HF_TOKEN for a private one, or {local}"
        )
    if "split" in said:
        return f"{place}.split must be a split of {dataset_id!r}, got {split!r}: {said}"
    return (
        f"{place}.id must name a dataset that can be loaded, got {dataset_id!r} (split {split!r}, revision "
        f"{revision or 'main'!r}): {said}; {local}"
    )
