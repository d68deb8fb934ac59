"""Labelled answers taken as they are, each alone: rows of the dialect `labelled`, for a method that needs no pairs.

1. A wrong row stops the run, or is dropped where `on_bad_row` says so.
2. `conflicts`: answers that stand with both labels are kept or dropped.
3. `duplicates`: of answers with the same prompt, text and label one is kept, the first.
4. `max_rows`: the answers with the lowest content hash are kept.
5. Held out: `test_size` prompts with all their answers, or a split of its own.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preftune.data.control import Control
from preftune.data.keys import KEY, PairKeys, keys_of
from preftune.data.layouts import fitting
from preftune.data.ledger import Ledger, SplitLedger
from preftune.data.reading import Piece, Reader, WrongRows, enter, first_rows
from preftune.data.rows import RowError
from preftune.data.selection import hold_out, without_prompts_of
from preftune.data.settings import DataSettings
from preftune.data.sources import source_chunks, source_name
from preftune.data.store import Numbers
from preftune.data.workers import mapped
from preftune.pairs import LabelledAnswer, PreferencePair
from preftune.refusals import Refusal, refuse_all
from preftune.settings import shown

_OF_PAIRS = ("pairing", "pairing_gap", "max_length_ratio")


class AnswerTable(Sequence[LabelledAnswer]):
    """Answers in memory, in the order of their rows, with the digests that selection works on."""

    def __init__(self, answers: Sequence[LabelledAnswer], keys: Sequence[PairKeys] | None = None) -> None:
        self.answers = answers
        self.keys = [_keys(answer) for answer in answers] if keys is None else keys

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, place: Any) -> Any:
        return self.answers[place]

    def only(self, places: Numbers) -> "AnswerTable":
        """Return the answers at `places`, indices or a mask, in their order."""
        kept = np.sort(np.arange(len(self))[places]).tolist()
        return AnswerTable([self.answers[place] for place in kept], [self.keys[place] for place in kept])

    def numbers(self, name: str) -> Numbers:
        """Return the digest `name` of every answer, of shape `(answers,)`."""
        return np.frombuffer(b"".join(getattr(keys, name) for keys in self.keys), KEY)


@dataclass(frozen=True)
class PreparedAnswers:
    """What a run trains on and what it is measured on; no prompt of `held_out` is in `train`."""

    train: AnswerTable
    held_out: AnswerTable
    ledger: Ledger

    def fingerprint(self) -> str:
        """Return a hex digest of what both splits hold, in order."""
        digest = hashlib.sha256()
        for table in (self.train, self.held_out):
            digest.update(f"{len(table)}:".encode())
            digest.update(table.numbers("content").tobytes())
            digest.update(bytes(answer.desirable for answer in table))
        return digest.hexdigest()


def recognised(settings: DataSettings) -> DataSettings:
    """Return `settings` with the layout of the rows by its name, where `auto` finds it."""
    if settings.dialect != "auto" or settings.source not in ("hub", "files"):
        return settings
    name = source_name(settings, settings.split)
    _, first = first_rows(source_chunks(settings, settings.split))
    return settings.model_copy(update={"dialect": fitting(first, settings, name)[0]}) if first else settings


def load_answers(settings: DataSettings, control_tokens: Sequence[str] = ()) -> PreparedAnswers:
    """Return the answers that `settings`, whose dialect is `labelled`, ask for.

    Raises:
        Refusal: The source cannot be read, a row is wrong, a setting is of pairs, or the selection leaves nothing.
    """
    _refuse_settings_of_pairs(settings)
    control = Control(sorted(control_tokens), settings.control_tokens)
    table, account = _split(settings, settings.split, control)
    table = _limited(_without_duplicates(table, settings, account), settings, account)
    if settings.test_split is not None and settings.path is None:
        held_out, held_account = _split(settings, settings.test_split, control)
        held_out = _without_duplicates(held_out, settings, held_account)
        train = without_prompts_of(table, held_out, account)
    else:
        train, held_out = hold_out(table, settings.test_size, settings.split_seed)
        account.drop("held out", len(held_out))
        held_account = SplitLedger(account.source, read=len(held_out))
    return PreparedAnswers(train, held_out, Ledger(train=account, held_out=held_account))


def _refuse_settings_of_pairs(settings: DataSettings) -> None:
    why = "where labelled answers are trained on each alone, without pairs"
    faults = []
    for key in _OF_PAIRS:
        value, without = getattr(settings, key), type(settings).model_fields[key].default
        if value != without:
            faults.append(f"data.{key} must be {shown(without)} {why}, got {shown(value)}")
    if settings.conflicts == "merge":
        faults.append(f"data.conflicts must be keep or drop {why}, got 'merge'")
    refuse_all(faults)


def _split(settings: DataSettings, split: str, control: Control) -> tuple[AnswerTable, SplitLedger]:
    name = source_name(settings, split)
    account, wrong, escaped = SplitLedger(name, read=0), WrongRows(), 0
    answers: list[LabelledAnswer] = []
    rows = 0
    for piece in _pieces(settings, split, name, control):
        rows += piece.rows
        wrong.join(piece.wrong)
        for read in piece.answers:
            text, label = read.answers[0]
            try:
                answer = LabelledAnswer(
                    control.prompt(read.prompt), control.text(text, "completion"), label > 0, read.origin
                )
            except RowError as fault:
                wrong.add((read.origin, str(fault)))
                continue
            escaped += (answer.prompt, answer.text) != (read.prompt, text)
            answers.append(answer)
    if wrong.rows and settings.on_bad_row == "stop":
        raise wrong.refusal(rows, "mend or remove them, or set data.on_bad_row=drop")
    if settings.max_dropped is not None and wrong.rows > settings.max_dropped * rows:
        share = f"{wrong.rows / rows:.3g}"
        raise wrong.refusal(rows, f"more than the share of data.max_dropped={settings.max_dropped:g}, {share} of all")
    enter(account, rows, wrong, 0, escaped)
    account.dialect[name] = "labelled"
    if not answers:
        raise Refusal(f"{name} must hold at least one answer that is right, got none of {rows} rows")
    return AnswerTable(answers), account


def _pieces(settings: DataSettings, split: str, name: str, control: Control) -> Iterator[Piece]:
    seen, first = first_rows(chunks := source_chunks(settings, split))
    if not first:
        raise Refusal(f"{name} must hold at least one row, got none")
    dialect, read = fitting(first, settings, name)
    return mapped(Reader(dialect, read, settings, control), itertools.chain(seen, chunks), None)


def _without_duplicates(table: AnswerTable, settings: DataSettings, account: SplitLedger) -> AnswerTable:
    labels: dict[bytes, set[bool]] = {}
    for answer, keys in zip(table, table.keys, strict=True):
        labels.setdefault(keys.content, set()).add(answer.desirable)
    both = np.array([len(labels[keys.content]) == 2 for keys in table.keys])
    account.conflicting = int(both.sum())
    if settings.conflicts == "drop":
        table = _kept(table, ~both, "in conflict with another answer", account)
    if settings.duplicates != "keep":
        table = _kept(table, _first_of_each(table, lambda keys: keys.content), "duplicate", account)
    if settings.duplicates == "normalized":
        same = _first_of_each(table, lambda keys: keys.normalized)
        table = _kept(table, same, "duplicate but for case or space", account)
    return table


def _limited(table: AnswerTable, settings: DataSettings, account: SplitLedger) -> AnswerTable:
    if settings.max_rows is None:
        return table
    order = sorted(range(len(table)), key=lambda place: (table.keys[place].content, table[place].desirable))
    kept = np.zeros(len(table), bool)
    kept[order[: settings.max_rows]] = True
    return _kept(table, kept, "beyond data.max_rows", account)


def _first_of_each(table: AnswerTable, key: Callable[[PairKeys], bytes]) -> Numbers:
    seen: set[tuple[bytes, bool]] = set()
    kept = []
    for answer, keys in zip(table, table.keys, strict=True):
        kept.append((key(keys), answer.desirable) not in seen)
        seen.add((key(keys), answer.desirable))
    return np.array(kept)


def _kept(table: AnswerTable, kept: Numbers, reason: str, account: SplitLedger) -> AnswerTable:
    account.drop(reason, int((~kept).sum()))
    if not kept.any():
        raise Refusal(
            f"{account.source} must keep at least one answer, got none: the last {len(table)} are dropped as {reason!r}"
        )
    return table.only(kept)


def _keys(answer: LabelledAnswer) -> PairKeys:
    pair = PreferencePair(answer.prompt, answer.text, "", answer.origin)
    return keys_of(pair, json.dumps(answer.prompt, ensure_ascii=False))
