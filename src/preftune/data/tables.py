"""Rows of tables: parquet files, data sets that `save_to_disk` wrote, and those of the hub."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftune.data.objects import json_object
from preftune.data.rows import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    Chunk,
    Row,
    first_line,
    refuse_text_that_cannot_be_read,
)
from preftune.refusals import Refusal

STATE = "state.json"
SPLITS = "dataset_dict.json"
_BUFFER = 1 << 20  # bytes of a column that are read at once


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows of a table as an Arrow stream, copied out of it; the first of them is row `first`, counted from 1."""

    name: str
    first: int
    stream: bytes

    def rows(self) -> Iterator[Row]:
        """Yield the rows."""
        import pyarrow as pa

        table = pa.ipc.open_stream(self.stream).read_all()
        decode = _decoder(table.schema)
        for number, columns in enumerate(self._columns(table), start=self.first):
            refuse_text_that_cannot_be_read(columns, f"{self.name}:{number}")
            yield Row(f"{self.name}:{number}", decode(columns))

    def _columns(self, table: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from table.to_pylist()
        except (ValueError, OverflowError):
            # Row by row, so that those further up are handed on and the one at fault is told.
            yield from self._columns_one_by_one(table)

    def _columns_one_by_one(self, table: Any) -> Iterator[dict[str, Any]]:
        for place in range(len(table)):
            try:
                yield from table.slice(place, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                raise Refusal(
                    f"{self.name}:{self.first + place}: row must hold values that can be read, got a fault: "
                    f"{first_line(error)}"
                ) from None


def parquet_chunks(file: Path, name: str) -> Iterator[Chunk]:
    """Yield the rows of a parquet file, some pages of a row group at a time in memory.

    Raises:
        Refusal: The file is cut or broken, or two columns have one name.
    """
    import pyarrow as pa
    from pyarrow import parquet

    row = 0
    try:
        # By default the pages that were read stay in memory until the file is closed.
        with parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER) as table:
            _refuse_same_names(table.schema_arrow.names, name)
            for batch in table.iter_batches(batch_size=CHUNK_ROWS):
                yield from table_chunks(batch, name, row + 1)
                row += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise Refusal(
            f"{name} must be a parquet file that can be read, got a fault after row {row}: {first_line(error)}"
        ) from error


def saved_files(directory: Path) -> dict[str, Path]:
    """Return what a saved data set is read from, by name: its state, then its Arrow files in order.

    Raises:
        Refusal: Its state cannot be read, or an Arrow file is missing.
    """
    state = f"{directory.name}/{STATE}"
    listed = json_object(directory / STATE, state).get("_data_files")
    if not isinstance(listed, list) or not all(isinstance(entry, dict) and "filename" in entry for entry in listed):
        raise Refusal(f"{state} must list the files of a saved data set, got none; save it again with save_to_disk")
    names = [str(entry["filename"]) for entry in listed]
    for name in names:
        if not (directory / name).is_file():
            raise Refusal(
                f"{directory.name} must hold the files that its {STATE} lists, got no {name}; copy or save it again"
            )
    return {name: directory / name for name in (STATE, *names)}


def saved_splits(directory: Path) -> list[str]:
    """Return the names of the splits of a saved `DatasetDict`."""
    splits = json_object(directory / SPLITS, f"{directory.name}/{SPLITS}").get("splits")
    return [str(split) for split in splits] if isinstance(splits, list) else []


def arrow_chunks(files: dict[str, Path], name: str) -> Iterator[Chunk]:
    """Yield the rows of the Arrow files of one saved data set, numbered through, a batch at a time in memory.

    Raises:
        Refusal: A file is cut or broken.
    """
    import pyarrow as pa

    row = 0
    for part, file in files.items():
        try:
            # Read rather than mapped: pages of a mapped file count as memory of the process.
            with closing(pa.OSFile(str(file))) as opened, pa.ipc.open_stream(opened) as batches:
                _refuse_same_names(batches.schema.names, name)
                for batch in batches:
                    yield from table_chunks(batch, name, row + 1)
                    row += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise Refusal(
                f"{name} must hold Arrow files that can be read, got a fault in {part} after row {row}: "
                f"{first_line(error)}"
            ) from error


def table_chunks(table: Any, name: str, first: int) -> Iterator[Chunk]:
    """Yield the rows of an Arrow table or record batch, the first of which is row `first`."""
    import pyarrow as pa

    pieces = max(1, -(-table.nbytes // CHUNK_BYTES), -(-len(table) // CHUNK_ROWS))
    step = max(1, -(-len(table) // pieces))
    for start in range(0, len(table), step):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write(table.slice(start, step))
        yield TableRows(name, first + start, sink.getvalue().to_pybytes())


def _refuse_same_names(columns: list[str], name: str) -> None:
    for place, column in enumerate(columns):
        if column in columns[:place]:
            raise Refusal(f"{name}: the names of columns must differ, got {column!r} for two")


def _decoder(schema: Any) -> Any:
    """Return what turns the columns of a row into their values: JSON that `datasets` keeps as text is parsed."""
    if b'"Json"' not in (schema.metadata or {}).get(b"huggingface", b""):
        return dict
    import datasets

    return datasets.Features.from_arrow_schema(schema).decode_example
