"""From settings to the pairs of a run: read, check, select, hold out, and account for every row."""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from preftune import pairs as pairs_module
from preftune.caches import cache_directory, code_hash, key_of, made_once
from preftune.data.control import Control
from preftune.data.files import local_source
from preftune.data.ledger import Ledger, SplitLedger
from preftune.data.reading import WrongRows, enter, read_into
from preftune.data.selection import hold_out, select, without_duplicates, without_prompts_of
from preftune.data.settings import DataSettings, SourceSettings
from preftune.data.sources import source_chunks, source_fingerprint, source_name
from preftune.data.store import PairStore, encoded, write_store
from preftune.data.streaming import SAMPLE, PairStream, first_prompts, prompt_key
from preftune.data.table import PairTable
from preftune.pairs import PreferencePair, faults
from preftune.refusals import Refusal
from preftune.space import Need, refuse_short

_WHAT_IS_READ = ("dialect", "columns", "score", "extras", "pairing", "pairing_gap")


@dataclass(frozen=True)
class PreparedPairs:
    """What a run trains on and what it is measured on.

    Attributes:
        train: Pairs to train on, in the order of their rows.
        held_out: Pairs to evaluate on; no prompt of theirs is in `train`.
        ledger: What became of every row.
        true_reward: The known reward of a text, where the data come from the toy world.
        fingerprint: Hex digest of the content of both splits, in order.
        stream: Where the rows are streamed, the pairs to train on; `train` is then a sample of them.
    """

    train: PairTable
    held_out: PairTable
    ledger: Ledger
    true_reward: Callable[[str], float] | None
    fingerprint: str
    stream: PairStream | None = None


def load_pairs(settings: DataSettings, control_tokens: Sequence[str] = ()) -> PreparedPairs:
    """Return the pairs that `settings` ask for.

    Args:
        settings: A dataset recipe.
        control_tokens: What the tokenizer reads as control tokens, for `settings.control_tokens`.

    Raises:
        Refusal: The source cannot be read, a row is wrong, or the selection leaves nothing.
    """
    if settings.streaming:
        return _streamed(settings, control_tokens)
    true_reward = None
    if settings.toy is not None:
        table, true_reward = _toy_pairs(settings.toy.pairs, settings.toy.label_noise)
        account = SplitLedger("toy", read=len(table))
    else:
        table, account = _split(settings, settings.split, control_tokens)
    selected = select(table, settings, account)
    if settings.test_split is not None and settings.path is None:
        held_out, held_account = _test_split(settings, settings.test_split, account.dialect, control_tokens)
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


def _streamed(settings: DataSettings, control_tokens: Sequence[str]) -> PreparedPairs:
    stream = PairStream(settings, control_tokens)
    if settings.test_split is not None and settings.path is None:
        held_out, held_account = _test_split(settings, settings.test_split, {}, control_tokens)
    else:
        held_out = stored(first_prompts(stream, int(settings.test_size)))
        held_account = SplitLedger(stream.account.source, read=len(held_out))
    stream.held_out = {prompt_key(pair) for pair in held_out}
    sample = stored(list(itertools.islice(stream, SAMPLE)))
    ledger = Ledger(train=stream.account, held_out=held_account)
    return PreparedPairs(sample, held_out, ledger, None, fingerprint(sample, held_out), stream)


def _test_split(
    settings: DataSettings, split: str, dialect: Mapping[str, str], control_tokens: Sequence[str]
) -> tuple[PairTable, SplitLedger]:
    """Return the pairs of a split of its own, read as train was."""
    fixed = settings.model_copy(update={"dialect": next(iter(dialect.values()), settings.dialect)})
    held_out, account = _split(fixed, split, control_tokens)
    return without_duplicates(held_out, settings, account), account


def fingerprint(*tables: PairTable) -> str:
    """Return a hex digest of what tables hold, in order."""
    digest = hashlib.sha256()
    for table in tables:
        digest.update(f"{len(table)}:".encode())
        digest.update(table.numbers("content").tobytes())
    return digest.hexdigest()


