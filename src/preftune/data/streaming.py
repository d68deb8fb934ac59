"""Pairs from the rows as they come, for sets that are too large to prepare: only a first part is kept.

1. The first `test_size` prompts are held out, unless a split of its own is.
2. The first pairs that follow are kept as a sample, for the report.
3. Each pass reads the source anew and takes the steps of selection that look at one pair; pairs whose prompt is held
   out are dropped. The others are refused with the settings: they need the whole set.
"""

import itertools
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from preftune.data.control import Control
from preftune.data.dialects import ONE_ANSWER_A_ROW
from preftune.data.keys import keys_of
from preftune.data.layouts import columns_of, fitting, refuse_missing_columns
from preftune.data.ledger import SplitLedger
from preftune.data.reading import Piece, Reader, enter, first_rows
from preftune.data.settings import DataSettings
from preftune.data.sources import source_chunks, source_name
from preftune.data.store import Numbers
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal

SAMPLE = 1000
_REMEMBERED = 100_000  # pairs whose origin and numbers are at hand; more than a shuffle buffer and a batch hold


class PairStream:
    """The train pairs of a source, read anew on each pass.

    Attributes:
        account: What became of the rows of the longest pass so far.
    """

    def __init__(self, settings: DataSettings, control_tokens: Sequence[str]) -> None:
        self.settings = settings
        self.account = SplitLedger(source_name(settings, settings.split), read=0)
        self.held_out: set[bytes] = set()
        self._control = Control(sorted(control_tokens), settings.control_tokens)
        self._dialect = settings.dialect
        self._names: set[str] = set()
        self._counted = 0
        self._too_long: dict[str, int] = {}
        self._recent: OrderedDict[int, PreferencePair] = OrderedDict()

    def __iter__(self) -> Iterator[PreferencePair]:
        account = SplitLedger(self.account.source, read=0)
        place = 0
        try:
            for pair in self.pairs(account):
                if prompt_key(pair) in self.held_out:
                    account.drop("prompt in the held-out split", 1)
                    continue
                self._names.update(pair.extras)
                self._recent[place] = pair
                if len(self._recent) > _REMEMBERED:
                    self._recent.popitem(last=False)
                self._keep(account)
                yield pair
                place += 1
        finally:
            self._keep(account)  # rows may have been dropped since the last pair

    def count(self, start: int, pairs: int, dropped: Mapping[str, int], truncated: int) -> None:
        """Account for what the lengths of `pairs` from the place `start` on came to, once for each place."""
        if start < self._counted:
            return
        self._counted = start + pairs
        for reason, count in dropped.items():
            self._too_long[reason] = self._too_long.get(reason, 0) + count
        self.account.truncated += truncated

    def origin(self, place: int) -> str:
        """Return where the pair at `place` of the pass came from."""
        return self._recent[place].origin

    def extras(self) -> dict[str, Numbers]:
        """Return the numbers that travel with the pairs, by name; each gives those of the places it is asked for."""
        return {name: _Column(self._recent, name) for name in sorted(self._names)}  # type: ignore[misc]

    def pairs(self, account: SplitLedger) -> Iterator[PreferencePair]:
        """Yield the pairs of one pass, held-out prompts included, and account for the rows that were dropped."""
        settings = self.settings.model_copy(update={"dialect": self._dialect})
        chunks = source_chunks(settings, settings.split, streaming=True)
        seen, first = first_rows(chunks)
        if not first:
            raise Refusal(f"{account.source} must hold at least one row, got none")
        name, dialect = fitting(first, settings, account.source)
        if name in ONE_ANSWER_A_ROW:
            raise Refusal(
                f"data.streaming must be false for data.dialect={name}, which pairs the answers of the whole set, "
                "got true"
            )
        self._dialect = name  # recognised once, and said once
        refuse_missing_columns(columns_of(first), settings, account.source)
        account.dialect[account.source] = name
        reader = Reader(name, dialect, settings, self._control)
        for chunk in itertools.chain(seen, chunks):
            piece = reader.read(chunk)
            self._enter(piece, account)
            yield from self._selected(piece.pairs, account)

    def _keep(self, account: SplitLedger) -> None:
        if account.read >= self.account.read:
            self.account.read, self.account.more, self.account.escaped = account.read, account.more, account.escaped
            self.account.wrong, self.account.dialect = account.wrong, account.dialect
            self.account.dropped = {**account.dropped, **self._too_long}

    def _enter(self, piece: Piece, account: SplitLedger) -> None:
        enter(account, piece.rows, piece.wrong, piece.unpaired, piece.escaped)
        account.more += len(piece.pairs) - (piece.rows - piece.wrong.rows - piece.unpaired)
        if piece.wrong.rows and self.settings.on_bad_row == "stop":
            raise piece.wrong.refusal(account.read, "mend or remove them, or set data.on_bad_row=drop")

    def _selected(self, pairs: list[PreferencePair], account: SplitLedger) -> Iterator[PreferencePair]:
        least, ratio = self.settings.min_margin, self.settings.max_length_ratio
        for pair in pairs:
            shorter, longer = sorted((len(pair.chosen), len(pair.rejected)))
            if self.settings.ties == "drop" and pair.extras.get("score") == 0:
                account.drop("tie in the score", 1)
            elif least is not None and not pair.extras["score"] >= least:
                account.drop("below data.min_margin", 1)
            elif ratio is not None and longer > ratio * shorter:
                account.drop("beyond data.max_length_ratio", 1)
            else:
                yield pair


class _Column:
    """One number of the recent pairs, by place."""

    def __init__(self, recent: OrderedDict[int, PreferencePair], name: str) -> None:
        self._recent, self._name = recent, name

    def __getitem__(self, places: Numbers) -> Numbers:
        return np.array([self._recent[place].extras.get(self._name, np.nan) for place in places.tolist()])


def first_prompts(stream: PairStream, count: int) -> list[PreferencePair]:
    """Return the pairs of the first `count` prompts of a stream, as far as they stand together."""
    held: list[PreferencePair] = []
    prompts: set[bytes] = set()
    for pair in stream.pairs(SplitLedger(stream.account.source, read=0)):
        prompts.add(prompt_key(pair))
        if len(prompts) > count:
            return held
        held.append(pair)
    raise Refusal(
        f"data.test_size must leave at least 1 of {len(prompts)} prompts to train on, got {count}; lower it, or give "
        "more pairs with different prompts"
    )


def prompt_key(pair: PreferencePair) -> bytes:
    """Return the digest of a pair's prompt, normalized."""
    return keys_of(pair, json.dumps(pair.prompt, ensure_ascii=False)).prompt
