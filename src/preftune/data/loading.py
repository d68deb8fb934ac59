"""From settings to the pairs of a run: read, check, select, hold out, and account for every row."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from preftune.data.ledger import Ledger, SplitLedger
from preftune.data.selection import hold_out, select, without_duplicates, without_prompts_of
from preftune.data.settings import DataSettings
from preftune.data.sources import source_chunks, source_name
from preftune.data.validity import read_pairs, refuse_wrong_rows
from preftune.pairs import PreferencePair, faults
from preftune.refusals import Refusal


@dataclass(frozen=True)
class PreparedPairs:
    """What a run trains on and what it is measured on.

    Attributes:
        train: Pairs to train on, in the order of their rows.
        held_out: Pairs to evaluate on; no prompt of theirs is in `train`.
        ledger: What became of every row.
        true_reward: The known reward of a text, where the data come from the toy world.
        fingerprint: Hex digest of the content of both splits, in order.
    """

    train: list[PreferencePair]
    held_out: list[PreferencePair]
    ledger: Ledger
    true_reward: Callable[[str], float] | None
    fingerprint: str


def load_pairs(settings: DataSettings) -> PreparedPairs:
    """Return the pairs that `settings` ask for.

    Raises:
        Refusal: The source cannot be read, a row is wrong, or the selection leaves nothing.
    """
    true_reward = None
    account = SplitLedger(source_name(settings, settings.split), read=0)
    if settings.toy is not None:
        pairs, true_reward = _toy_pairs(settings.toy.pairs, settings.toy.label_noise)
        account.read = len(pairs)
    else:
        pairs = _split_pairs(settings, settings.split, account)
    selected = select(pairs, settings, account)
    if settings.test_split is not None and settings.path is None:
        held_out, held_account = _separate_split(settings, settings.test_split)
        train = without_prompts_of(selected, held_out, account)
    else:
        train, held_out = hold_out(selected, settings.test_size, settings.split_seed)
        account.drop("held out", len(held_out))
        held_account = SplitLedger(account.source, read=len(held_out))
    return PreparedPairs(
        train=train,
        held_out=held_out,
        ledger=Ledger(train=account, held_out=held_account),
        true_reward=true_reward,
        fingerprint=fingerprint(train, held_out),
    )


def fingerprint(train: list[PreferencePair], held_out: list[PreferencePair]) -> str:
    """Return a hex digest of what both splits hold, in order."""
    digest = hashlib.sha256()
    for name, pairs in (("train", train), ("held_out", held_out)):
        digest.update(name.encode())
        for pair in pairs:
            digest.update(pair.content_hash().encode())
    return digest.hexdigest()


def _split_pairs(settings: DataSettings, split: str, account: SplitLedger) -> list[PreferencePair]:
    if settings.dialect is None:
        raise Refusal(f"data.dialect must name the layout of the rows for data={settings.name}, got null")
    rows = (row for chunk in source_chunks(settings, split) for row in chunk.rows())
    return read_pairs(rows, settings, settings.dialect, account)


def _separate_split(settings: DataSettings, split: str) -> tuple[list[PreferencePair], SplitLedger]:
    account = SplitLedger(source_name(settings, split), read=0)
    pairs = _split_pairs(settings, split, account)
    return without_duplicates(pairs, account), account


def _toy_pairs(count: int, label_noise: float) -> tuple[list[PreferencePair], Callable[[str], float]]:
    # Imported here: the toy brings torch, which no other source needs.
    from preftune.toy.preferences import sample_pairs
    from preftune.toy.world import true_reward

    pairs = sample_pairs(count, label_noise)
    wrong = [[f"{pair.origin}: {fault}" for fault in faults(pair)] for pair in pairs]
    refuse_wrong_rows([found for found in wrong if found], len(pairs))
    return pairs, true_reward
