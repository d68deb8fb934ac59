"""What a run came to, in one word and one sentence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Word = Literal["healthy", "displaced", "collapsed", "saturated", "not_learning"]

# Fall of the chosen answers' log-probability, in nats per token, from which a policy counts as displaced.
DISPLACED = 0.5
# Fall of both answers' log-probabilities, in nats per token, from which it counts as collapsed.
COLLAPSED = 3.0
# Accuracy on held-out pairs from which, with a loss below SATURATED_LOSS, nothing is left to learn.
SATURATED = 0.99
SATURATED_LOSS = 0.05
# Rise of held-out accuracy over chance below which, with a margin not above 0, nothing was learned.
LEARNED = 0.02


@dataclass(frozen=True, slots=True)
class Verdict:
    """A word for the state, and the sentence that a person reads."""

    word: Word
    sentence: str

    def to_json(self) -> dict[str, str]:
        """Return the fields by name."""
        return asdict(self)


def judge(start: Mapping[str, Any], end: Mapping[str, Any]) -> Verdict:
    """Judge a run by its held-out metrics at start and end.

    Args:
        start: `loss`, `accuracy`, `logratio_margin`, `chosen_logp_per_token`, `rejected_logp_per_token`; None for what
            there was nothing to measure on.
        end: The same, after training.
    """
    chosen = _change(start, end, "chosen_logp_per_token")
    rejected = _change(start, end, "rejected_logp_per_token")
    accuracy, margin = end["accuracy"], end["logratio_margin"]
    if chosen <= -COLLAPSED and rejected <= -COLLAPSED:
        return Verdict(
            "collapsed",
            f"Both answers became unlikely (chosen {chosen:+.2f}, rejected {rejected:+.2f} nats per token): the "
            "policy left its language behind. Lower the learning rate or raise beta.",
        )
    if chosen <= -DISPLACED:
        return Verdict(
            "displaced",
            f"The chosen answers themselves became less likely ({chosen:+.2f} nats per token): probability went to "
            "answers that are in neither column. Lower the learning rate or raise beta.",
        )
    if accuracy is None:
        return _judge_loss(start["loss"], end["loss"])
    if accuracy >= SATURATED and end["loss"] <= SATURATED_LOSS:
        return Verdict(
            "saturated",
            f"Held-out accuracy is {accuracy:.3f} at a loss of {end['loss']:.3f}: nothing is left to learn from these "
            "pairs. Train less, or look whether something in the answers gives the label away.",
        )
    if accuracy < 0.5 + LEARNED or margin <= 0:
        return Verdict(
            "not_learning",
            f"Held-out accuracy is {accuracy:.3f} (chance is 0.5) with a margin of {margin:+.3f} nats: the policy did "
            "not learn these preferences. Train longer, raise the learning rate, or look at the labels.",
        )
    return Verdict(
        "healthy",
        f"Held-out accuracy rose to {accuracy:.3f} with a margin of {margin:+.3f} nats; chosen answers moved by "
        f"{chosen:+.3f} nats per token.",
    )


def _judge_loss(start: float, end: float) -> Verdict:
    """Judge where there are no pairs, and so no accuracy."""
    if end >= start:
        return Verdict(
            "not_learning",
            f"Held-out loss went from {start:.3f} to {end:.3f}: the policy did not learn these labels. Train longer, "
            "raise the learning rate, or look at the labels.",
        )
    return Verdict(
        "healthy",
        f"Held-out loss fell from {start:.3f} to {end:.3f}; without pairs there is no accuracy to judge by.",
    )


def _change(start: Mapping[str, Any], end: Mapping[str, Any], name: str) -> float:
    return 0.0 if start[name] is None else end[name] - start[name]