def _split(settings: DataSettings, split: str, control_tokens: Sequence[str]) -> tuple[PairTable, SplitLedger]:
    account = SplitLedger(source_name(settings, split), read=0)
    wrong = WrongRows()
    stores = []
    sources: list[tuple[SourceSettings, str, str]] = [(settings, split, "data")]
    if settings.mix is not None:
        sources = [(source, source.split, f"data.mix[{place}]") for place, source in enumerate(settings.mix)]
    for source, its_split, place in sources:
        stores.append(_store(source, its_split, place, settings, control_tokens))
        _enter(stores[-1], account, wrong)
    share = wrong.rows / account.read
    if settings.max_dropped is not None and share > settings.max_dropped:
        remedy = f"more than the share of data.max_dropped={settings.max_dropped:g}, {share:.3g} of all"
        raise wrong.refusal(account.read, remedy)
    table = PairTable(stores)
    if not len(table):
        why = ", ".join(f"{rows} {reason}" for reason, rows in account.dropped.items())
        raise Refusal(
            "\n  ".join(
                [
                    f"{account.source} must make at least one pair of its {account.read} rows, got none: {why}",
                    *account.wrong,
                ]
            )
        )
    account.more = len(table) - account.kept
    return table, account


def _store(
    source: SourceSettings, split: str, place: str, settings: DataSettings, control_tokens: Sequence[str]
) -> PairStore:
    name = source_name(source, split)
    policy = settings.control_tokens
    tokens = sorted(control_tokens) if policy != "allow" else []
    how = source.model_dump(include=set(_WHAT_IS_READ))
    content = source_fingerprint(source, split, place)
    key = key_of(_program(), content, name, how, settings.on_bad_row, policy, tokens)
    directory = cache_directory("pairs") / key

    def read(beside: Path) -> None:
        if source.path:  # what is kept of rows takes about as much as they do
            files = local_source(source.path, split, f"{place}.path").files.values()
            refuse_short([Need(f"pairs of {name}", directory, sum(file.stat().st_size for file in files))])
        chunks, control = source_chunks(source, split, place), Control(tokens, policy)
        read_into(beside, chunks, source, name, control, stop=settings.on_bad_row == "stop")
        if source.path and source_fingerprint(source, split, place) != content:
            raise Refusal(f"{name} must stay as it is while it is read, got other content at the end; start again")

    # A function of the user's may change in ways that no hash of a file shows.
    return PairStore(made_once(directory, read, afresh="." in (source.dialect or ""), of=name))


def _enter(store: PairStore, account: SplitLedger, wrong: WrongRows) -> None:
    facts = store.facts
    found = WrongRows(**facts["wrong"])
    wrong.join(found)
    account.dialect[facts["name"]] = facts["dialect"]
    enter(account, facts["rows"], found, facts["unpaired"], facts["escaped"])


def _program() -> str:
    """Return a hash of the code that makes pairs of rows: what it kept, another version does not read."""
    return code_hash(Path(pairs_module.__file__), *Path(__file__).parent.glob("*.py"))


def _toy_pairs(count: int, label_noise: float) -> tuple[PairTable, Callable[[str], float]]:
    # Imported here: the toy brings torch, which no other source needs.
    from preftune.toy.preferences import sample_pairs
    from preftune.toy.world import true_reward

    return stored(sample_pairs(count, label_noise)), true_reward


def stored(pairs: Sequence[PreferencePair]) -> PairTable:
    """Return pairs that were made in memory as a table of pairs in the cache.

    Raises:
        Refusal: A pair is wrong.
    """
    wrong = WrongRows()
    for pair in pairs:
        if found := [(pair.origin, fault) for fault in faults(pair)]:
            wrong.add(*found)
    if wrong.rows:
        raise wrong.refusal(len(pairs))
    texts, numbers = encoded(pairs)
    key = key_of(_program(), hashlib.sha256(repr(pairs).encode()).hexdigest())
    write = partial(write_store, batches=[(texts, numbers)], facts={})
    return PairTable([PairStore(made_once(cache_directory("pairs") / key, write, of=f"{len(pairs)} pairs"))])
