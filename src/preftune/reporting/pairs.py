"""What a run's pairs look like before anything is trained: lengths, biases, shares, and what to know of them.

All but the ledger is of the pairs that are trained on, in the form in which they are: after selection and the cut.
"""

import itertools
import random
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from preftune.data.ledger import Ledger, TopKCut
from preftune.data.loading import PreparedPairs
from preftune.data.store import Numbers
from preftune.data.table import PairTable
from preftune.models.tokenizer import ChatTokenizer
from preftune.reporting import pair_warnings
from preftune.reporting.pair_report import (
    BINS,
    Answer,
    Example,
    LengthBias,
    Lengths,
    LongPair,
    PairReport,
    Quartile,
    Scores,
    Shares,
)
from preftune.tokens.tokenization import TokenizedPairs

if TYPE_CHECKING:  # to look at pairs needs no model, and so none of what loads one
    from preftune.training.preparation import Prepared
    from preftune.training.settings import TrainSettings

LONGEST = 5
EXAMPLES = 10


def report_run(prepared: "Prepared", train: "TrainSettings", seed: int, reads: Collection[str]) -> PairReport | None:
    """Look at the pairs of a run that stands ready, if it has some; its loss reads the numbers named by `reads`."""
    if not prepared.pairs.train:
        return None
    pairs, rows, chat, batch = prepared.pairs, prepared.rows, prepared.chat, train.micro_batch
    return report_pairs(pairs, rows, chat, batch=batch, max_length=train.max_length, seed=seed, reads=reads)


def report_pairs(
    pairs: PreparedPairs,
    rows: TokenizedPairs,
    chat: ChatTokenizer,
    *,
    batch: int,
    max_length: int | None,
    seed: int,
    reads: Collection[str],
) -> PairReport:
    """Look at the pairs of a run.

    Args:
        pairs: Both splits, with the ledger that tokenising has completed.
        rows: The pairs to train on, as ids; at least one.
        chat: The tokenizer that made the ids.
        batch: Pairs in one micro-batch.
        max_length: Longest prompt and answer together, in tokens.
        seed: Of the random order and the choice of examples.
        reads: Numbers of a pair that the loss reads: of others that pairs carry, a warning is given.
    """
    ledger, kept, places = pairs.ledger, len(rows.rows), rows.places()
    prompt, chosen, rejected = (rows.lengths(name) for name in ("prompt", "chosen", "rejected"))
    bias = length_bias(chosen, rejected)
    carried = {name: column[places] for name, column in pairs.train.extras().items()}
    scores = _scores(carried.pop("score", np.empty(0)), ledger.train.top_k)
    extras = {name: int(_given(column).size) for name, column in carried.items() if not name.startswith("score_")}
    if pairs.true_reward is not None:
        extras = {}  # the toy's probability is there whatever the loss: no one gave it to be read
    overlap = ledger.train.dropped.get("prompt in the held-out split", 0)
    return PairReport(
        ledger=ledger.to_json(),
        prompt=lengths(prompt),
        chosen=lengths(chosen),
        rejected=lengths(rejected),
        length_bias=bias,
        scores=scores,
        shares=shares(prompt, chosen, rejected, batch, seed),
        duplicates=_duplicates(ledger),
        overlap=overlap,
        sources=_sources(pairs.train, places),
        extras=extras,
        longest=_longest(rows, prompt + np.maximum(chosen, rejected)),
        examples=_examples(rows, chat, seed),
        warnings=(
            *pair_warnings.length_warnings(bias),
            *pair_warnings.score_warnings(scores, kept),
            *pair_warnings.row_warnings(ledger, overlap, int(pairs.train.numbers("repeats")[places].sum())),
            *pair_warnings.token_warnings(ledger, sum(rows.dropped.values()), max_length),
            *pair_warnings.held_out_warnings(ledger.held_out.kept),
            *pair_warnings.extra_warnings(extras, kept, reads),
        ),
    )


