"""A row as a source hands it on, the piece of a source that a worker reads, and the fault that a dialect finds."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol


class Row(NamedTuple):
    """One row of a source.

    Attributes:
        origin: Where it stood: `file:row`, or `id[split]:row`, counted from 1 (the line, in JSON lines).
        columns: Its values by column.
    """

    origin: str
    columns: Mapping[str, object]


class Chunk(Protocol):
    """A piece of a source, some hundred rows, that can be pickled: a worker reads its rows."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows.

        Raises:
            Refusal: The piece cannot be read; the message names file and line.
        """


class RowError(ValueError):
    """A row does not hold what its dialect reads: `<field> must be <condition>, got <value>`."""


def shown(value: object) -> str:
    """Return `value` for an error sentence: on one line, at most 60 characters, null for None."""
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
