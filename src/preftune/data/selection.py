"""Which pairs are trained on, chosen in a fixed order.

1. Validity: a wrong row stops the run, or is dropped where `on_bad_row` says so (`reading.py`).
2. `conflicts`: answers to one prompt that are preferred in both orders are kept, dropped, or merged.
3. `duplicates`: of pairs with the same prompt and answers one is kept, the one with the highest score; then, of pairs
   that are the same but for case, white space and Unicode form.
4. `ties`: pairs with a score of 0 are dropped where asked.
5. `min_margin`: pairs whose score is below it are dropped.
6. `max_length_ratio`: pairs of which one answer is that much longer than the other are dropped.
7. `top_k`: the pairs with the highest score are kept; ties are broken by content hash.
8. `mix`: of each source as many are kept as its weight allows, those with the lowest content hash.
9. `max_rows`: the pairs with the lowest content hash are kept.
10. Held out: `test_size` prompts, chosen by a hash of seed and prompt, go with all their pairs to the held-out
    split. Where a split of its own is held out, it passes steps 1 to 3 instead, and pairs of train whose prompt
    stands in it are dropped. Prompts that differ in case and white space alone are the same.

No step depends on the order of the rows, and the pairs that are kept stay in that order.
"""

import math
from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

import numpy as np

from preftune.data.ledger import SplitLedger, TopKCut
from preftune.data.settings import DataSettings
from preftune.data.store import Numbers
from preftune.data.table import PairTable
from preftune.refusals import Refusal


class Keyed(Protocol):
    """Rows of which each has a digest of its prompt."""

    def __len__(self) -> int: ...

    def numbers(self, name: str, /) -> Numbers:
        """Return the digest `name` of every row."""

    def only(self, places: Numbers, /) -> Self:
        """Return the rows at `places`."""


Table = TypeVar("Table", bound=Keyed)


def select(table: PairTable, settings: DataSettings, account: SplitLedger) -> PairTable:
    """Return the pairs that steps 2 to 9 keep, and account for the others."""
    table = without_duplicates(table, settings, account)
    if settings.ties == "drop":
        table = _kept(table, table.numbers("score") != 0, "tie in the score", account)
    if settings.min_margin is not None:
        table = _above(table, settings.min_margin, account)
    if settings.max_length_ratio is not None:
        table = _balanced(table, settings.max_length_ratio, account)
    if settings.top_k is not None:
        table = _strongest(table, settings.top_k, account)
    if settings.mix is not None:
        table = _shared_out(table, [source.weight for source in settings.mix], account)
    if settings.max_rows is not None:
        kept = _by_content(table)[: settings.max_rows]
        table = _kept(table, _mask(table, kept), "beyond data.max_rows", account)
    return table


def without_duplicates(table: PairTable, settings: DataSettings, account: SplitLedger) -> PairTable:
    """Return the pairs that steps 2 and 3 keep, and account for the others."""
    table = _without_conflicts(table, settings.conflicts, account)
    if settings.duplicates != "keep":
        table = _kept(table, _first_of_each(table, "content"), "duplicate", account)
    if settings.duplicates == "normalized":
        table = _kept(table, _first_of_each(table, "normalized"), "duplicate but for case or space", account)
    return table


def hold_out(table: Table, test_size: float, split_seed: int) -> tuple[Table, Table]:
    """Return train and held-out pairs, which share no prompt.

    Args:
        table: What selection kept.
        test_size: Share of the prompts when below 1, at least one of them; their number otherwise.
        split_seed: Changes which prompts are held out.

    Raises:
        Refusal: No prompt would be left to train on.
    """
    keys = table.numbers("prompt")
    group = _groups(keys)
    prompts = int(group.max()) + 1
    count = max(1, round(test_size * prompts)) if test_size < 1 else int(test_size)
    if count >= prompts:
        raise Refusal(
            f"data.test_size must leave at least 1 of {prompts} prompts to train on, got {test_size:g}, "
            f"which holds out {count}; lower it, or give more pairs with different prompts"
        )
    digests = np.empty(prompts, np.uint64)
    digests[group] = keys["high"]
    held = np.zeros(prompts, bool)
    draws = _mixed(digests ^ _mixed(np.array([split_seed + 1]).astype(np.uint64)))
    held[np.argsort(draws, kind="stable")[:count]] = True
    return table.only(~held[group]), table.only(held[group])


def without_prompts_of(train: Table, held_out: Table, account: SplitLedger) -> Table:
    """Return the pairs of `train` whose prompt is not in `held_out`, and account for the others.

    Raises:
        Refusal: None is left.
    """
    ours, theirs = train.numbers("prompt"), held_out.numbers("prompt")
    group = _groups(np.concatenate([ours, theirs]))
    kept = ~np.isin(group[: len(ours)], group[len(ours) :])
    account.shared_prompts = len(np.unique(group[: len(ours)][~kept]))
    account.drop("prompt in the held-out split", int((~kept).sum()))
    if not kept.any():
        raise Refusal(
            f"data.test_split must leave pairs to train on, got the prompts of all {len(train)} in it; "
            "set data.test_split=null to hold out data.test_size of data.split"
        )
    return train.only(kept)


def _without_conflicts(table: PairTable, policy: str, account: SplitLedger) -> PairTable:
    group = _groups(table.numbers("unordered"))
    first = table.numbers("is_first").astype(bool)
    of_group = np.bincount(group, weights=first)
    both = ((of_group > 0) & (of_group < np.bincount(group)))[group]
    account.conflicting = int(both.sum())
    if policy == "drop":
        return _kept(table, ~both, "in conflict with another pair", account)
    if policy == "merge":
        merged = _merged(table, np.flatnonzero(both), group, first)
        return _kept(table, ~both, "merged with a pair in conflict", account, also=merged)
    return table


