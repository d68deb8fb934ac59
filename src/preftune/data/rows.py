"""A row as a source hands it on, the piece of a source that a worker reads, and the faults of its text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from preftune.refusals import Refusal

CHUNK_ROWS = 1_000
"""Most rows of a piece that is counted in rows."""
CHUNK_BYTES = 1 << 18
"""Bytes from which a piece is handed on; it ends with the row that reaches them."""


class Row(NamedTuple):
    """One row of a source.

    Attributes:
        origin: Where it stood: `file:row`, or `id[split]:row`, counted from 1 (the line, in JSON lines and CSV).
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


@dataclass(frozen=True, slots=True)
class ParsedRows:
    """A piece of a file that can only be parsed as a whole.

    Attributes:
        name: The file.
        values: What it holds, each with the number that its origin shows.
        check: Look for text that no tokenizer can take.
    """

    name: str
    values: list[tuple[int, object]]
    check: bool

    def rows(self) -> Iterator[Row]:
        """Yield the rows."""
        for number, value in self.values:
            yield checked_row(value, f"{self.name}:{number}", check=self.check)


def checked_row(value: object, origin: str, *, check: bool) -> Row:
    """Return the row of a JSON `value`; with `check`, look for text that no tokenizer can take.

    Raises:
        Refusal: It is no object, or holds half of a surrogate pair or a NUL character.
    """
    if not isinstance(value, dict):
        raise Refusal(f"{origin}: row must be an object, got {kind(value)}")
    if check:
        refuse_text_that_cannot_be_read(value, origin)
    return Row(origin, value)


def refuse_text_that_cannot_be_read(columns: Mapping[str, object], origin: str) -> None:
    """Refuse half of a surrogate pair, which is no character, and NUL, at which much software ends a text.

    Raises:
        Refusal: The first text of `columns`, name or value, that holds one.
    """
    for column, value in columns.items():
        for text in _texts((column, value)):
            if (at := text.find("\0")) >= 0:
                excerpt = shown(text[max(0, at - 10) : at + 10])
                raise Refusal(f"{origin}: {_printable(column)} must hold no NUL character, got {excerpt}")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                half = shown(text[error.start])
                raise Refusal(
                    f"{origin}: {_printable(column)} must be valid Unicode, got half of a surrogate pair, {half}"
                ) from None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _texts(pair)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _printable(column: str) -> str:
    return column.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def kind(value: object) -> str:
    """Return what a JSON value is, for an error sentence."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), f"the number {value}")


def first_line(error: BaseException) -> str:
    """Return the first line of what `error` says, or its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def shown(value: object) -> str:
    """Return `value` for an error sentence: on one line, at most 60 characters, null for None."""
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
