"""The checks at run time: what trains against the from-scratch reference and TRL, and the first step's start.

1. The log-probabilities of a micro-batch, as they train, are compared with those of each sequence alone; so are the
   divergences and collisions of its tokens, where the loss reads them.
2. Its loss is computed by the run's own loss, from scratch, and by TRL where TRL has that loss.
3. The gradient that the optimizer is about to take is compared with the one from scratch, in norm and direction.
4. Lengths, and the numbers that travel with the pairs, are compared with those of their rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from preftune.losses.logps import PairLogps
from preftune.losses.objective import PairLoss
from preftune.refusals import RunFailed

Cost = Callable[[Any], Tensor]

# Largest difference allowed between two ways to the same log-probability, in nats per token of the completion,
# by the type the model computes in. A bfloat16 logit of 20 is rounded to a sixteenth.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
# The same between two gradient norms, as a share; and the most by which the cosine of their angle may be below 1.
GRADIENT_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 0.2}
# The same between two ways to the loss of the same log-probabilities, as a share of the loss, or of 1 nat.
_LOSS_TOLERANCE = 1e-4
# What is read of the distribution at a token, and the share of it whose error is that of a log-probability: the
# collision adds up squares, whose logarithms are wrong by twice as much.
_SHARES = {"kl": 1.0, "collision": 0.5}


class Side(Protocol):
    """A micro-batch computed from scratch."""

    def logps(self, trained: Any) -> Any:
        """Return its record, in float64, with what does not come from a model as in `trained`."""

    def lengths(self, logps: Any) -> dict[str, Tensor]:
        """Return the tokens behind each sum of log-probabilities, each of shape `(B,)`, by the sum's name."""

    def gradient(self, cost: Cost, logps: Any, moving: Sequence[nn.Parameter]) -> list[Tensor]:
        """Return the gradient of the mean of `cost` to what trains, in float32."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A micro-batch as it trained.

    Attributes:
        logps: Its log-probabilities, cut from the graph: the record that its loss takes.
        loss: Its mean loss.
        trl: The same by TRL's own computation on the same forward pass; None where TRL has no such loss.
        trl_slopes: Largest difference between the two gradients to a token's log-probability, as a share of the
            largest such gradient; None where TRL has no such loss.
        gradient_norm: Norm of the gradient of that mean to what trains; None where dropout is drawn at random.
        gradient_cosine: Cosine of the angle between that gradient and the one from scratch; None where it has no norm.
    """

    logps: Any
    loss: float
    trl: float | None = None
    trl_slopes: float | None = None
    gradient_norm: float | None = None
    gradient_cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What the run-time check compared.

    Attributes:
        loss: Mean loss of the micro-batch, as it trains.
        scratch: The same from the from-scratch log-probabilities and loss.
        trl: The same by TRL; None where TRL has no such loss.
        largest_difference: Between the two ways to the log-probability of one completion, in nats.
        sequences: How many completions were compared, under policy and reference.
        tolerance: Allowed difference, in nats per token.
        gradient_norm: Of the gradient that trains; None where dropout is drawn at random, or it is not finite.
        gradient_norm_scratch: The same from scratch.
        seconds: Wall-clock seconds that the check took.
        checks: How many steps were checked so far.
    """

    loss: float
    scratch: float
    trl: float | None
    largest_difference: float
    sequences: int
    tolerance: float
    gradient_norm: float | None
    gradient_norm_scratch: float | None
    seconds: float = 0.0
    checks: int = 1

    def describe(self) -> str:
        """Return the line that a run prints."""
        trl = "TRL has no such loss" if self.trl is None else f"TRL {self.trl:.6f}"
        reason = "dropout is drawn at random" if self.gradient_norm_scratch is None else "it is not finite"
        gradient = f"; gradient not compared, as {reason}"
        if self.gradient_norm is not None:
            gradient = f"; gradient norm {self.gradient_norm:.6g}, scratch {self.gradient_norm_scratch:.6g}"
        return (
            f"verified: loss {self.loss:.6f}, scratch {self.scratch:.6f}, {trl}; "
            f"largest difference {self.largest_difference:.0e} nats over {self.sequences} sequences{gradient}; "
            f"{self.seconds:.1f} s"
        )

    def to_json(self) -> dict[str, float | int | None]:
        """Return the fields by name."""
        return asdict(self)


def is_due(verify: str, step: int, last: Verified | None) -> bool:
    """Return whether the step after `step` others is checked.

    Args:
        verify: `first_batch`, `every_<n>` (the first, and each that n divides), or `off`.
        step: Optimizer steps done.
        last: What the last check of this process compared.
    """
    if verify == "off":
        return False
    every = verify.removeprefix("every_")
    return last is None or (every != verify and step % int(every) == 0)


def compare(
    trained: Trained, ours: Any, side: Side, cost: Cost, scratch_gradient_norm: float | None, dtype: torch.dtype
) -> Verified:
    """Compare what trains with what was computed from scratch and by TRL.

    Args:
        trained: The micro-batch as it trained.
        ours: Its record from scratch.
        side: The from-scratch side, which tells how many tokens stand behind each sum.
        cost: The from-scratch loss.
        scratch_gradient_norm: The gradient from scratch, where it was computed.
        dtype: What the model computes in.

    Raises:
        RunFailed: A log-probability, the loss or the gradient differs by more than the tolerance of `dtype`, or a
            number is not that of its pair.
    """
    lengths = side.lengths(ours)
    sums = {name: (getattr(trained.logps, name), getattr(ours, name), tokens) for name, tokens in lengths.items()}
    largest = _compare_sums(sums, TOLERANCE[dtype])
    _compare_sums(_sums_of_distributions(trained.logps, ours, lengths), TOLERANCE[dtype])
    _compare_rows(trained.logps, ours)
    _compare_losses(trained, cost(trained.logps).mean().item())
    _compare_gradients(trained, scratch_gradient_norm, GRADIENT_TOLERANCE[dtype])
    return Verified(
        trained.loss,
        cost(ours).mean().item(),
        trained.trl,
        largest,
        sum(len(tokens) for tokens in lengths.values()),
        TOLERANCE[dtype],
        trained.gradient_norm,
        scratch_gradient_norm,
    )


def check_first_step(logps: PairLogps, pair_loss: PairLoss, dtype: torch.dtype) -> None:
    """Check that the policy equals its reference before the first update, so that every reward is 0.

    Raises:
        RunFailed: It does not; the message names the likely causes.
    """
    chosen, rejected = logps.lengths()
    drift = torch.maximum(logps.chosen_logratio().abs() / chosen, logps.rejected_logratio().abs() / rejected).max()
    if bool(drift <= TOLERANCE[dtype]):
        return
    loss, expected = pair_loss(logps).mean().item(), pair_loss(logps.at_reference()).mean().item()
    raise RunFailed(
        f"before the first step the policy must equal its reference, so that rewards are 0 and the loss is "
        f"{expected:.6f}; got a log-ratio of {drift.item():.4g} nats per token and a loss of {loss:.6f}. Likely "
        "causes: the reference is another model than the start (see reference=), dropout is live in the first "
        "step, an adapter that is not zero at its start, or weights that are not finite"
    )


def _compare_sums(sums: Mapping[str, tuple[Tensor, Tensor, Tensor]], tolerance: float) -> float:
    """Refuse log-probabilities that differ; return the largest difference, in nats."""
    largest = 0.0
    for name, (got, expected, lengths) in sums.items():
        difference = (got.double() - expected).abs()
        largest = max(largest, difference.max().item())
        if not bool((difference / lengths <= tolerance).all()):
            raise RunFailed(
                f"{_named(name)} must equal the one computed from scratch within {tolerance:g} nats per token, got a "
                "difference of "
                f"{difference.max().item():.4g} nats: the forward pass that trains is wrong for this model; report it, "
                "or set verify=off to go on unchecked"
            )
    return largest


def _named(sum_of: str) -> str:
    what, _, answer = sum_of.partition("_")
    completion = f"{answer} completion".strip()
    return f"the {what} of the {completion}" if what in _SHARES else f"the log-probability of the {what}'s {completion}"


def _sums_of_distributions(
    got: Any, expected: Any, lengths: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return what was read of the distributions at each token, added up: got, expected, tokens."""
    found = {}
    for answer in ("chosen", "rejected"):
        sides = [getattr(record, f"{answer}_tokens", None) for record in (got, expected)]
        for name, share in _SHARES.items():
            values = [each for side in sides if (each := getattr(side, name, None)) is not None]
            if len(values) == 2:
                sums = [share * each.double().sum(dim=1) for each in values]
                found[f"{name}_{answer}"] = sums[0], sums[1], lengths[f"policy_{answer}"]
    return found


