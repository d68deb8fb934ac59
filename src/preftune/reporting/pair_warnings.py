"""What is to be known of a run's pairs before training, in plain words."""

import math
from collections.abc import Collection, Iterator, Mapping

from preftune.data.ledger import Ledger
from preftune.reporting.pair_report import LengthBias, Scores

# Share of preferred answers that are the longer one (or the shorter one) above which the label follows the length.
LENGTH_BIAS = 0.65
# Held-out pairs below which their accuracy says little.
FEW_HELD_OUT = 50
# Share of rows dropped for one reason above which what is left is another set of pairs.
MANY_DROPPED = 0.1


def length_warnings(bias: LengthBias) -> Iterator[str]:
    """Warn of a label that follows the length of the answer."""
    for share, word in ((bias.share, "longer"), (1 - bias.share, "shorter")):
        if share > LENGTH_BIAS:
            yield (
                f"{100 * share:.0f} % of preferred answers are the {word} one, of {bias.longer + bias.shorter:,} pairs "
                "whose answers differ in length: the policy may learn the length"
            )


def score_warnings(scores: Scores | None, pairs: int) -> Iterator[str]:
    """Warn of ties: at the cut of top_k, and of a score of 0 among the `pairs` to train on."""
    if scores is None:
        return
    cut = scores.cut
    if cut and cut.dropped:
        yield (
            f"{cut.kept + cut.dropped:,} pairs tie at the cut of top_k, at a score of {cut.score:g}: {cut.kept:,} of "
            "them were kept, by content hash"
        )
    if scores.zero:
        yield (
            f"{scores.zero:,} of {pairs:,} train pairs have a score of 0: neither answer was found better, yet one is "
            "trained as preferred; data.ties=drop leaves them out"
        )


def row_warnings(ledger: Ledger, overlap: int, repeating: int) -> Iterator[str]:
    """Warn of prompts in both splits or within answers, of pairs that contradict each other, and of many wrong rows."""
    if overlap:
        yield (
            f"the held-out split shares {ledger.train.shared_prompts:,} prompts with train: the {overlap:,} train "
            "pairs that hold them were dropped"
        )
    if repeating:
        yield (
            f"{repeating:,} train pairs begin both answers with the text of their prompt: where it was put there by "
            "mistake, the user's turn is trained on"
        )
    if conflicting := ledger.train.conflicting:
        yield (
            f"{conflicting:,} train pairs contradict each other, the same two answers being preferred in both orders; "
            "data.conflicts says what becomes of them"
        )
    for name, split in (("train", ledger.train), ("held-out", ledger.held_out)):
        wrong = sum(rows for reason, rows in split.dropped.items() if reason.startswith("wrong: "))
        if wrong > MANY_DROPPED * split.read:
            yield f"{wrong:,} of {split.read:,} {name} rows were wrong and dropped: see whether the dialect fits"


def token_warnings(ledger: Ledger, too_long: int, max_length: int | None) -> Iterator[str]:
    """Warn of pairs dropped or cut at `max_length`; `too_long` train pairs were dropped for it."""
    pairs = ledger.train.kept + too_long
    if too_long > MANY_DROPPED * pairs:
        yield (
            f"{too_long:,} of {pairs:,} train pairs were dropped for their length at "
            f"train.max_length={max_length}: raise it, or the model sees short pairs alone"
        )
    if truncated := ledger.train.truncated + ledger.held_out.truncated:
        yield (
            f"{truncated:,} of {ledger.train.kept + ledger.held_out.kept:,} pairs were cut at "
            f"train.max_length={max_length}: an answer without its end token does not teach to stop"
        )


def held_out_warnings(kept: int) -> Iterator[str]:
    """Warn of a held-out split whose `kept` pairs are few."""
    if kept < FEW_HELD_OUT:
        error = 50 / math.sqrt(kept)  # the standard error of a share near one half, in points
        yield (
            f"the held-out split holds fewer than {FEW_HELD_OUT} pairs, {kept}: the standard error of its accuracy is "
            f"about {error:.0f} points"
        )


def extra_warnings(extras: Mapping[str, int], pairs: int, reads: Collection[str]) -> Iterator[str]:
    """Say which of the `pairs` to train on carry a number beside their score that the loss does not read."""
    for name, count in extras.items():
        if name not in reads:
            yield (
                f"{count:,} of {pairs:,} train pairs carry a {name}: only a loss that reads it is moved by it, and one "
                "that does not trains every pair alike"
            )
