"""Pairs to token ids: each dialogue is rendered once by the chat template, and what comes out is checked.

1. The prompt is rendered with the opening of the assistant's turn; prompt and answer are rendered together.
2. The prompt's ids must be a true prefix of both, so that the model trains on the context it meets in use.
3. Where the tokenizer begins a text with BOS, the dialogue must begin with exactly one.
4. Each answer must end in the end-of-turn token; white space of the template may follow it.
5. A pair longer than `max_length` is dropped, cut or refused, and counted.

The ids are kept in the cache under a hash of pairs, tokenizer, template and length, and of nothing else.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from datasets.iterable_dataset import ExamplesIterable
from rich.console import Console
from rich.progress import track

from preftune.caches import cache_directory, code_hash, key_of, made_once
from preftune.data.loading import PreparedPairs, fingerprint
from preftune.data.store import Numbers
from preftune.data.streaming import PairStream
from preftune.data.table import PairTable
from preftune.data.workers import mapped
from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import Message, PreferencePair
from preftune.refusals import Refusal
from preftune.tokens.encoding import Encoder

BATCH = 500  # pairs rendered and encoded at once
_AT_ONCE = 100  # pairs of a stream rendered and encoded at once
_MIXED = 2000  # pairs of a stream among which the next is drawn
_TOGETHER = 20  # pieces in one batch of the file: to map it touches each batch
_LONG = 5000  # pairs from which the stage is long enough to show a bar
_IDS, _FACTS = "ids.arrow", "facts.json"
_SCHEMA = pa.schema(
    [
        *((name, pa.list_(pa.int32())) for name in ("prompt_ids", "chosen_ids", "rejected_ids")),
        ("row", pa.int64()),
    ]
)

Overlong = Literal["drop", "cut", "stop"]
OnBadRow = Literal["stop", "drop"]


@dataclass(frozen=True)
class TokenizedPairs:
    """Pairs as ids, and what became of those that were too long.

    Attributes:
        rows: `prompt_ids`, `chosen_ids`, `rejected_ids`, the names that TRL's collator reads, and `row`, the place of
            the pair in `pairs`; in their order, on disk.
        pairs: What was tokenised.
        dropped: Pairs left out, by reason.
        truncated: Pairs of which an answer lost its end.
    """

    rows: datasets.Dataset
    pairs: PairTable
    dropped: dict[str, int]
    truncated: int

    def lengths(self, name: str) -> Numbers:
        """Return the tokens of `prompt`, `chosen` or `rejected` of each row, of shape `(rows,)`."""
        counts: Numbers = compute.list_value_length(self.rows.data.column(f"{name}_ids")).to_numpy()
        return counts.astype(np.int64)

    def places(self) -> Numbers:
        """Return the place of each row's pair in `pairs`, of shape `(rows,)`."""
        places: Numbers = self.rows.data.column("row").to_numpy()
        return places


@dataclass
class _Piece:
    """Ids of some pairs; `dropped` and `truncated` as in `TokenizedPairs`."""

    ids: pa.RecordBatch
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0


def tokenize(
    pairs: PairTable,
    chat: ChatTokenizer,
    *,
    max_length: int | None,
    overlong: Overlong,
    on_bad_row: OnBadRow = "stop",
    workers: int | None = None,
) -> TokenizedPairs:
    """Render and tokenise `pairs`, or take their ids from the cache.

    Args:
        pairs: Valid pairs.
        chat: Tokenizer with its chat template.
        max_length: Longest prompt and answer together, in tokens; None for no limit.
        overlong: What becomes of a longer pair: `drop` it, `cut` the end of its answers, or `stop`.
        on_bad_row: What becomes of a pair that the template cannot make into ids: `stop` or `drop` it.
        workers: Processes that tokenise; None for one a core.

    Raises:
        Refusal: The template breaks one of the rules above, or a pair is too long under `stop`.
    """
    key = key_of(_program(), fingerprint(pairs), chat.digest, max_length, overlong, on_bad_row)
    work = _Tokenizer(pairs, Encoder(chat), max_length, overlong, on_bad_row)
    directory = made_once(
        cache_directory("tokens") / key,
        partial(_write, work=work, workers=workers),
        of=f"{len(pairs)} pairs, {chat.tokenizer.name_or_path}",
    )
    facts = json.loads((directory / _FACTS).read_text())
    rows = datasets.Dataset.from_file(str(directory / _IDS))
    return TokenizedPairs(rows, pairs, facts["dropped"], facts["truncated"])


def tokenize_splits(
    pairs: PreparedPairs,
    chat: ChatTokenizer,
    max_length: int | None,
    overlong: Overlong,
    on_bad_row: OnBadRow = "stop",
) -> tuple[TokenizedPairs, TokenizedPairs]:
    """Tokenise both splits of `pairs` and enter what was dropped or cut into their ledger.

    Raises:
        Refusal: As `tokenize`, or no pair is left in a split.
    """
    splits = []
    for name, split, account in (
        ("train", pairs.train, pairs.ledger.train),
        ("held-out", pairs.held_out, pairs.ledger.held_out),
    ):
        made = tokenize(split, chat, max_length=max_length, overlong=overlong, on_bad_row=on_bad_row)
        for reason, count in made.dropped.items():
            account.drop(reason, count)
        account.truncated = made.truncated
        if not len(made.rows):
            raise Refusal(
                f"the {name} split must keep at least one pair of its {len(split)}, got none: "
                f"{', '.join(f'{count} {reason}' for reason, count in made.dropped.items())}; raise "
                "train.max_length or set data.overlong=cut"
            )
        splits.append(made)
    return splits[0], splits[1]


