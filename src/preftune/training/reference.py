"""The reference, once: its log-probabilities of every pair are computed before training, or come from an earlier run.

What is found on the disk is trusted after a few pairs, drawn at random, were scored afresh and came out the same.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.progress import Progress
from rich.text import Text
from torch import Tensor

from preftune.data.store import Numbers
from preftune.refusals import RunFailed
from preftune.training.reference_keys import row_digests
from preftune.training.reference_store import ReferenceStore

_PROBES = 4  # pairs scored afresh
_AFTER = 60.0  # seconds of scoring that a killed run may lose
_LONG = 200  # pairs from which scoring shows a bar

Score = Callable[[Sequence[Mapping[str, Any]]], tuple[Tensor, Tensor]]
"""Gives the log-probabilities of rows under the reference, of shape `(2 B, T - 1)`, and the mask of completions."""


class KeptReference:
    """The log-probabilities of the pairs of one split, on disk."""

    def __init__(self, store: ReferenceStore, rows: Dataset) -> None:
        """Find each of `rows`, all of which `store` holds."""
        self.store = store
        row = rows.data.column("row").to_numpy()
        self._places = np.full(row.max(initial=-1) + 1, -1)
        self._places[row] = store.find(row_digests(rows))

    def of(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Return the log-probabilities of pairs, in nats, where their completions are, 0 elsewhere.

        Args:
            rows: The pairs' places in their table, of shape `(B,)`.
            mask: True where the next token belongs to the completion, of shape `(2 B, T - 1)`.
        """
        places = self._places[rows.cpu().numpy()].tolist()
        split = [np.split(self.store.values(place), [self.store.lengths(place)[0]]) for place in places]
        values = np.concatenate([part for side in (0, 1) for part in (pair[side] for pair in split)])
        found = torch.from_numpy(values).to(mask.device)
        return found.new_zeros(mask.shape).masked_scatter(mask, found)


def kept(
    store: ReferenceStore,
    splits: Mapping[str, Dataset],
    score: Score,
    *,
    at_once: int,
    tolerance: float,
    console: Console,
) -> tuple[dict[str, KeptReference], int]:
    """Return what is kept of each split, and how many pairs had to be computed: by one process at a time.

    Args:
        store: Of this reference.
        splits: Rows of token ids, by name.
        score: Scores rows under the reference.
        at_once: Pairs scored at once.
        tolerance: Most by which two ways to a log-probability may differ, in nats per token.
        console: Where to say what is done.
    """
    with store.lock():
        if (difference := _probed(store, splits, score)) > tolerance:
            console.print(
                Text(
                    "warning: the reference's kept log-probabilities differ from those of its weights by "
                    f"{difference:.2g} nats a token, more than {tolerance:g}; all are computed again",
                    "yellow",
                )
            )
            store.discard()
        computed = sum(_complete(store, rows, score, at_once, console) for rows in splits.values())
    return {name: KeptReference(store, rows) for name, rows in splits.items()}, computed


def _probed(store: ReferenceStore, splits: Mapping[str, Dataset], score: Score) -> float:
    """Return the largest difference per token between what is kept of a few pairs and what they score now."""
    largest = 0.0
    for rows in splits.values():
        found = np.flatnonzero(store.find(row_digests(rows)) >= 0).tolist()
        for place in random.SystemRandom().sample(found, min(_PROBES, len(found))):  # leaves the run's own draws alone
            row = rows.select([place])
            now, mask = score([row[0]])
            before = KeptReference(store, row).of(torch.tensor(row["row"][:]), mask.cpu())
            apart = (before.double() - now.double().cpu()).sum(dim=1).abs() / mask.cpu().sum(dim=1)
            largest = max(largest, apart.max().item())
    return largest


def _complete(store: ReferenceStore, rows: Dataset, score: Score, at_once: int, console: Console) -> int:
    """Score the rows that are missing, and return how many they are.

    The longest come first, so that what does not fit the memory fails at once.
    """
    digests = row_digests(rows)
    missing = np.flatnonzero(store.find(digests) < 0)
    order = missing[np.argsort(-_tokens(rows)[missing], kind="stable")]
    batches = [order[start : start + at_once] for start in range(0, len(order), at_once)]
    values: list[Numbers] = []
    lengths: list[Numbers] = []
    done, since = 0, time.monotonic()
    with Progress(console=console, disable=len(order) < _LONG) as progress:
        for batch in progress.track(batches, description="reference"):
            found, mask = score(list(rows.select(batch)))
            if not bool(found.isfinite().all()):
                raise RunFailed(
                    "the reference's log-probabilities must be finite, got NaN or infinity: its weights hold a number "
                    "that is not, or overflow in what they compute in; check the files of the model, or set model.dtype"
                )
            counts = mask.sum(dim=1).view(2, -1).T.cpu().numpy()
            values += _by_pair(found[mask].cpu().numpy(), counts)
            lengths.append(counts)
            if time.monotonic() - since > _AFTER or batch is batches[-1]:
                upto = done + sum(map(len, lengths))
                store.add(digests[order[done:upto]], np.concatenate(values), np.concatenate(lengths))
                values, lengths, done, since = [], [], upto, time.monotonic()
    return len(order)


def _tokens(rows: Dataset) -> Numbers:
    columns = (rows.data.column(f"{name}_ids") for name in ("prompt", "chosen", "rejected"))
    total: Numbers = sum(np.diff(column.combine_chunks().offsets.to_numpy()) for column in columns)
    return total


def _by_pair(values: Numbers, counts: Numbers) -> list[Numbers]:
    """Reorder values, first of all chosen and then of all rejected completions, to one array a pair after the other."""
    parts = np.split(values, np.cumsum(counts.T.ravel())[:-1])
    pairs = len(counts)
    return [part for pair in range(pairs) for part in (parts[pair], parts[pairs + pair])]
