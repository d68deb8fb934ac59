"""Where rows come from: the hub, or local files that stand in for it."""

from collections.abc import Iterator

from preftune.data.files import local_name, local_source
from preftune.data.hub import hub_chunks, hub_fingerprint
from preftune.data.rows import Chunk
from preftune.data.settings import DataSettings, SourceSettings
from preftune.refusals import Refusal


def source_chunks(
    settings: SourceSettings, split: str, place: str = "data", *, streaming: bool = False
) -> Iterator[Chunk]:
    """Return the rows of `split` in pieces; local files, which have no splits, give all that they hold.

    Args:
        settings: The source.
        split: Split of a data set of the hub, or of a saved `DatasetDict`.
        place: The group of settings that error sentences name: `data`, or `data.mix[1]`.
        streaming: Read a data set of the hub over the network rather than fetch it first.

    Raises:
        Refusal: The source is missing or cannot be read, here or while the pieces are taken.
    """
    if settings.path:
        return local_source(settings.path, split, f"{place}.path").chunks()
    if settings.id:
        return hub_chunks(settings.id, settings.revision, split, place, streaming=streaming)
    raise Refusal(_no_source(place))


def source_fingerprint(settings: SourceSettings, split: str, place: str = "data") -> str:
    """Return a hex digest of what `source_chunks` reads: of names and bytes, not of where the files lie.

    Raises:
        Refusal: The source is missing or cannot be read.
    """
    if settings.path:
        return local_source(settings.path, split, f"{place}.path").fingerprint()
    if settings.id:
        return hub_fingerprint(settings.id, settings.revision, split, place)
    raise Refusal(_no_source(place))


def source_name(settings: SourceSettings, split: str) -> str:
    """Return the name of a source as the ledger shows it."""
    if settings.path:
        return local_name(settings.path, split)
    if settings.id:
        return f"{settings.id}[{split}]"
    return settings.source if isinstance(settings, DataSettings) else "rows"


def _no_source(place: str) -> str:
    return f"{place}.path must name local files where {place}.id is null, got null"
