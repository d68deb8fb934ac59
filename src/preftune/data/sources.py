"""Where rows come from: the hub, or a local file that stands in for it."""

from collections.abc import Iterator
from pathlib import Path

from preftune.data.files import file_rows
from preftune.data.hub import hub_rows
from preftune.data.rows import Row
from preftune.data.settings import DataSettings
from preftune.refusals import Refusal


def source_rows(settings: DataSettings, split: str) -> Iterator[Row]:
    """Yield the rows of `split`; a local file, which has no splits, yields all that it holds."""
    if settings.path:
        return file_rows(settings.path)
    if settings.id:
        return hub_rows(settings.id, settings.revision, split)
    raise Refusal(f"data.path must name a local file for data={settings.name}, got null")


def source_name(settings: DataSettings, split: str) -> str:
    """Return the name of a source as the ledger shows it."""
    if settings.path:
        return Path(settings.path).name
    if settings.id:
        return f"{settings.id}[{split}]"
    return settings.source
