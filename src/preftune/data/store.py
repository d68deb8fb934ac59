"""The pairs of one source on disk, and what is known of each of them without reading its text.

`pairs.arrow` holds the texts, some hundred pairs a batch; `index.arrow` holds, in the same batches, the numbers that
selection works on. Texts are read batch by batch from the file and never mapped: mapped pages would count as memory.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from preftune.data.keys import KEY, PairKeys, keys_of
from preftune.pairs import PreferencePair

Numbers = NDArray[Any]

_PAIRS, _INDEX, _FACTS = "pairs.arrow", "index.arrow", "facts.json"
_TEXTS = pa.schema([(name, pa.string()) for name in ("prompt", "chosen", "rejected", "origin")])
_NUMBERS = pa.schema(
    [
        ("extras", pa.map_(pa.string(), pa.float64())),
        *((name, pa.int8() if name == "is_first" else pa.binary(KEY.itemsize)) for name in PairKeys._fields),
        ("score", pa.float64()),
        ("ratio", pa.float64()),
    ]
)

Batches = tuple[pa.RecordBatch, pa.RecordBatch]


def encoded(pairs: Iterable[PreferencePair]) -> Batches:
    """Return pairs as a batch of texts and a batch of numbers."""
    texts, numbers = [], []
    for pair in pairs:
        prompt = json.dumps(pair.prompt, ensure_ascii=False)
        keys = keys_of(pair, prompt)
        longer, shorter = sorted((len(pair.chosen), len(pair.rejected)), reverse=True)
        texts.append((prompt, pair.chosen, pair.rejected, pair.origin))
        numbers.append((list(pair.extras.items()), *keys, pair.extras.get("score"), longer / shorter))
    return _batch(texts, _TEXTS), _batch(numbers, _NUMBERS)


def write_store(directory: Path, batches: Iterable[Batches], facts: dict[str, Any]) -> None:
    """Write a store; `facts`, which JSON can hold, is read once the batches are written."""
    sizes = []
    with (
        pa.OSFile(str(directory / _PAIRS), "wb") as pair_file,
        pa.ipc.new_file(pair_file, _TEXTS) as pairs,
        pa.OSFile(str(directory / _INDEX), "wb") as index_file,
        pa.ipc.new_file(index_file, _NUMBERS) as index,
    ):
        for texts, numbers in batches:
            pairs.write_batch(texts)
            index.write_batch(numbers)
            sizes.append(texts.num_rows)
    (directory / _FACTS).write_text(json.dumps({"sizes": sizes, **facts}), encoding="utf-8")


class PairStore:
    """The valid pairs of one source, as `write_store` left them.

    Attributes:
        facts: What was kept beside the pairs.
        starts: Place of the first pair of each batch, and at the end the number of pairs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.facts: dict[str, Any] = json.loads((directory / _FACTS).read_text(encoding="utf-8"))
        self.starts = np.cumsum([0, *self.facts["sizes"]])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def keys(self, name: str) -> Numbers:
        """Return one of the keys of every pair, of shape `(pairs,)`, of type `KEY` in native byte order."""
        batches = self._column(name)
        read = [np.frombuffer(b.buffers()[1], KEY)[b.offset : b.offset + len(b)] for b in batches]
        return np.concatenate([np.empty(0, KEY), *read])

    def numbers(self, name: str) -> Numbers:
        """Return one of the numbers of every pair, of shape `(pairs,)`; NaN where a pair has none."""
        read = [batch.to_numpy(zero_copy_only=False) for batch in self._column(name)]
        return np.concatenate([np.empty(0), *read])

    def extras(self) -> dict[str, Numbers]:
        """Return the numbers that travel with the pairs, by name, each of shape `(pairs,)`; NaN where there is none."""
        found: dict[str, Numbers] = {}
        for start, batch in zip(self.starts[:-1], self._column("extras"), strict=True):
            rows = start + np.repeat(np.arange(len(batch)), np.diff(batch.offsets.to_numpy()))
            names, values = batch.keys.to_numpy(zero_copy_only=False), batch.items.to_numpy(zero_copy_only=False)
            for name in np.unique(names.astype(str)):
                column = found.setdefault(str(name), np.full(len(self), np.nan))
                column[rows[names == name]] = values[names == name]
        return found

    def pairs(self, rows: Numbers) -> Iterator[PreferencePair]:
        """Yield the pairs at `rows`, which rise, batch by batch."""
        holding = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(holding).tolist():
            places = pa.array(rows[holding == number] - self.starts[number])
            texts = self._texts.get_batch(number).take(places).columns
            extras = self._extras.get_batch(number).column(0).take(places)
            for prompt, chosen, rejected, origin, carried in zip(
                *(c.to_pylist() for c in (*texts, extras)), strict=True
            ):
                yield PreferencePair(tuple(json.loads(prompt)), chosen, rejected, origin, dict(carried))

    def origin(self, row: int) -> str:
        """Return where the pair at `row` came from."""
        batch = int(np.searchsorted(self.starts, row, side="right")) - 1
        return str(self._texts.get_batch(batch).column("origin")[row - int(self.starts[batch])].as_py())

    @functools.cached_property
    def _texts(self) -> Any:
        return pa.ipc.open_file(pa.OSFile(str(self.directory / _PAIRS)))

    @functools.cached_property
    def _extras(self) -> Any:
        return self._reader("extras")

    def _column(self, name: str) -> list[Any]:
        reader = self._reader(name)
        return [reader.get_batch(number).column(0) for number in range(reader.num_record_batches)]

    def _reader(self, name: str) -> Any:
        options = pa.ipc.IpcReadOptions(included_fields=[_NUMBERS.get_field_index(name)])
        return pa.ipc.open_file(pa.OSFile(str(self.directory / _INDEX)), options=options)


def _batch(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