def token_stream(
    stream: PairStream,
    chat: ChatTokenizer,
    *,
    max_length: int | None,
    overlong: Overlong,
    on_bad_row: OnBadRow = "stop",
    seed: int,
) -> datasets.IterableDataset:
    """Return rows as those of `TokenizedPairs`, made as they are asked for, in an order mixed over some thousand."""

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        start, pairs = 0, iter(stream)
        while batch := list(itertools.islice(pairs, _AT_ONCE)):
            piece = work.tokenized(batch, start)
            stream.count(start, len(batch), piece.dropped, piece.truncated)
            yield from ((row["row"], row) for row in piece.ids.to_pylist())
            start += len(batch)

    work = _Tokenizer(PairTable([]), Encoder(chat), max_length, overlong, on_bad_row)
    examples = ExamplesIterable(rows, {})
    return datasets.IterableDataset(examples).shuffle(seed=seed, buffer_size=_MIXED)


def prompt_ids(prompt: Sequence[Message], chat: ChatTokenizer) -> list[int]:
    """Return the ids of `prompt` with the assistant's turn opened, as generation starts from them."""
    encoder = Encoder(chat)
    return encoder.encode(encoder.render([list(prompt)], add_generation_prompt=True))[0]


class _Tokenizer:
    """Tokenises the pairs from one place to another, in whatever process."""

    def __init__(
        self, pairs: PairTable, encoder: Encoder, max_length: int | None, overlong: Overlong, on_bad_row: OnBadRow
    ) -> None:
        self.pairs = pairs
        self.encoder = encoder
        self.max_length = max_length
        self.overlong = overlong
        self.on_bad_row = on_bad_row

    def __call__(self, start: int) -> _Piece:
        return self.tokenized(list(self.pairs[start : start + BATCH]), start)

    def tokenized(self, pairs: list[PreferencePair], start: int) -> _Piece:
        """Return the ids of `pairs`, the first of which is at the place `start`."""
        columns: list[list[Any]] = [[], [], [], []]
        piece = _Piece(pa.RecordBatch.from_pylist([], _SCHEMA))
        for place, (pair, ids) in enumerate(zip(pairs, self.encoder.pairs(pairs), strict=True)):
            if isinstance(ids, str):
                self._refuse(pair.origin, ids, piece)
            elif settled := self._settled(pair.origin, *ids, piece):
                for column, value in zip(columns, (*settled, start + place), strict=True):
                    column.append(value)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        piece.ids = pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)
        return piece

    def _refuse(self, origin: str, fault: str, piece: _Piece) -> None:
        if self.on_bad_row == "stop":
            raise Refusal(f"{origin}: {fault}; data.on_bad_row=drop leaves such pairs out")
        piece.dropped[f"wrong: {re.split(', (?:got|but) ', fault)[0]}"] += 1

    def _settled(
        self, origin: str, prompt: list[int], chosen: list[int], rejected: list[int], piece: _Piece
    ) -> tuple[list[int], list[int], list[int]] | None:
        """Return the ids at a length that fits; None for a pair that is dropped, which `piece` counts."""
        limit, length = self.max_length, len(prompt) + max(len(chosen), len(rejected))
        if limit is None or length <= limit:
            return prompt, chosen, rejected
        if self.overlong == "stop":
            raise Refusal(
                f"{origin}: prompt and answer must have at most train.max_length={limit} tokens, got "
                f"{length}; raise it, or set data.overlong to drop or cut"
            )
        room = limit - len(prompt)
        if self.overlong == "drop":
            piece.dropped[f"longer than {limit} tokens"] += 1
        elif room <= 0:
            piece.dropped[f"prompt fills {limit} tokens"] += 1
        elif chosen[:room] == rejected[:room]:
            piece.dropped["equal after the cut"] += 1
        else:
            piece.truncated += 1
            return prompt, chosen[:room], rejected[:room]
        return None


def _write(directory: Path, work: _Tokenizer, workers: int | None) -> None:
    """Write the ids as a stream of batches, the form that `Dataset.from_file` maps, and the counts beside them."""
    count = len(work.pairs)
    starts = track(
        range(0, count, BATCH),
        "tokenising",
        console=Console(stderr=True),
        transient=True,
        disable=count < _LONG,
    )
    dropped: Counter[str] = Counter()
    truncated = 0
    with pa.OSFile(str(directory / _IDS), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as ids:
        waiting: list[pa.RecordBatch] = []
        for piece in mapped(work, starts, workers):
            waiting.append(piece.ids)
            dropped += piece.dropped
            truncated += piece.truncated
            if len(waiting) == _TOGETHER:
                ids.write_table(pa.Table.from_batches(waiting).combine_chunks())
                waiting = []
        if waiting:
            ids.write_table(pa.Table.from_batches(waiting).combine_chunks())
    (directory / _FACTS).write_text(json.dumps({"dropped": dropped, "truncated": truncated}))


def _program() -> str:
    """Return a hash of the code that makes ids of pairs: what it kept, another version does not read."""
    return code_hash(*Path(__file__).parent.glob("*.py"))
