"""Pairs as the rest of preftune meets them: a choice of rows from one or more stores, in the order of their rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from preftune.data.store import Numbers, PairStore
from preftune.pairs import PreferencePair


class PairTable(Sequence[PreferencePair]):
    """Pairs on disk, read as they are asked for.

    Args:
        stores: One for each source.
        rows: Which pairs, counted through all stores one after another, rising; None for all.
        probabilities: By row, the probability that chosen is the better, where selection has merged pairs into one.
    """

    def __init__(
        self,
        stores: Sequence[PairStore],
        rows: Numbers | None = None,
        probabilities: Mapping[int, float] | None = None,
    ) -> None:
        self.stores = stores
        self.starts = np.cumsum([0, *(len(store) for store in stores)])
        self.rows = np.arange(self.starts[-1]) if rows is None else rows
        self.probabilities = probabilities or {}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, place: slice) -> "PairTable": ...
    def __getitem__(self, place: int | slice) -> "PreferencePair | PairTable":
        if isinstance(place, slice):
            if place.step is not None and place.step < 0:
                raise ValueError(f"step must be above 0, as pairs stay in the order of their rows, got {place.step}")
            return PairTable(self.stores, self.rows[place], self.probabilities)
        if not -len(self) <= place < len(self):
            raise IndexError(f"place must be below {len(self)}, got {place}")
        return next(iter(self[place : place + 1 or None]))

    def __iter__(self) -> Iterator[PreferencePair]:
        for number, store in enumerate(self.stores):
            start, end = np.searchsorted(self.rows, self.starts[number : number + 2])
            rows = self.rows[start:end]
            for row, pair in zip(rows.tolist(), store.pairs(rows - self.starts[number]), strict=True):
                if row in self.probabilities:
                    pair = replace(pair, extras={**pair.extras, "probability": self.probabilities[row]})
                yield pair

    def only(self, places: Numbers, probabilities: Mapping[int, float] | None = None) -> "PairTable":
        """Return the pairs at `places`, indices or a mask, in the order of the rows."""
        return PairTable(self.stores, np.sort(self.rows[places]), {**self.probabilities, **(probabilities or {})})

    def numbers(self, name: str) -> Numbers:
        """Return one of the numbers or keys of every pair, of shape `(pairs,)`."""
        columns = [store.numbers(name) for store in self.stores]
        whole = columns[0] if len(columns) == 1 else np.concatenate(columns)
        return whole if len(self.rows) == len(whole) else whole[self.rows]

    def extras(self) -> dict[str, Numbers]:
        """Return the numbers that travel with the pairs, by name, each of shape `(pairs,)`; NaN where there is none."""
        read = [store.extras() for store in self.stores]
        names = sorted(
            {name for extras in read for name in extras} | ({"probability"} if self.probabilities else set())
        )
        found = {}
        for name in names:
            parts = [
                extras.get(name, np.full(len(store), np.nan)) for store, extras in zip(self.stores, read, strict=True)
            ]
            found[name] = np.concatenate(parts)
        for row, probability in self.probabilities.items():
            found["probability"][row] = probability
        return {name: column[self.rows] for name, column in found.items()}

    def sources(self) -> Numbers:
        """Return the place of each pair's source among the stores, of shape `(pairs,)`."""
        return np.searchsorted(self.starts, self.rows, side="right") - 1

    def origins(self) -> Iterator[str]:
        """Yield where each pair came from, in order."""
        for number, store in enumerate(self.stores):
            start, end = np.searchsorted(self.rows, self.starts[number : number + 2])
            yield from store.origins(self.rows[start:end] - self.starts[number])

    def origin(self, place: int) -> str:
        """Return where a pair came from."""
        row = int(self.rows[place])
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.stores[number].origin(row - int(self.starts[number]))
