"""Rows to pairs on disk, none of which is wrong: a wrong row stops the run, or is dropped and counted where asked.

1. The source hands on chunks; the first rows show which dialect reads them.
2. Several processes read a chunk each: rows to pairs, the checks of each pair, the keys that selection works on.
3. Answers that come one a row meet the others to their prompt.
4. The pairs are kept in the cache, under the hash of the source's content and of what says how to read it.
"""

import itertools
import json
import pickle
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import track

from preftune.data.control import Control
from preftune.data.dialects import COLUMNS, ONE_ANSWER_A_ROW, Dialect
from preftune.data.layouts import FIRST, columns_of, fitting, refuse_missing_columns
from preftune.data.ledger import SplitLedger
from preftune.data.ranked import RankedAnswers, grouped, pairs_of
from preftune.data.rows import Chunk, Row, RowError
from preftune.data.scores import read_extras
from preftune.data.settings import SourceSettings
from preftune.data.store import Batches, encoded, write_store
from preftune.data.workers import mapped
from preftune.pairs import PreferencePair, faults
from preftune.refusals import Refusal

SHOWN = 5
_BATCH = 500  # pairs a batch of those that no chunk holds together
_PARTS = 64  # files over which single answers are spread, so that one file's prompts fit into memory


@dataclass
class WrongRows:
    """Rows that are wrong: how many, with how many faults, of which kinds, and the first faults."""

    rows: int = 0
    faults: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)

    def add(self, *found: tuple[str, str]) -> None:
        """Count one row with its faults, each an origin and `<field> must be <condition>, got <value>`."""
        self.rows += 1
        self.faults += len(found)
        kind = _kind(found[0][1])
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.first = (self.first + [f"{origin}: {fault}" for origin, fault in found])[:SHOWN]

    def join(self, other: "WrongRows") -> None:
        """Count the rows of `other`, which come after these."""
        self.rows += other.rows
        self.faults += other.faults
        for kind, rows in other.kinds.items():
            self.kinds[kind] = self.kinds.get(kind, 0) + rows
        self.first = (self.first + other.first)[:SHOWN]

    def refusal(self, rows: int, remedy: str = "mend or remove them") -> Refusal:
        """Return the refusal of these among `rows`."""
        lines = [f"every row must be right, got {self.rows} wrong of {rows}; {remedy}:", *self.first]
        if self.faults > len(self.first):
            lines.append(f"and {self.faults - len(self.first)} more")
        return Refusal("\n  ".join(lines))


@dataclass
class Piece:
    """What the rows of a chunk came to; `answers` are those that still have to meet others to their prompt."""

    rows: int = 0
    pairs: list[PreferencePair] = field(default_factory=list)
    answers: list[RankedAnswers] = field(default_factory=list)
    batches: Batches | None = None
    wrong: WrongRows = field(default_factory=WrongRows)
    unpaired: int = 0
    escaped: int = 0


def enter(account: SplitLedger, rows: int, wrong: WrongRows, unpaired: int, escaped: int) -> None:
    """Account for `rows` that were read: those that were wrong, made no pair, or had a control token broken up."""
    account.read += rows
    account.escaped += escaped
    for kind, count in wrong.kinds.items():
        account.drop(f"wrong: {kind}", count)
    if unpaired:
        account.drop("no two answers that differ enough", unpaired)
    account.wrong = (account.wrong + wrong.first)[:SHOWN]


@dataclass(frozen=True)
class Reader:
    """Reads chunks, in whatever process."""

    dialect_name: str
    dialect: Dialect
    settings: SourceSettings
    control: Control

    def __call__(self, chunk: Chunk) -> Piece:
        """Return the pairs of a chunk, encoded, and what is wrong in it."""
        piece = self.read(chunk)
        piece.batches = encoded(piece.pairs)
        piece.pairs = []
        return piece

    def read(self, chunk: Chunk) -> Piece:
        """Return the pairs of a chunk, and what is wrong in it."""
        piece = Piece()
        for row in chunk.rows():
            piece.rows += 1
            try:
                self._read(row, piece)
            except RowError as fault:
                piece.wrong.add((row.origin, str(fault)))
        return piece

    def _read(self, row: Row, piece: Piece) -> None:
        read = self.dialect(row)
        if isinstance(read, PreferencePair):
            extras = read_extras(row, self.settings)
            self.check([replace(read, extras={**read.extras, **extras}) if extras else read], piece)
        elif self.dialect_name in ONE_ANSWER_A_ROW:
            piece.answers.append(self._checked(read))
        else:
            pairs = pairs_of(read, self.settings.pairing, self.settings.pairing_gap)
            piece.unpaired += not pairs
            self.check(pairs, piece)

    def _checked(self, read: RankedAnswers) -> RankedAnswers:
        """Return the one answer of a row, which is told by its own row and field where it is wrong."""
        field = COLUMNS[self.dialect_name][1][0]
        text, _ = read.answers[0]
        if self.control.policy == "refuse":
            self.control.text(text, field)
            self.control.prompt(read.prompt)
        for fault in faults(PreferencePair(read.prompt, text, f"{text}.", read.origin)):
            raise RowError(field + fault.removeprefix("chosen") if fault.startswith("chosen") else fault)
        return read

    def check(self, pairs: Sequence[PreferencePair], piece: Piece) -> None:
        """Put `pairs` into `piece`, or count them as one wrong row where any of them is wrong."""
        settled = [self.control.settled(pair) for pair in pairs]
        if found := [(pair.origin, fault) for pair in settled for fault in faults(pair)]:
            piece.wrong.add(*found)
            return
        piece.escaped += sum(new is not old for new, old in zip(settled, pairs, strict=True))
        piece.pairs += settled


