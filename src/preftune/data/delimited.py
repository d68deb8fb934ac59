"""Rows of CSV files. A row may span lines, so the file is split by parsing it; its origin is the line it begins on."""

import csv
from collections.abc import Iterator
from pathlib import Path

from preftune.data.objects import not_utf8
from preftune.data.rows import CHUNK_BYTES, CHUNK_ROWS, Chunk, ParsedRows, first_line
from preftune.refusals import Refusal

_LONGEST_FIELD = 1 << 24  # characters; a quote that is never closed ends here


def csv_chunks(file: Path, name: str) -> Iterator[Chunk]:
    """Yield the records of `file`, whose first names the columns; every value is text.

    Raises:
        Refusal: The file is no UTF-8 or no CSV, a column has no name or the name of another, or a record has more
            or fewer fields than there are columns.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    with file.open("rb") as raw:
        records = _records(raw, name)
        line, header = next(records, (1, []))
        _refuse_header(header, f"{name}:{line}")
        values: list[tuple[int, object]] = []
        size = 0
        for line, record in records:
            if len(record) != len(header):
                raise Refusal(
                    f"{name}:{line}: row must have {len(header)} fields, one for each column, got {len(record)}; "
                    "text that holds a comma, a quote or a line break is put in quotes, and a quote in it doubled"
                )
            values.append((line, dict(zip(header, record, strict=True))))
            size += sum(map(len, record))
            if size >= CHUNK_BYTES or len(values) == CHUNK_ROWS:
                yield ParsedRows(name, values, check=False)
                values, size = [], 0
        if values:
            yield ParsedRows(name, values, check=False)


def _records(raw: Iterator[bytes], name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not blank with the line it begins on, counted from 1."""
    reader = csv.reader(_lines(raw, name), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise Refusal(f"{name}:{line}: must be CSV, got a fault: {first_line(error)}") from None
        if record:
            yield line, record


def _lines(raw: Iterator[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(raw, start=1):
        if (at := line.find(b"\0")) >= 0:
            raise Refusal(f"{name}:{number}: must hold no NUL byte, got one as byte {at + 1} of the line")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise Refusal(not_utf8(error, line, name, number)) from None


def _refuse_header(header: list[str], origin: str) -> None:
    for place, column in enumerate(header):
        if not column.strip():
            raise Refusal(f"{origin}: every column must have a name, got none for column {place + 1}")
        if column in header[:place]:
            raise Refusal(f"{origin}: the names of columns must differ, got {column!r} for two")