def quantile(values: Numbers, share: float) -> float:
    """Return the least of `values` that at least `share` of them do not exceed, for `share` in (0, 1]."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def lengths(counts: Numbers) -> Lengths:
    """Return the quantiles and the histogram of `counts`, of which there is at least one."""
    least, most = int(counts.min()), int(counts.max())
    bins = np.minimum(BINS - 1, (counts - least) * BINS // max(1, most - least))  # the last bin holds `most`
    histogram = np.bincount(bins, minlength=BINS)
    return Lengths(least, int(quantile(counts, 0.5)), int(quantile(counts, 0.95)), most, tuple(histogram.tolist()))


def length_bias(chosen: Numbers, rejected: Numbers) -> LengthBias:
    """Return how often, and by how many tokens, the preferred answer is the longer one."""
    differences = chosen.astype(np.int64) - rejected
    longer, shorter = int((differences > 0).sum()), int((differences < 0).sum())
    median = float(np.median(differences))
    return LengthBias(longer, shorter, len(differences) - longer - shorter, median, _quartiles(differences))


def _quartiles(differences: Numbers) -> tuple[Quartile, ...]:
    different = differences[differences != 0]
    order = different[np.argsort(np.abs(different), kind="stable")]
    bounds = [len(order) * part // 4 for part in range(5)]
    parts = [order[start:stop] for start, stop in itertools.pairwise(bounds) if start < stop]
    return tuple(Quartile(abs(int(p[0])), abs(int(p[-1])), int((p > 0).sum()), len(p)) for p in parts)


def shares(prompt: Numbers, chosen: Numbers, rejected: Numbers, batch: int, seed: int) -> Shares:
    """Return what becomes of the tokens of pairs of those lengths in batches of `batch` pairs."""
    prompts, answers = int(prompt.sum()), int(chosen.sum() + rejected.sum())
    tokens = 2 * prompts + answers
    widths = np.random.default_rng(seed).permutation(prompt + np.maximum(chosen, rejected))
    starts = np.arange(0, len(widths), batch)
    sizes = np.diff([*starts, len(widths)])
    places = int((2 * sizes * np.maximum.reduceat(widths, starts)).sum())
    return Shares(answers / tokens, prompts / tokens, 1 - tokens / places, batch)


def _given(column: Numbers) -> Numbers:
    return column[~np.isnan(column)]


def _scores(scores: Numbers, cut: TopKCut | None) -> Scores | None:
    found = _given(scores)
    if not found.size:
        return None
    p25, median, p75 = (quantile(found, share) for share in (0.25, 0.5, 0.75))
    ends = float(found.min()), float(found.max())
    return Scores(ends[0], p25, median, p75, ends[1], int((found == 0).sum()), score_histogram(found), cut)


def score_histogram(scores: Numbers) -> tuple[int, ...]:
    """Return how many of `scores` fall into each of `BINS` bins of equal width, from the lowest to the highest."""
    halved = scores / 2  # the whole difference may be infinite
    least, width = halved.min(), halved.max() - halved.min() or 1.0
    bins = np.minimum(BINS - 1, ((halved - least) / width * BINS).astype(int))
    return tuple(np.bincount(bins, minlength=BINS).tolist())


def _duplicates(ledger: Ledger) -> int:
    return sum(rows for reason, rows in ledger.train.dropped.items() if "duplicate" in reason)


def _sources(pairs: PairTable, places: Numbers) -> dict[str, int]:
    """Return pairs by source, the largest first."""
    counts = np.bincount(pairs.sources()[places], minlength=len(pairs.stores)).tolist()
    named = [(store.facts.get("name", "made"), count) for store, count in zip(pairs.stores, counts, strict=True)]
    return dict(sorted(named, key=lambda one: -one[1]))


def _longest(rows: TokenizedPairs, tokens: Numbers) -> tuple[LongPair, ...]:
    order = np.argsort(-tokens, kind="stable")[:LONGEST].tolist()
    return tuple(LongPair(rows.pairs.origin(rows.rows[place]["row"]), int(tokens[place])) for place in order)


def _examples(rows: TokenizedPairs, chat: ChatTokenizer, seed: int) -> tuple[Example, ...]:
    places = random.Random(seed).sample(range(len(rows.rows)), min(EXAMPLES, len(rows.rows)))
    return tuple(
        Example(
            rows.pairs.origin(row["row"]),
            str(chat.tokenizer.decode(row["prompt_ids"])),
            _answer(row["chosen_ids"], chat),
            _answer(row["rejected_ids"], chat),
        )
        for row in (rows.rows[place] for place in places)
    )


def _answer(ids: list[int], chat: ChatTokenizer) -> Answer:
    end = chat.tokenizer.convert_tokens_to_ids(chat.end_of_turn)
    place = len(ids) - 1 - ids[::-1].index(end) if end in ids else len(ids)
    return Answer(str(chat.tokenizer.decode(ids[:place])), str(chat.tokenizer.decode(ids[place:])))
