"""What the data report says, as a record: `pairs.py` fills it, `pairs_terminal.py` and `pairs_page.py` show it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from preftune.data.ledger import TopKCut

BINS = 32


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in tokens; `histogram` counts pairs in `BINS` bins of equal width from `least` to `most`."""

    least: int
    median: int
    p95: int
    most: int
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quartile:
    """Pairs whose answers differ by `least` to `most` tokens; in `longer` of them the preferred one is longer."""

    least: int
    most: int
    longer: int
    pairs: int


@dataclass(frozen=True, slots=True)
class LengthBias:
    """How the length of an answer goes with its label.

    Attributes:
        longer: Pairs whose preferred answer is the longer one.
        shorter: Pairs whose preferred answer is the shorter one.
        equal: Pairs whose answers are equally long.
        median_difference: Tokens by which the preferred answer is longer, median over all pairs.
        quartiles: The pairs whose answers differ, by how much they do, in four parts of equal number.
    """

    longer: int
    shorter: int
    equal: int
    median_difference: float
    quartiles: tuple[Quartile, ...]

    @property
    def share(self) -> float:
        """Share of `longer` among the pairs whose answers differ in length; one half where none does."""
        different = self.longer + self.shorter
        return self.longer / different if different else 0.5


@dataclass(frozen=True, slots=True)
class Scores:
    """Strength of the preference, in the units of `data.score`, and where `data.top_k` cut.

    Attributes:
        least: Lowest score.
        p25: First quartile.
        median: Second quartile.
        p75: Third quartile.
        most: Highest score.
        zero: Pairs with a score of 0.
        histogram: Pairs in `BINS` bins of equal width from `least` to `most`.
        cut: Where `data.top_k` cut; None where it dropped nothing.
    """

    least: float
    p25: float
    median: float
    p75: float
    most: float
    zero: int
    histogram: tuple[int, ...]
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
    """What the pairs of a run look like.

    Attributes:
        ledger: That of `ledger.json`.
        prompt: Lengths of prompts.
        chosen: Lengths of preferred answers.
        rejected: Lengths of the others.
        length_bias: How length goes with the label.
        scores: Strength of the preference; None where no pair has one.
        shares: What becomes of the tokens.
        duplicates: Rows of train that were dropped for being copies.
        overlap: Pairs of train that were dropped because the held-out split has their prompt.
        sources: Pairs by where they came from, the most frequent first.
        extras: Pairs that carry a number other than a score, by its name.
        longest: The longest pairs.
        examples: Pairs drawn at random.
        warnings: What to know before training, in sentences.
    """

    ledger: Mapping[str, Any]
    prompt: Lengths
    chosen: Lengths
    rejected: Lengths
    length_bias: LengthBias
    scores: Scores | None
    shares: Shares
    duplicates: int
    overlap: int
    sources: Mapping[str, int]
    extras: Mapping[str, int]
    longest: tuple[LongPair, ...]
    examples: tuple[Example, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)
