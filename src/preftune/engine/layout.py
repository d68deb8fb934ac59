"""Pairs laid out in one row, so that every token that both answers share is there once.

1. A pair becomes a trunk, which is the longest common beginning of prompt and chosen and of prompt and rejected, and
   two branches: what follows in chosen, and what follows in rejected.
2. The row holds trunk, chosen branch and rejected branch of each pair, one pair after the other, without padding.
3. A token attends to the trunk of its pair and to its own branch; positions go on from the trunk in both branches.
4. Each completion token is read off the hidden state of the token before it on its own path.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Branches:
    """Where one pair stands in the row: `chosen` and `rejected` count tokens after the `trunk`."""

    start: int
    trunk: int
    chosen: int
    rejected: int

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens of trunk and chosen branch together, which are one causal sequence, and of the rejected branch."""
        return self.trunk + self.chosen, self.rejected


@dataclass(frozen=True, slots=True)
class Layout:
    """A micro-batch of `B` pairs as one row of `N` tokens, and the way back to TRL's `(2 B, T - 1)`.

    Attributes:
        ids: Token ids, of shape `(1, N)`.
        positions: Position of each token on its path, of shape `(1, N)`.
        branches: Where each pair stands.
        places: Where in the row the hidden state of each score stands, of shape `(M,)`.
        labels: The token that each score is of, of shape `(M,)`.
        sources: Which score belongs to each completion token, in the order of the mask, of shape `(C,)`; a token of
            the trunk that both answers complete with is scored once.
        mask: True where the next token belongs to the completion, of shape `(2 B, T - 1)`.
    """

    ids: Tensor
    positions: Tensor
    branches: tuple[Branches, ...]
    places: Tensor
    labels: Tensor
    sources: Tensor
    mask: Tensor

    def spread(self, scores: Tensor) -> Tensor:
        """Return `scores`, of shape `(M,)`, at their completion tokens in `(2 B, T - 1)`, 0 elsewhere."""
        return scores.new_zeros(self.mask.shape).masked_scatter(self.mask, scores[self.sources])


def lay_out(input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Layout:
    """Lay out the pairs of a batch of TRL's collator.

    Args:
        input_ids: Of shape `(2 B, T)`: prompt and chosen in the first half, prompt and rejected in the second, padded
            at the right.
        attention_mask: 1 at tokens, 0 at padding, of the same shape.
        completion_mask: 1 at tokens of the completion, which is the end of its sequence, of the same shape.
    """
    ids = input_ids.cpu().numpy()
    lengths = attention_mask.sum(dim=1).tolist()
    prompts = (attention_mask.sum(dim=1) - completion_mask.sum(dim=1)).tolist()
    half = len(ids) // 2
    pairs = [
        _Pair(ids[pair, : lengths[pair]], ids[half + pair, : lengths[half + pair]], prompts[pair], prompts[half + pair])
        for pair in range(half)
    ]
    starts = np.cumsum([0, *(pair.tokens for pair in pairs)])
    scored = np.cumsum([0, *(len(pair.chosen_places) for pair in pairs)])
    rejected = np.cumsum([scored[-1], *(len(pair.rejected_places) for pair in pairs)])
    placed = list(zip(pairs, starts[:-1].tolist(), strict=True))
    device = input_ids.device

    def tensor(parts: list[Any]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)

    return Layout(
        ids=tensor([part for pair in pairs for part in (pair.chosen_ids, pair.rejected_ids[pair.trunk :])])[None],
        positions=tensor([part for pair in pairs for part in pair.positions()])[None],
        branches=tuple(pair.branches(start) for pair, start in placed),
        places=tensor(
            [start + pair.chosen_places for pair, start in placed]
            + [start + pair.rejected_places for pair, start in placed]
        ),
        labels=tensor([pair.chosen_labels for pair in pairs] + [pair.rejected_labels for pair in pairs]),
        sources=tensor(
            [np.arange(scored[-1])]
            + [
                part
                for pair, first, after in zip(pairs, scored[:-1], rejected[:-1], strict=True)
                for part in (first + np.arange(pair.both), after + np.arange(len(pair.rejected_places)))
            ]
        ),
        mask=completion_mask[:, 1:].bool(),
    )


def pair_tokens(input_ids: Tensor, attention_mask: Tensor) -> list[int]:
    """Return how many tokens of a row each pair of a batch takes up; arguments as of `lay_out`."""
    lengths = attention_mask.sum(dim=1)
    chosen, rejected = input_ids.chunk(2)
    shortest = torch.minimum(*lengths.chunk(2))
    within = torch.arange(input_ids.shape[1], device=input_ids.device) < shortest[:, None]
    trunks = ((chosen == rejected) & within).int().cumprod(dim=1).sum(dim=1)
    return (lengths.chunk(2)[0] + lengths.chunk(2)[1] - trunks).tolist()


def allowed(layout: Layout) -> Tensor:
    """Return the mask of the row, of shape `(1, 1, N, N)`: True where a token may attend to another."""
    keys, trunk_ends, own_starts = (torch.tensor(column, device=layout.ids.device) for column in _bounds(layout))
    place = torch.arange(len(keys), device=layout.ids.device)
    before = place[None, :] <= place[:, None]
    in_trunk = (place[None, :] >= keys[:, None]) & (place[None, :] < trunk_ends[:, None])
    in_branch = place[None, :] >= own_starts[:, None]
    return (before & (in_trunk | in_branch))[None, None]


def _bounds(layout: Layout) -> tuple[list[int], list[int], list[int]]:
    """Return for each token where its trunk starts and ends, and where its own branch starts."""
    columns: tuple[list[int], list[int], list[int]] = ([], [], [])
    for each in layout.branches:
        first, second = each.sizes
        for column, values in zip(
            columns, ((each.start,) * 2, (each.start + each.trunk,) * 2, (each.start, each.start + first)), strict=True
        ):
            column += [values[0]] * first + [values[1]] * second
    return columns


class _Pair:
    """One pair on its way into the row; places count from the pair's start."""

    def __init__(self, chosen_ids: Indices, rejected_ids: Indices, chosen_prompt: int, rejected_prompt: int) -> None:
        self.chosen_ids, self.rejected_ids = chosen_ids, rejected_ids
        shortest = min(len(chosen_ids), len(rejected_ids))
        differ = np.flatnonzero(chosen_ids[:shortest] != rejected_ids[:shortest])
        self.trunk = int(differ[0]) if len(differ) else shortest
        self.both = max(0, self.trunk - rejected_prompt) if chosen_prompt == rejected_prompt else 0
        self.chosen_places = np.arange(chosen_prompt, len(chosen_ids)) - 1
        self.chosen_labels = chosen_ids[chosen_prompt:]
        first = rejected_prompt + self.both
        before = np.arange(first, len(rejected_ids)) - 1
        self.rejected_places = np.where(before < self.trunk, before, before - self.trunk + len(chosen_ids))
        self.rejected_labels = rejected_ids[first:]

    @property
    def tokens(self) -> int:
        return len(self.chosen_ids) + len(self.rejected_ids) - self.trunk

    def positions(self) -> Iterator[Indices]:
        yield np.arange(len(self.chosen_ids))
        yield np.arange(self.trunk, len(self.rejected_ids))

    def branches(self, start: int) -> Branches:
        return Branches(start, self.trunk, len(self.chosen_ids) - self.trunk, len(self.rejected_ids) - self.trunk)