def _merged(table: PairTable, places: Numbers, group: Numbers, first: Numbers) -> dict[int, float]:
    """Return, for each group of pairs in conflict, the place of the pair that stands for it, and its probability."""
    votes: dict[int, list[float]] = {}
    pairs = zip(places.tolist(), table.only(places), strict=True)
    chances = {place: pair.extras.get("probability", 1.0) for place, pair in pairs}
    for place, chance in chances.items():
        votes.setdefault(int(group[place]), []).append(chance if first[place] else 1 - chance)
    standing = {}
    for place in places[_by_strength(table, places)].tolist():
        share = math.fsum(votes[group[place]]) / len(votes[group[place]]) if group[place] in votes else None
        if share is not None and bool(first[place]) == (share >= 0.5):
            standing[place] = share if first[place] else 1 - share
            del votes[group[place]]
    return standing


def _first_of_each(table: PairTable, key: str) -> Numbers:
    """Return a mask of the pairs that are kept: of those with the same `key`, the strongest."""
    group = _groups(table.numbers(key))
    several = np.flatnonzero(np.bincount(group)[group] > 1)
    ordered = several[_by_strength(table, several)]
    _, best = np.unique(group[ordered], return_index=True)
    kept = np.ones(len(group), bool)
    kept[several] = False
    kept[ordered[best]] = True
    return kept


def _by_strength(table: PairTable, places: Numbers) -> Numbers:
    """Return the order of the pairs at `places`: highest score first, then by content and extras, not by row."""
    keys = [table.numbers(name)[places] for name in ("carried", "content")]
    words = [key[word] for key in keys for word in ("low", "high")]
    return np.lexsort((*words, -np.nan_to_num(table.numbers("score")[places])))


def _by_content(table: PairTable) -> Numbers:
    keys = [table.numbers(name) for name in ("carried", "content")]  # copies that are kept may carry other numbers
    return np.lexsort([key[word] for key in keys for word in ("low", "high")])


def _above(table: PairTable, min_margin: float, account: SplitLedger) -> PairTable:
    scores = table.numbers("score")
    kept = scores >= min_margin
    if np.isfinite(scores).any() and not kept.any():
        raise Refusal(
            f"data.min_margin must be at most {np.nanmax(scores):g}, the highest score of {len(table)} pairs, "
            f"got {min_margin:g}"
        )
    return _kept(table, kept, "below data.min_margin", account)


def _balanced(table: PairTable, limit: float, account: SplitLedger) -> PairTable:
    ratios = table.numbers("ratio")
    kept = ratios <= limit
    if not kept.any():
        raise Refusal(
            f"data.max_length_ratio must be at least {ratios.min():.3g}, the lowest of {len(table)} pairs, "
            f"got {limit:g}"
        )
    return _kept(table, kept, "beyond data.max_length_ratio", account)


def _strongest(table: PairTable, top_k: int, account: SplitLedger) -> PairTable:
    scores, by_content = table.numbers("score"), _by_content(table)
    order = by_content[np.argsort(-scores[by_content], kind="stable")]
    if len(order) > top_k:
        lowest = scores[order[top_k - 1]]
        kept, dropped = (int((scores[some] == lowest).sum()) for some in (order[:top_k], order[top_k:]))
        account.top_k = TopKCut(float(lowest), kept, dropped)
    return _kept(table, _mask(table, order[:top_k]), "beyond data.top_k", account)


def _shared_out(table: PairTable, weights: Sequence[float], account: SplitLedger) -> PairTable:
    sources, by_content = table.sources(), _by_content(table)
    shares = np.array(weights) / sum(weights)
    there = np.bincount(sources, minlength=len(weights))
    total = (there / shares).min()
    kept = [by_content[sources[by_content] == n][: round(share * total)] for n, share in enumerate(shares)]
    if not all(len(part) for part in kept):
        counts = ", ".join(f"{len(part)} of {there[n]} of data.mix[{n}]" for n, part in enumerate(kept))
        raise Refusal(
            f"data.mix must leave pairs of each source, got {counts}; take the empty one out, or change the weights"
        )
    return _kept(table, _mask(table, np.concatenate(kept)), "beyond the weights of data.mix", account)


def _kept(
    table: PairTable, kept: Numbers, reason: str, account: SplitLedger, also: dict[int, float] | None = None
) -> PairTable:
    """Return the pairs of the mask `kept` and those at the places of `also`, with their probabilities."""
    also = also or {}
    kept[list(also)] = True
    account.drop(reason, int((~kept).sum()))
    if not kept.any():
        raise Refusal(
            f"{account.source} must keep at least one pair, got none: the last {len(table)} are dropped as {reason!r}"
        )
    return table.only(kept, {int(table.rows[place]): chance for place, chance in also.items()})


def _mask(table: PairTable, places: Numbers) -> Numbers:
    mask = np.zeros(len(table), bool)
    mask[places] = True
    return mask


def _groups(keys: Numbers) -> Numbers:
    """Return for each key a number, the same for equal keys, rising with them."""
    order = np.argsort(keys["high"], kind="stable")
    ordered = keys[order]
    other = ordered[1:] != ordered[:-1]
    if (other & (ordered["high"][1:] == ordered["high"][:-1])).any():  # the half does not tell them apart
        order = np.lexsort((keys["low"], keys["high"]))
        other = keys[order[1:]] != keys[order[:-1]]
    numbers = np.zeros(len(order), np.int64)
    numbers[order[1:]] = np.cumsum(other)
    return numbers


def _mixed(words: Numbers) -> Numbers:
    """Scatter 64-bit words over all of their range: the finaliser of SplitMix64, Steele et al. 2014."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: Numbers = words ^ (words >> np.uint64(31))
    return scattered
