"""What a run came to, in one word and one sentence; judged at each of its evaluation points."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from preftune.reporting.settings import GuardSettings

Word = Literal["healthy", "displaced", "collapsed", "saturated", "not_learning"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A word for the state, and the sentence that a person reads."""

    word: Word
    sentence: str

    def to_json(self) -> dict[str, str]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Entered:
    """A state with the step at which it was found."""

    step: int
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Return step, word and sentence."""
        return {"step": self.step, **self.verdict.to_json()}


class Watch:
    """Judges a run at its evaluation points.

    Attributes:
        verdict: The last one.
        entered: The states in the order in which the run came into them.
        stopped_at: The step at which a state ended the training; None where none did.
        stopped_by: That state.
    """

    def __init__(self, guard: GuardSettings, start: Mapping[str, Any]) -> None:
        """Judge by `guard`, against what was measured at the start."""
        self.guard, self.start = guard, start
        self.verdict: Verdict
        self.entered: list[Entered] = []
        self.stopped_at: int | None = None
        self.stopped_by = ""

    def see(self, step: int, now: Mapping[str, Any], *, final: bool) -> Entered | None:
        """Judge the run at a step, and return its state where it has just come into it."""
        self.verdict = judge(self.start, now, self.guard, final=final)
        if self.entered and self.entered[-1].verdict.word == self.verdict.word:
            return None
        self.entered.append(Entered(step, self.verdict))
        return self.entered[-1]

    def stops(self, step: int, state: str) -> bool:
        """Say whether `state`, found at a step, ends the training by `guard.stop_on`, and remember it."""
        if state not in self.guard.stop_on:
            return False
        self.stopped_at, self.stopped_by = step, state
        return True

    def final(self, max_steps: int) -> Verdict:
        """Return the last verdict, which says so where the training was stopped."""
        if self.stopped_at is None:
            return self.verdict
        what = " for a loss spike" if self.stopped_by == "spike" else ""
        said = f"{self.verdict.sentence} Stopped{what} at step {self.stopped_at} of {max_steps} by guard.stop_on."
        return replace(self.verdict, sentence=said)


def judge(start: Mapping[str, Any], end: Mapping[str, Any], guard: GuardSettings, *, final: bool = True) -> Verdict:
    r"""Judge a run by its held-out metrics at the start and later.

    A loss near 0 is saturated only where margins have run off. So the margin of rewards must be what the sigmoid loss
    needs to be that low, :math:`-\log(e^l - 1)` for a loss of :math:`l`: for sigmoid itself this follows from the loss,
    which is convex; `ipo` and `sppo_hard` come near 0 where margins stand at their target, as they should. A loss that
    never comes near 0, such as one with label smoothing or with a likelihood in it, is never called saturated.

    Args:
        start: `loss`, `accuracy`, `logratio_margin`, `rewards/margins`, `chosen_logp_per_token`,
            `rejected_logp_per_token`; None for what there was nothing to measure on.
        end: The same, later.
        guard: The thresholds.
        final: Whether the training is over. Before, that nothing is learned yet is no news.
    """
    chosen = _change(start, end, "chosen_logp_per_token")
    rejected = _change(start, end, "rejected_logp_per_token")
    if chosen < -guard.collapsed and rejected < -guard.collapsed:
        return Verdict(
            "collapsed",
            f"Both answers became unlikely (chosen {chosen:+.2f}, rejected {rejected:+.2f} nats per token): the "
            "policy left its language behind. Lower the learning rate or raise beta.",
        )
    if chosen < -guard.displaced:
        return Verdict(
            "displaced",
            f"The chosen answers themselves became less likely ({chosen:+.2f} nats per token): probability went to "
            "answers that are in neither column. Lower the learning rate or raise beta.",
        )
    if end["accuracy"] is None:
        return _judge_loss(start["loss"], end["loss"], final=final)
    return _judge_pairs(end, guard, chosen, final=final)


def _judge_pairs(end: Mapping[str, Any], guard: GuardSettings, chosen: float, *, final: bool) -> Verdict:
    accuracy, margin, loss = end["accuracy"], end["logratio_margin"], end["loss"]
    so_far = f"Held-out accuracy is {accuracy:.3f} (chance is 0.5) with a margin of {margin:+.3f} nats"
    ran_off = end["rewards/margins"] >= -math.log(math.expm1(guard.saturated_loss))
    if accuracy >= guard.saturated_accuracy and loss <= guard.saturated_loss and ran_off:
        return Verdict(
            "saturated",
            f"Held-out accuracy is {accuracy:.3f} at a loss of {loss:.3f}: nothing is left to learn from these "
            "pairs. Train less, or look whether something in the answers gives the label away.",
        )
    if accuracy >= 0.5 + guard.learned and margin > 0:
        return Verdict(
            "healthy",
            f"Held-out accuracy rose to {accuracy:.3f} with a margin of {margin:+.3f} nats; chosen answers moved by "
            f"{chosen:+.3f} nats per token.",
        )
    if not final:
        return Verdict("healthy", f"{so_far} so far.")
    return Verdict(
        "not_learning",
        f"{so_far}: the policy did not learn these preferences. Train longer, raise the learning rate, or look at the "
        "labels.",
    )


def _judge_loss(start: float, end: float, *, final: bool) -> Verdict:
    """Judge where there are no pairs, and so no accuracy."""
    if end < start:
        return Verdict(
            "healthy",
            f"Held-out loss fell from {start:.3f} to {end:.3f}; without pairs there is no accuracy to judge by.",
        )
    if not final:
        return Verdict("healthy", f"Held-out loss went from {start:.3f} to {end:.3f} so far.")
    return Verdict(
        "not_learning",
        f"Held-out loss went from {start:.3f} to {end:.3f}: the policy did not learn these labels. Train longer, "
        "raise the learning rate, or look at the labels.",
    )


def _change(start: Mapping[str, Any], end: Mapping[str, Any], name: str) -> float:
    return 0.0 if start[name] is None else end[name] - start[name]