def _compare_rows(got: Any, expected: Any) -> None:
    """Refuse lengths, or numbers that travel with the pairs, that are not those of the pairs."""
    for name, numbers in _of_rows(expected).items():
        given, right = _of_rows(got)[name].double(), numbers.double()
        wrong = ~torch.isclose(given, right, equal_nan=True)
        if bool(wrong.any()):
            raise RunFailed(
                f"{name} must be that of each pair's own row, got {given[wrong][0].item():g} where the row "
                f"has {right[wrong][0].item():g}; report it, or set verify=off to go on unchecked"
            )


def _of_rows(logps: Any) -> dict[str, Tensor]:
    lengths = {name: getattr(logps, name, None) for name in ("chosen_lengths", "rejected_lengths")}
    return {**getattr(logps, "extras", {}), **{name: each for name, each in lengths.items() if each is not None}}


def _compare_losses(trained: Trained, from_scratch: float) -> None:
    """Refuse losses that differ, by name of the one that stands alone."""
    losses = {"preftune's own loss": trained.loss, "the from-scratch loss": from_scratch}
    if trained.trl is not None:
        losses["TRL"] = trained.trl
    tolerance = _LOSS_TOLERANCE * max(1.0, abs(from_scratch))
    slopes_differ = trained.trl_slopes is not None and not trained.trl_slopes <= 1e-3
    if _spread(losses.values()) <= tolerance and not slopes_differ:
        return
    if slopes_differ and _spread(losses.values()) <= tolerance:
        raise RunFailed(
            "the gradient to each token's log-probability must be the same as TRL's, got a difference of "
            f"{trained.trl_slopes:.2g} of the largest, at the same loss of {trained.loss:.6f}; report it, or set "
            "verify=off to go on unchecked"
        )
    alone = [n for n in losses if _spread(v for name, v in losses.items() if name != n) <= tolerance]
    who = f"{alone[0]} disagrees with the other two" if len(losses) == 3 and len(alone) == 1 else "none agree"
    got = ", ".join(f"{value:.6f} by {name}" for name, value in losses.items())
    raise RunFailed(
        f"the loss must be the same {len(losses)} ways, got {got}: {who if len(losses) == 3 else 'they disagree'}; "
        "report it, or set verify=off to go on unchecked"
    )


def _spread(values: Any) -> float:
    found = list(values)
    return math.inf if any(math.isnan(value) for value in found) else max(found) - min(found)


def _compare_gradients(trained: Trained, expected: float | None, tolerance: float) -> None:
    got, cosine = trained.gradient_norm, trained.gradient_cosine
    if got is None or expected is None:
        return
    wrong = "the backward pass that trains is wrong for this model; report it, or set verify=off to go on unchecked"
    if not abs(got - expected) <= tolerance * max(abs(expected), 1e-6):
        raise RunFailed(
            f"the gradient norm must be {expected:.6g} as computed from scratch, within {tolerance:g} of it, got "
            f"{got:.6g}: {wrong}"
        )
    if cosine is not None and expected > 1e-6 and not cosine >= 1 - tolerance:
        raise RunFailed(
            f"the gradient must point where the one computed from scratch points, with a cosine of at least "
            f"{1 - tolerance:g} between them, got {cosine:.4f}: {wrong}"
        )
