"""A row as a source hands it on, and the fault that a dialect finds in it."""

from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """One row of a source.

    Attributes:
        origin: Where it stood: `file:row`, or `id[split]:row`, counted from 1 (the line, in JSON lines).
        columns: Its values by column.
    """

    origin: str
    columns: Mapping[str, object]


class RowError(ValueError):
    """A row does not hold what its dialect reads: `<field> must be <condition>, got <value>`."""


def shown(value: object) -> str:
    """Return `value` for an error sentence: on one line, at most 60 characters, null for None."""
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
