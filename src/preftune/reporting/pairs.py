"""What a run's pairs look like before anything is trained: lengths, biases, shares, and what to know of them.

All but the ledger is of the pairs that are trained on, in the form in which they are: after selection and the cut.
"""

import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from preftune.data.ledger import TopKCut
from preftune.data.loading import PreparedPairs
from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import PreferencePair
from preftune.tokens import TokenizedPairs, TokenRow

BINS = 32
LONGEST = 5
EXAMPLES = 3
# Share of preferred answers that are the longer one (or the shorter one) above which the label follows the length.
LENGTH_BIAS = 0.65
# Held-out pairs below which their accuracy says little.
FEW_HELD_OUT = 50
# Share of train pairs dropped for their length above which what is left is another set of pairs.
MANY_DROPPED = 0.1


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in tokens; `histogram` counts pairs in `BINS` bins of equal width from `least` to `most`."""

    least: int
    median: int
    p95: int
    most: int
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LengthBias:
    """How the length of an answer goes with its label.

    Attributes:
        longer: Pairs whose preferred answer is the longer one.
        shorter: Pairs whose preferred answer is the shorter one.
        equal: Pairs whose answers are equally long.
        median_difference: Tokens by which the preferred answer is longer, median over all pairs.
    """

    longer: int
    shorter: int
    equal: int
    median_difference: float

    @property
    def share(self) -> float:
        """Share of `longer` among the pairs whose answers differ in length; one half where none does."""
        different = self.longer + self.shorter
        return self.longer / different if different else 0.5


@dataclass(frozen=True, slots=True)
class Scores:
    """Strength of the preference, in the units of `data.score`, and where `data.top_k` cut."""

    least: float
    p25: float
    median: float
    p75: float
    most: float
    cut: TopKCut | None


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the tokens that a trainer handles which gives each answer a copy of the prompt.

    Attributes:
        loss: Of those tokens, the ones that carry loss: the answers.
        second_prompt: Of those tokens, the prompt's second copy.
        padding: Of all places in batches of `batch` pairs in a random order, those that hold no token.
        batch: Pairs at once, each of which is two sequences padded to the longest in the batch.
    """

    loss: float
    second_prompt: float
    padding: float
    batch: int


@dataclass(frozen=True, slots=True)
class LongPair:
    """A pair by its origin, with the tokens of its prompt and longer answer together."""

    origin: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The decoded tokens of an answer: its text, and its end token with what follows, empty where that was cut."""

    text: str
    end: str


@dataclass(frozen=True, slots=True)
class Example:
    """A pair decoded from its ids, special tokens included."""

    origin: str
    prompt: str
    chosen: Answer
    rejected: Answer


@dataclass(frozen=True, slots=True)
class PairReport:
    """What the pairs of a run look like; `ledger` is that of `ledger.json`."""

    ledger: Mapping[str, Any]
    prompt: Lengths
    chosen: Lengths
    rejected: Lengths
    length_bias: LengthBias
    scores: Scores | None
    shares: Shares
    longest: tuple[LongPair, ...]
    examples: tuple[Example, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


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
    bias = length_bias(rows.rows)
    scores = _scores([pairs.train[row["row"]] for row in rows.rows], pairs.ledger.train.top_k)
    return PairReport(
        ledger=pairs.ledger.to_json(),
        prompt=lengths([len(row["prompt_ids"]) for row in rows.rows]),
        chosen=lengths([len(row["chosen_ids"]) for row in rows.rows]),
        rejected=lengths([len(row["rejected_ids"]) for row in rows.rows]),
        length_bias=bias,
        scores=scores,
        shares=shares(rows.rows, batch, seed),
        longest=_longest(rows),
        examples=_examples(rows, chat, seed),
        warnings=(
            *_bias_warnings(bias),
            *_cut_warnings(pairs.ledger.train.top_k),
            *_length_warnings(pairs, rows, max_length),
            *_held_out_warnings(pairs.ledger.held_out.kept),
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
    return LengthBias(longer, len(rows) - longer - equal, equal, float(statistics.median(differences)))


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
    return Scores(min(found), p25, median, p75, max(found), cut)


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


def _bias_warnings(bias: LengthBias) -> Iterator[str]:
    for share, word in ((bias.share, "longer"), (1 - bias.share, "shorter")):
        if share > LENGTH_BIAS:
            yield (
                f"{100 * share:.0f} % of preferred answers are the {word} one, of {bias.longer + bias.shorter:,} pairs "
                "whose answers differ in length: the policy may learn the length"
            )


def _cut_warnings(cut: TopKCut | None) -> Iterator[str]:
    if cut and cut.dropped:
        yield (
            f"{cut.kept + cut.dropped:,} pairs tie at the cut of top_k, at a score of {cut.score:g}: {cut.kept:,} of "
            "them were kept, by content hash"
        )


def _length_warnings(pairs: PreparedPairs, rows: TokenizedPairs, max_length: int | None) -> Iterator[str]:
    ledger = pairs.ledger
    dropped = sum(rows.dropped.values())
    if dropped > MANY_DROPPED * len(rows.origins):
        yield (
            f"{dropped:,} of {len(rows.origins):,} train pairs were dropped for their length at "
            f"train.max_length={max_length}: raise it, or the model sees short pairs alone"
        )
    if truncated := ledger.train.truncated + ledger.held_out.truncated:
        yield (
            f"{truncated:,} of {ledger.train.kept + ledger.held_out.kept:,} pairs were cut at "
            f"train.max_length={max_length}: an answer without its end token does not teach to stop"
        )


def _held_out_warnings(kept: int) -> Iterator[str]:
    if kept < FEW_HELD_OUT:
        error = 50 / math.sqrt(kept)  # the standard error of a share near one half, in points
        yield (
            f"the held-out split holds fewer than {FEW_HELD_OUT} pairs, {kept}: the standard error of its accuracy is "
            f"about {error:.0f} points"
        )
