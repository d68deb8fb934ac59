"""Which pairs are trained on, chosen in a fixed order.

1. Validity: a wrong row stops the run, or is dropped where `on_bad_row` says so (`validity.py`).
2. Duplicates: of pairs with the same prompt and answers one is kept, the one with the highest score.
3. `max_length_ratio`: pairs of which one answer is that much longer than the other are dropped.
4. `min_margin`: pairs whose score is below it are dropped.
5. `top_k`: the pairs with the highest score are kept; ties are broken by content hash.
6. `max_rows`: the pairs with the lowest content hash are kept.
7. Held out: `test_size` prompts, chosen by a hash of seed and prompt, go with all their pairs to the
   held-out split. Where a split of its own is held out, it passes steps 1 and 2 instead, and pairs of
   train whose prompt stands in it are dropped.

No step depends on the order of the rows, and the pairs that are kept stay in that order.
"""

import hashlib
from collections.abc import Iterable

from preftune.data.ledger import SplitLedger, TopKCut
from preftune.data.settings import DataSettings
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal

Keyed = dict[str, PreferencePair]  # by content hash, in the order of the rows


def select(pairs: list[PreferencePair], settings: DataSettings, account: SplitLedger) -> list[PreferencePair]:
    """Return the pairs that steps 2 to 6 keep, and account for the others."""
    keyed = _without_duplicates(pairs, account)
    if settings.max_length_ratio is not None:
        keyed = _balanced(keyed, settings.max_length_ratio, account)
    if settings.min_margin is not None:
        keyed = _above(keyed, settings.min_margin, account)
    if settings.top_k is not None:
        order = sorted(keyed, key=lambda key: (-keyed[key].extras["score"], key))
        account.top_k = _cut([keyed[key].extras["score"] for key in order], settings.top_k)
        keyed = _only(keyed, order[: settings.top_k], "data.top_k", account)
    if settings.max_rows is not None:
        keyed = _only(keyed, sorted(keyed)[: settings.max_rows], "data.max_rows", account)
    return list(keyed.values())


def without_duplicates(pairs: list[PreferencePair], account: SplitLedger) -> list[PreferencePair]:
    """Return the pairs that step 2 keeps, and account for the others."""
    return list(_without_duplicates(pairs, account).values())


def hold_out(
    pairs: list[PreferencePair], test_size: float, split_seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return train and held-out pairs, which share no prompt.

    Args:
        pairs: What selection kept.
        test_size: Share of the prompts when below 1, at least one of them; their number otherwise.
        split_seed: Changes which prompts are held out.

    Raises:
        Refusal: No prompt would be left to train on.
    """

    def draw(prompt: str) -> bytes:
        return hashlib.sha256(f"{split_seed}:{prompt}".encode()).digest()

    prompts = [pair.prompt_hash() for pair in pairs]
    order = sorted(set(prompts), key=draw)
    count = max(1, round(test_size * len(order))) if test_size < 1 else int(test_size)
    if count >= len(order):
        raise Refusal(
            f"data.test_size must leave at least 1 of {len(order)} prompts to train on, got {test_size:g}, "
            f"which holds out {count}; lower it, or give more pairs with different prompts"
        )
    held = set(order[:count])
    sides: tuple[list[PreferencePair], list[PreferencePair]] = ([], [])
    for pair, prompt in zip(pairs, prompts, strict=True):
        sides[prompt in held].append(pair)
    return sides


def without_prompts_of(
    train: list[PreferencePair], held_out: list[PreferencePair], account: SplitLedger
) -> list[PreferencePair]:
    """Return the pairs of `train` whose prompt is not in `held_out`, and account for the others.

    Raises:
        Refusal: None is left.
    """
    held = {pair.prompt_hash() for pair in held_out}
    kept = [pair for pair in train if pair.prompt_hash() not in held]
    account.drop("prompt in the held-out split", len(train) - len(kept))
    if not kept:
        raise Refusal(
            f"data.test_split must leave pairs to train on, got the prompts of all {len(train)} in it; "
            "set data.test_split=null to hold out data.test_size of data.split"
        )
    return kept


def _without_duplicates(pairs: Iterable[PreferencePair], account: SplitLedger) -> Keyed:
    kept: Keyed = {}
    dropped = 0
    for pair in pairs:
        key = pair.content_hash()
        dropped += key in kept
        if key not in kept or _strength(pair) > _strength(kept[key]):
            kept[key] = pair
    account.drop("duplicate", dropped)
    return kept


def _strength(pair: PreferencePair) -> tuple[float, list[tuple[str, float]]]:
    # Of equal scores the ratings decide, so that the extras that are kept do not depend on row order either.
    return pair.extras.get("score", 0.0), sorted(pair.extras.items())


def _balanced(keyed: Keyed, limit: float, account: SplitLedger) -> Keyed:
    kept = {key: pair for key, pair in keyed.items() if _length_ratio(pair) <= limit}
    account.drop("beyond data.max_length_ratio", len(keyed) - len(kept))
    if not kept:
        lowest = min(_length_ratio(pair) for pair in keyed.values())
        raise Refusal(
            f"data.max_length_ratio must be at least {lowest:.3g}, the lowest of {len(keyed)} pairs, got {limit:g}"
        )
    return kept


def _length_ratio(pair: PreferencePair) -> float:
    longer, shorter = sorted((len(pair.chosen), len(pair.rejected)), reverse=True)
    return longer / shorter


def _above(keyed: Keyed, min_margin: float, account: SplitLedger) -> Keyed:
    kept = {key: pair for key, pair in keyed.items() if pair.extras["score"] >= min_margin}
    account.drop("below data.min_margin", len(keyed) - len(kept))
    if not kept:
        highest = max(pair.extras["score"] for pair in keyed.values())
        raise Refusal(
            f"data.min_margin must be at most {highest:g}, the highest score of {len(keyed)} pairs, got {min_margin:g}"
        )
    return kept


def _cut(scores: list[float], top_k: int) -> TopKCut | None:
    """Return where `top_k` cuts `scores`, which fall."""
    if len(scores) <= top_k:
        return None
    lowest = scores[top_k - 1]
    return TopKCut(lowest, kept=scores[:top_k].count(lowest), dropped=scores[top_k:].count(lowest))


def _only(keyed: Keyed, keys: list[str], setting: str, account: SplitLedger) -> Keyed:
    account.drop(f"beyond {setting}", len(keyed) - len(keys))
    wanted = set(keys)
    return {key: pair for key, pair in keyed.items() if key in wanted}
