"""What a run's pairs look like before anything is trained: lengths, biases, shares, and what to know of them.

All but the ledger is of the pairs that are trained on, in the form in which they are: after selection and the cut.
"""

import itertools
import math
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from preftune.data.ledger import Ledger, TopKCut
from preftune.data.loading import PreparedPairs
from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import PreferencePair
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
from preftune.tokens import TokenizedPairs, TokenRow

if TYPE_CHECKING:  # to look at pairs needs no model, and so none of what loads one
    from preftune.training.preparation import Prepared
    from preftune.training.settings import TrainSettings

LONGEST = 5
EXAMPLES = 10


def report_run(prepared: "Prepared", train: "TrainSettings", seed: int) -> PairReport:
    """Look at the pairs of a run that stands ready."""
    pairs, rows, chat = prepared.pairs, prepared.rows, prepared.chat
    return report_pairs(pairs, rows, chat, batch=train.micro_batch, max_length=train.max_length, seed=seed)


def report_pairs(
    pairs: PreparedPairs, rows: TokenizedPairs, chat: ChatTokenizer, *, batch: int, max_length: int | None, seed: int
) -> PairReport:
    """Look at the pairs of a run.

    Args:
        pairs: Both splits, with the ledger that tokenising has completed.
        rows: The pairs to train on, as ids; at least one.
        chat: The tokenizer that made the ids.
        batch: Pairs in one micro-batch.
        max_length: Longest prompt and answer together, in tokens.
        seed: Of the random order and the choice of examples.
    """
    ledger, kept = pairs.ledger, len(rows.rows)
    trained = [pairs.train[row["row"]] for row in rows.rows]
    bias = length_bias(rows.rows)
    scores = _scores(trained, ledger.train.top_k)
    overlap = ledger.train.dropped.get("prompt in the held-out split", 0)
    extras = _extras(trained)
    return PairReport(
        ledger=ledger.to_json(),
        prompt=lengths([len(row["prompt_ids"]) for row in rows.rows]),
        chosen=lengths([len(row["chosen_ids"]) for row in rows.rows]),
        rejected=lengths([len(row["rejected_ids"]) for row in rows.rows]),
        length_bias=bias,
        scores=scores,
        shares=shares(rows.rows, batch, seed),
        duplicates=_duplicates(ledger),
        overlap=overlap,
        sources=_sources(trained),
        extras=extras,
        longest=_longest(rows),
        examples=_examples(rows, chat, seed),
        warnings=(
            *pair_warnings.length_warnings(bias),
            *pair_warnings.score_warnings(scores, kept),
            *pair_warnings.row_warnings(ledger, overlap),
            *pair_warnings.token_warnings(ledger, sum(rows.dropped.values()), max_length),
            *pair_warnings.held_out_warnings(ledger.held_out.kept),
            *pair_warnings.extra_warnings(extras, kept),
        ),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least of `values` that at least `share` of them do not exceed, for `share` in (0, 1]."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def lengths(counts: Sequence[int]) -> Lengths:
    """Return the quantiles and the histogram of `counts`, of which there is at least one."""
    least, most = min(counts), max(counts)
    histogram = [0] * BINS
    for count in counts:
        histogram[min(BINS - 1, (count - least) * BINS // max(1, most - least))] += 1  # the last bin holds `most`
    median, p95 = int(quantile(counts, 0.5)), int(quantile(counts, 0.95))
    return Lengths(least, median, p95, most, tuple(histogram))


def length_bias(rows: Sequence[TokenRow]) -> LengthBias:
    """Return how often, and by how many tokens, the preferred answer is the longer one."""
    differences = [len(row["chosen_ids"]) - len(row["rejected_ids"]) for row in rows]
    longer = sum(difference > 0 for difference in differences)
    equal = differences.count(0)
    shorter = len(rows) - longer - equal
    return LengthBias(longer, shorter, equal, float(statistics.median(differences)), _quartiles(differences))


def _quartiles(differences: Sequence[int]) -> tuple[Quartile, ...]:
    order = sorted((difference for difference in differences if difference), key=abs)
    bounds = [len(order) * part // 4 for part in range(5)]
    parts = [order[start:stop] for start, stop in itertools.pairwise(bounds) if start < stop]
    return tuple(Quartile(abs(part[0]), abs(part[-1]), sum(one > 0 for one in part), len(part)) for part in parts)


def shares(rows: Sequence[TokenRow], batch: int, seed: int) -> Shares:
    """Return what becomes of the tokens of `rows` in batches of `batch` pairs."""
    prompts = sum(len(row["prompt_ids"]) for row in rows)
    answers = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
    tokens = 2 * prompts + answers
    widths = [_tokens(row) for row in rows]
    random.Random(seed).shuffle(widths)
    batches = [widths[start : start + batch] for start in range(0, len(widths), batch)]
    places = sum(2 * len(one) * max(one) for one in batches)
    return Shares(answers / tokens, prompts / tokens, 1 - tokens / places, batch)


def _tokens(row: TokenRow) -> int:
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _scores(pairs: Sequence[PreferencePair], cut: TopKCut | None) -> Scores | None:
    found = [pair.extras["score"] for pair in pairs if "score" in pair.extras]
    if not found:
        return None
    p25, median, p75 = (quantile(found, share) for share in (0.25, 0.5, 0.75))
    return Scores(min(found), p25, median, p75, max(found), found.count(0.0), score_histogram(found), cut)


def score_histogram(scores: Sequence[float]) -> tuple[int, ...]:
    """Return how many of `scores` fall into each of `BINS` bins of equal width, from the lowest to the highest."""
    histogram = [0] * BINS
    least, half = min(scores) / 2, max(scores) / 2 - min(scores) / 2  # the whole difference may be infinite
    for score in scores:
        histogram[min(BINS - 1, int((score / 2 - least) / (half or 1.0) * BINS))] += 1
    return tuple(histogram)


def _duplicates(ledger: Ledger) -> int:
    return sum(rows for reason, rows in ledger.train.dropped.items() if "duplicate" in reason)


def _sources(pairs: Sequence[PreferencePair]) -> dict[str, int]:
    """Return pairs by source: their origin without the row."""
    return dict(Counter(pair.origin.rpartition(":")[0] or pair.origin for pair in pairs).most_common())


def _extras(pairs: Sequence[PreferencePair]) -> dict[str, int]:
    return dict(Counter(name for pair in pairs for name in pair.extras if not name.startswith("score")))


def _longest(rows: TokenizedPairs) -> tuple[LongPair, ...]:
    order = sorted(rows.rows, key=_tokens, reverse=True)[:LONGEST]
    return tuple(LongPair(rows.origins[row["row"]], _tokens(row)) for row in order)


def _examples(rows: TokenizedPairs, chat: ChatTokenizer, seed: int) -> tuple[Example, ...]:
    chosen = random.Random(seed).sample(rows.rows, min(EXAMPLES, len(rows.rows)))
    return tuple(
        Example(
            rows.origins[row["row"]],
            str(chat.tokenizer.decode(row["prompt_ids"])),
            _answer(row["chosen_ids"], chat),
            _answer(row["rejected_ids"], chat),
        )
        for row in chosen
    )


def _answer(ids: list[int], chat: ChatTokenizer) -> Answer:
    end = chat.tokenizer.convert_tokens_to_ids(chat.end_of_turn)
    place = len(ids) - 1 - ids[::-1].index(end) if end in ids else len(ids)
    return Answer(str(chat.tokenizer.decode(ids[:place])), str(chat.tokenizer.decode(ids[place:])))
