"""The pairs of one source on disk, and what is known of each of them without reading its text.

`pairs.arrow` holds texts and extras, some hundred pairs a batch, read batch by batch and never mapped: mapped pages
would count as memory. Each number that selection works on has a file of its own, one value after another.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from preftune.data.keys import KEY, PairKeys, keys_of
from preftune.pairs import PreferencePair

Numbers = NDArray[Any]

_NO_CHANCE = 12  # characters of a turn from which two answers do not both begin with it by chance
_PAIRS, _FACTS = "pairs.arrow", "facts.json"
_TEXTS = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt", "chosen", "rejected", "origin")),
        ("extras", pa.map_(pa.string(), pa.float64())),
    ]
)
_NUMBERS = np.dtype(
    [
        *((name, np.int8 if name == "is_first" else KEY) for name in PairKeys._fields),
        ("score", np.float64),  # NaN for a pair that has none
        ("ratio", np.float64),  # characters of the longer answer to those of the shorter
        ("repeats", np.int8),  # 1 where both answers begin with the user's last turn
    ]
)

Batches = tuple[pa.RecordBatch, Numbers]


def encoded(pairs: Iterable[PreferencePair]) -> Batches:
    """Return pairs as a batch of texts and a record array of numbers."""
    texts, numbers = [], []
    for pair in pairs:
        prompt = json.dumps(pair.prompt, ensure_ascii=False)
        keys = keys_of(pair, prompt)
        longer, shorter = sorted((len(pair.chosen), len(pair.rejected)), reverse=True)
        texts.append((prompt, pair.chosen, pair.rejected, pair.origin, list(pair.extras.items())))
        asked = pair.prompt[-1]["content"].strip()
        repeats = len(asked) >= _NO_CHANCE and pair.chosen.startswith(asked) and pair.rejected.startswith(asked)
        numbers.append((*keys, pair.extras.get("score", np.nan), longer / shorter, repeats))
    columns = list(zip(*texts, strict=True)) or [()] * len(_TEXTS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _TEXTS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_TEXTS), _records(numbers)


def write_store(directory: Path, batches: Iterable[Batches], facts: dict[str, Any]) -> None:
    """Write a store; `facts`, which JSON can hold, is read once the batches are written."""
    sizes = []
    with ExitStack() as opened:
        columns = {name: opened.enter_context((directory / name).open("wb")) for name in _NUMBERS.names or ()}
        file = opened.enter_context(pa.OSFile(str(directory / _PAIRS), "wb"))
        pairs = opened.enter_context(pa.ipc.new_file(file, _TEXTS))
        for texts, numbers in batches:
            pairs.write_batch(texts)
            sizes.append(texts.num_rows)
            for name, column in columns.items():
                column.write(numbers[name].tobytes())
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
        self._file = pa.OSFile(str(directory / _PAIRS))  # one for all: the directory may be removed while a run reads

    def __len__(self) -> int:
        return int(self.starts[-1])

    def numbers(self, name: str) -> Numbers:
        """Return one of the numbers or keys of every pair, of shape `(pairs,)`."""
        return np.fromfile(self.directory / name, _NUMBERS[name])

    def extras(self) -> dict[str, Numbers]:
        """Return the numbers that travel with the pairs, by name, each of shape `(pairs,)`; NaN where there is none."""
        found: dict[str, Numbers] = {}
        options = pa.ipc.IpcReadOptions(included_fields=[_TEXTS.get_field_index("extras")])
        reader = pa.ipc.open_file(self._file, options=options)
        for number, start in enumerate(self.starts[:-1]):
            batch = reader.get_batch(number).column(0)
            rows = start + np.repeat(np.arange(len(batch)), np.diff(batch.offsets.to_numpy()))
            names, values = batch.keys.to_numpy(zero_copy_only=False), batch.items.to_numpy(zero_copy_only=False)
            for name in np.unique(names.astype(str)):
                column = found.setdefault(str(name), np.full(len(self), np.nan))
                column[rows[names == name]] = values[names == name]
        return found

    def pairs(self, rows: Numbers) -> Iterator[PreferencePair]:
        """Yield the pairs at `rows`, which rise, batch by batch."""
        bounds = np.searchsorted(rows, self.starts)
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            places = pa.array(rows[bounds[number] : bounds[number + 1]] - self.starts[number])
            columns = self._texts.get_batch(number).take(places).columns
            for prompt, chosen, rejected, origin, extras in zip(*(c.to_pylist() for c in columns), strict=True):
                yield PreferencePair(tuple(json.loads(prompt)), chosen, rejected, origin, dict(extras))

    def origins(self, rows: Numbers) -> Iterator[str]:
        """Yield where the pairs at `rows`, which rise, came from; nothing else of them is read."""
        options = pa.ipc.IpcReadOptions(included_fields=[_TEXTS.get_field_index("origin")])
        reader = pa.ipc.open_file(self._file, options=options)
        bounds = np.searchsorted(rows, self.starts)
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            places = pa.array(rows[bounds[number] : bounds[number + 1]] - self.starts[number])
            yield from reader.get_batch(number).column(0).take(places).to_pylist()

    def origin(self, row: int) -> str:
        """Return where the pair at `row` came from."""
        batch = int(np.searchsorted(self.starts, row, side="right")) - 1
        return str(self._texts.get_batch(batch).column("origin")[row - int(self.starts[batch])].as_py())

    @functools.cached_property
    def _texts(self) -> Any:
        return pa.ipc.open_file(self._file)


def _records(numbers: list[tuple[Any, ...]]) -> Numbers:
    """Return the rows of `_NUMBERS`, whose keys are given as bytes."""
    columns = list(zip(*numbers, strict=True)) or [()] * len(_NUMBERS.names or ())
    records = np.empty(len(numbers), _NUMBERS)
    for name, column in zip(_NUMBERS.names or (), columns, strict=True):
        is_key = _NUMBERS[name] == KEY
        records[name] = np.frombuffer(b"".join(column), KEY) if is_key else column
    return records
