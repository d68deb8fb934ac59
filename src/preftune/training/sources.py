"""Held-out pairs by where they came from, so that a mean over all hides no source that goes the other way."""

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from preftune.data.store import Numbers
from preftune.data.table import PairTable

FEWEST, MOST = 2, 20
_ROW = re.compile(r"(.*?):\d+(?:[#+].*)?")  # `file:12`, `id[split]:3`, `file:12#1`, `file:12+13`


@dataclass(frozen=True)
class Sources:
    """The sources of a table of pairs.

    Attributes:
        names: What they are called; empty where there are fewer than `FEWEST` or more than `MOST`.
        numbers: The place of each pair's source in `names`, of shape `(pairs,)`; empty where there are no names.
    """

    names: tuple[str, ...]
    numbers: Numbers

    @classmethod
    def of(cls, pairs: PairTable, given: Numbers | None = None) -> "Sources":
        """Return the sources of `pairs`.

        Args:
            pairs: All of them are asked for their origin.
            given: The number `source` that travels with each pair, NaN where one has none; it comes before the origin.
        """
        found = np.array([source_name(origin) for origin in pairs.origins()], dtype=object)
        if given is not None:
            known = ~np.isnan(given)
            found[known] = [f"{number:g}" for number in given[known]]
        names, numbers = np.unique(found.astype(str), return_inverse=True)
        if not FEWEST <= len(names) <= MOST:
            return cls((), np.empty(0, np.int64))
        return cls(tuple(names.tolist()), numbers)

    def at(self, places: Tensor) -> Tensor:
        """Return the numbers of the pairs at `places`, of their shape."""
        return torch.from_numpy(self.numbers)[places.cpu()]


def source_name(origin: str) -> str:
    """Return an origin without its row.

    Example:
        >>> source_name("pairs.jsonl:12"), source_name("org/set[train]:3"), source_name("a.jsonl:4+b.jsonl:7")
        ('pairs.jsonl', 'org/set[train]', 'a.jsonl')
    """
    match = _ROW.fullmatch(origin)
    return match[1] if match else origin
