"""Rows of JSON files: one object a line, or one list of objects.

JSON is read here rather than by a library so that an error names file, line and column.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from preftune.data.rows import CHUNK_BYTES, CHUNK_ROWS, Chunk, ParsedRows, Row, checked_row, first_line, kind
from preftune.refusals import Refusal

_JSON_LINES = "a file with one object a line is called .jsonl"
_BLANK = " \t\r\n\v\f"
# How JSON writes halves of surrogate pairs, and NUL. One search of a block saves the check of nearly every row.
_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_ESCAPE_IN_BYTES = re.compile(_ESCAPE.pattern.encode())


@dataclass(frozen=True, slots=True)
class JsonLines:
    """Whole lines of a file, not yet parsed; the first of them is line `first`, counted from 1."""

    name: str
    first: int
    raw: bytes

    def rows(self) -> Iterator[Row]:
        """Yield a row for each line that is not blank."""
        check = _ESCAPE_IN_BYTES.search(self.raw) is not None
        for number, line in enumerate(self._lines(), start=self.first):
            if line.strip(_BLANK):
                value = _parsed(line, self.name, number)
                suspect = check and _ESCAPE.search(line) is not None
                yield checked_row(value, f"{self.name}:{number}", check=suspect)

    def _lines(self) -> Iterator[str]:
        # Split at "\n" alone: str.splitlines would also split at U+2028 inside an answer.
        try:
            lines = self.raw.decode().split("\n")
        except UnicodeDecodeError:
            # Line by line, so that a fault further up is told first.
            for number, line in enumerate(self.raw.split(b"\n"), start=self.first):
                yield _decoded(line, self.name, number).removeprefix("\ufeff").rstrip("\r")
        else:
            for text in lines:
                yield text.removeprefix("\ufeff").rstrip("\r")


def json_line_chunks(file: Path, name: str) -> Iterator[Chunk]:
    """Yield the lines of `file` in blocks, a block at a time in memory."""
    number = 1
    with file.open("rb") as lines:
        while block := lines.read(CHUNK_BYTES):
            if not block.endswith(b"\n"):
                block += lines.readline()
            yield JsonLines(name, number, block)
            number += block.count(b"\n")


def json_chunks(file: Path, name: str) -> Iterator[Chunk]:
    """Yield the objects of the list in `file`, which is read and parsed as a whole: about ten times its size."""
    text = _decoded(file.read_bytes(), name, 1).removeprefix("\ufeff")
    values = _parsed(text, name, 1)
    if not isinstance(values, list):
        raise Refusal(f"{name} must hold a list of objects, got {kind(values)}; {_JSON_LINES}")
    check = _ESCAPE.search(text) is not None
    step = max(1, min(CHUNK_ROWS, CHUNK_BYTES * len(values) // len(text)))
    del text
    for start in range(0, len(values), step):
        yield ParsedRows(name, list(enumerate(values[start : start + step], start=start + 1)), check)


def json_object(file: Path, name: str) -> dict[str, object]:
    """Return the one object that `file` holds.

    Raises:
        Refusal: It holds something else.
    """
    value = _parsed(_decoded(file.read_bytes(), name, 1), name, 1)
    if not isinstance(value, dict):
        raise Refusal(f"{name} must hold an object, got {kind(value)}")
    return value


def _decoded(raw: bytes, name: str, first: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Refusal(not_utf8(error, raw, name, first)) from None


def not_utf8(error: UnicodeDecodeError, raw: bytes, name: str, first: int) -> str:
    """Return the sentence for bytes that are no UTF-8; `raw` begins with line `first`."""
    at = error.start
    line = first + raw.count(b"\n", 0, at)
    column = at - raw.rfind(b"\n", 0, at)
    return f"{name}:{line}: must be UTF-8, got 0x{raw[at]:02x} as byte {column} of the line"


def _parsed(text: str, name: str, first: int) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first + error.lineno - 1
        hint = f"; {_JSON_LINES}" if error.msg == "Extra data" and name.endswith(".json") else ""
        fault = f"{name}:{line}: must be JSON, got a fault at column {error.colno}: {error.msg}{hint}"
        raise Refusal(fault) from None
    except (RecursionError, ValueError) as error:
        fault = f"{name}:{first}: must be JSON that can be read, got a fault: {first_line(error)}"
        raise Refusal(fault) from None
