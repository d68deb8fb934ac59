"""Rows of a local file: JSON, JSON lines or parquet.

JSON is read here rather than by a library so that an error names file, line and column.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from preftune.data.rows import Row, shown
from preftune.refusals import Refusal

_JSON_LINES = "a file with one object a line is called .jsonl"


def file_rows(path: str) -> Iterator[Row]:
    """Yield the rows of the file at `path`.

    Raises:
        Refusal: The file is missing, empty, not in the format that its name says, or a row is no object.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise Refusal(f"data.path must name a file that exists, got {path!r}")
    if not file.is_file():
        raise Refusal(f"data.path must name a file, got the directory {path!r}")
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise Refusal(f"data.path must end in {', '.join(_READERS)}, got {path!r}")
    if not file.stat().st_size:
        raise Refusal(f"{file.name} must hold at least one row, got an empty file")
    try:
        yield from read(file)
    except PermissionError:
        raise Refusal(f"data.path must name a file that may be read, got {path!r}") from None


def _json_rows(file: Path) -> Iterator[Row]:
    raw = file.read_bytes()
    rows = _parsed(raw, file.name, 1)
    if not isinstance(rows, list):
        raise Refusal(f"{file.name} must hold a list of objects, got {_kind(rows)}; {_JSON_LINES}")
    for number, row in enumerate(rows, start=1):
        yield _row(row, f"{file.name}:{number}", may_hold_surrogates=_escapes_surrogates(raw))


def _json_line_rows(file: Path) -> Iterator[Row]:
    with file.open("rb") as lines:
        # Split at "\n" alone: str.splitlines would also split at U+2028 inside an answer.
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = _parsed(line.rstrip(b"\r\n"), file.name, number)
                yield _row(row, f"{file.name}:{number}", may_hold_surrogates=_escapes_surrogates(line))


def _parquet_rows(file: Path) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield Row(f"{file.name}:{number}", row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Refusal(
            f"{file.name} must be a parquet file that can be read, got a fault after row {number}: {_first_line(error)}"
        ) from error


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _json_rows,
    ".jsonl": _json_line_rows,
    ".parquet": _parquet_rows,
}


def _parsed(raw: bytes, name: str, first_line: int) -> object:
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        at = error.start
        line = first_line + raw.count(b"\n", 0, at)
        column = at - raw.rfind(b"\n", 0, at)
        fault = f"{name}:{line}: must be UTF-8, got 0x{raw[at]:02x} as byte {column} of the line"
        raise Refusal(fault) from None
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        hint = f"; {_JSON_LINES}" if error.msg == "Extra data" and name.endswith(".json") else ""
        fault = f"{name}:{line}: must be JSON, got a fault at column {error.colno}: {error.msg}{hint}"
        raise Refusal(fault) from None
    except (RecursionError, ValueError) as error:
        fault = f"{name}:{first_line}: must be JSON that can be read, got a fault: {_first_line(error)}"
        raise Refusal(fault) from None


def _row(row: object, origin: str, *, may_hold_surrogates: bool) -> Row:
    if not isinstance(row, dict):
        raise Refusal(f"{origin}: row must be an object, got {_kind(row)}")
    if may_hold_surrogates:
        for column, value in row.items():
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                half = shown(error.object[error.start])
                raise Refusal(
                    f"{origin}: {column} must be valid Unicode, got half of a surrogate pair, {half}"
                ) from None
    return Row(origin, row)


def _escapes_surrogates(raw: bytes) -> bool:
    return b"\\ud" in raw or b"\\uD" in raw


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), f"the number {value}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
