"""Pairs of an optimizer step into micro-batches."""

from collections.abc import Sequence

import torch
from torch import Tensor


def by_pairs(pairs: int, micro_batch: int) -> list[list[int]]:
    """Return the places of `pairs` pairs, `micro_batch` at a time, in their order."""
    return [list(range(start, min(start + micro_batch, pairs))) for start in range(0, pairs, micro_batch)]


def by_tokens(tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Return the places of pairs in as few micro-batches of at most `budget` tokens as balancing them needs.

    The longest pair goes first, each into the emptiest micro-batch; one beyond the budget stands alone.

    Args:
        tokens: Tokens of each pair's part of a row.
        budget: Most tokens of one micro-batch.
    """
    bins = max(1, -(-sum(tokens) // budget))
    order = sorted(range(len(tokens)), key=lambda place: -tokens[place])
    while True:
        parts = _balanced(tokens, order, bins)
        if _within(parts, tokens, budget):
            return [sorted(part) for part in parts if part]
        bins += 1


def by_turns(tokens: Sequence[int], budget: int, at_least: int = 1) -> list[list[int]]:
    """Return the places of pairs in micro-batches whose numbers of pairs follow from how many there are of both.

    The pairs, the longest first, are dealt out in turns, each turn the other way round. Processes that each cut as
    many pairs into as many micro-batches have as many pairs in each.

    Args:
        tokens: As of `by_tokens`.
        budget: As of `by_tokens`.
        at_least: Fewest micro-batches, 1 to as many as there are pairs.
    """
    order = sorted(range(len(tokens)), key=lambda place: -tokens[place])
    bins = at_least
    while True:
        parts: list[list[int]] = [[] for _ in range(bins)]
        for turn, place in enumerate(order):
            back, step = divmod(turn, bins)
            parts[bins - 1 - step if back % 2 else step].append(place)
        if _within(parts, tokens, budget):
            return [sorted(part) for part in parts]
        bins += 1


def _within(parts: Sequence[Sequence[int]], tokens: Sequence[int], budget: int) -> bool:
    return all(len(part) <= 1 or sum(tokens[place] for place in part) <= budget for part in parts)


def _balanced(tokens: Sequence[int], order: Sequence[int], bins: int) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in range(bins)]
    filled = [0] * bins
    for place in order:
        emptiest = filled.index(min(filled))
        parts[emptiest].append(place)
        filled[emptiest] += tokens[place]
    return parts


def part_of(batch: dict[str, Tensor], places: Sequence[int]) -> dict[str, Tensor]:
    """Return the pairs at `places` of a batch of `B` pairs, padded to the longest of them and no more.

    Args:
        batch: `row`, of shape `(B,)`, and TRL's tensors, of shape `(2 B, T)`, padded at the right.
        places: Of the pairs.
    """
    device = batch["row"].device
    pairs = torch.tensor(places, device=device)
    sequences = torch.cat([pairs, pairs + len(batch["row"])])
    width = int(batch["attention_mask"][sequences].sum(dim=1).max())
    return {name: each[pairs] if name == "row" else each[sequences, :width] for name, each in batch.items()}