def read_into(
    directory: Path,
    chunks: Iterable[Chunk],
    settings: SourceSettings,
    name: str,
    control: Control,
    *,
    stop: bool,
    workers: int | None = None,
) -> None:
    """Read a source into a store in `directory`, whose facts say what became of its rows.

    Args:
        directory: An empty one.
        chunks: The source.
        settings: How a row is read.
        name: The source, as the user knows it.
        control: What becomes of control tokens.
        stop: Refuse a source with a wrong row, rather than leave the row out.
        workers: Processes that read; None for one a core.

    Raises:
        Refusal: The columns do not fit, there is no row, or a row is wrong and `stop` is set.
    """
    chunks = iter(chunks)
    seen, first = first_rows(chunks)
    if not first:
        raise Refusal(f"{name} must hold at least one row, got none")
    dialect, read = fitting(first, settings, name)
    refuse_missing_columns(columns_of(first), settings, name)
    reader = Reader(dialect, read, settings, control)
    watched = track(
        itertools.chain(seen, chunks), f"reading {name}", console=Console(stderr=True), transient=True, total=None
    )
    total = Piece()
    facts: dict[str, Any] = {}

    def batches() -> Iterator[Batches]:
        with _Spool() as spool:
            for piece in mapped(reader, watched, workers):
                _add(total, piece)
                spool.add(piece.answers)
                if piece.batches is not None and piece.batches[0].num_rows:
                    yield piece.batches
            yield from _paired(spool, reader, total)
        if total.wrong.rows and stop:
            raise total.wrong.refusal(total.rows, "mend or remove them, or set data.on_bad_row=drop")
        facts.update(
            name=name,
            dialect=dialect,
            rows=total.rows,
            unpaired=total.unpaired,
            escaped=total.escaped,
            wrong=asdict(total.wrong),
        )

    write_store(directory, batches(), facts)


def first_rows(chunks: Iterator[Chunk]) -> tuple[list[Chunk], list[Row]]:
    """Take chunks off a source until they hold the rows that a dialect is recognised by; return both."""
    seen: list[Chunk] = []
    rows: list[Row] = []
    while len(rows) < FIRST and (chunk := next(chunks, None)) is not None:
        seen.append(chunk)
        rows += itertools.islice(chunk.rows(), FIRST - len(rows))
    return seen, rows


def _add(total: Piece, piece: Piece) -> None:
    total.rows += piece.rows
    total.unpaired += piece.unpaired
    total.escaped += piece.escaped
    total.wrong.join(piece.wrong)


def _paired(spool: "_Spool", reader: Reader, total: Piece) -> Iterator[Batches]:
    for answers in spool.parts():
        piece = Piece()
        for group in grouped(answers):
            pairs = pairs_of(group, reader.settings.pairing, reader.settings.pairing_gap)
            piece.unpaired += 0 if pairs else len(group.answers)
            try:
                reader.check(pairs, piece)
            except RowError as fault:
                piece.wrong.add((group.origin, str(fault)))
        _add(total, piece)
        for start in range(0, len(piece.pairs), _BATCH):
            yield encoded(piece.pairs[start : start + _BATCH])


class _Spool:
    """Single answers on disk, so that those to one prompt can be had together."""

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self._files: list[Any] = []
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def add(self, answers: Iterable[RankedAnswers]) -> None:
        for answer in answers:
            if not self._files:
                made = (tempfile.TemporaryFile() for _ in range(_PARTS))  # noqa: SIM115  the stack closes them
                self._files = [self._open.enter_context(file) for file in made]
            part = zlib.crc32(json.dumps(answer.prompt).encode()) % _PARTS
            pickle.dump(answer, self._files[part])

    def parts(self) -> Iterator[list[RankedAnswers]]:
        for file in self._files:
            file.seek(0)
            answers = []
            while file.peek(1):
                answers.append(pickle.load(file))
            yield answers


def _kind(fault: str) -> str:
    """Return what a fault asks for, without where and with what: `chosen must not be empty`."""
    asked = fault.split(", got ")[0]
    return re.sub(r"\[\d+\]", "[]", asked)
