"""The checks at run time: the first batch against the from-scratch reference, the first step against its start."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from preftune.losses import scratch
from preftune.losses.catalogue import PairLoss
from preftune.losses.logps import PairLogps
from preftune.refusals import RunFailed

Forward = Callable[[Tensor], Tensor]

# Largest difference allowed between two ways to the same log-probability, in nats per token of the completion,
# by the type the model computes in. A bfloat16 logit of 20 is rounded to a sixteenth.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@dataclass(frozen=True, slots=True)
class Verified:
    """What the run-time check compared.

    Attributes:
        loss: Mean loss of the first batch, as it trains.
        scratch: The same from the from-scratch log-probabilities and loss.
        largest_difference: Between the two ways to the log-probability of one completion, in nats.
        sequences: How many completions were compared, under policy and reference.
        tolerance: Allowed difference, in nats per token.
    """

    loss: float
    scratch: float
    largest_difference: float
    sequences: int
    tolerance: float

    def describe(self) -> str:
        """Return the line that a run prints."""
        return (
            f"verified: loss {self.loss:.6f}, scratch {self.scratch:.6f}; "
            f"largest difference {self.largest_difference:.1e} nats over {self.sequences} sequences"
        )

    def to_json(self) -> dict[str, float | int]:
        """Return the fields by name."""
        return asdict(self)


def scratch_logps(policy: Forward, reference: Forward, batch: dict[str, Tensor]) -> PairLogps:
    """Compute the record of a batch from scratch; its first half holds chosen, its second rejected.

    Each sequence goes through the model alone and without padding: another way to the same numbers, and one that
    holds the logits of a single sequence at a time.

    Args:
        policy: Gives the policy's logits, of shape `(1, T, V)`, for ids of shape `(1, T)`.
        reference: The same of the reference.
        batch: `input_ids`, `attention_mask` and `completion_mask`, each of shape `(2 B, T)`.
    """
    columns = (batch["input_ids"], batch["attention_mask"].bool(), batch["completion_mask"])
    sums: tuple[list[Tensor], list[Tensor]] = ([], [])
    for ids, attended, completion in zip(*columns, strict=True):
        one, answer = ids[attended][None], completion[attended][None]
        for side, forward in zip(sums, (policy, reference), strict=True):
            side.append(scratch.completion_logps(forward(one), one, answer))
    lengths = batch["completion_mask"][:, 1:].sum(dim=1)
    (policy_chosen, policy_rejected), (reference_chosen, reference_rejected) = (
        torch.cat(side).chunk(2) for side in sums
    )
    return PairLogps(policy_chosen, policy_rejected, reference_chosen, reference_rejected, *lengths.chunk(2))


def compare(
    trained: PairLogps, ours: PairLogps, pair_loss: PairLoss, scratch_loss: PairLoss, dtype: torch.dtype
) -> Verified:
    """Compare what trains with what was computed from scratch.

    Raises:
        RunFailed: A log-probability or the loss differs by more than the tolerance of `dtype`.
    """
    ours = replace(ours, extras=trained.extras)
    chosen, rejected = ours.lengths()
    sums = {
        "policy's chosen": (trained.policy_chosen, ours.policy_chosen, chosen),
        "policy's rejected": (trained.policy_rejected, ours.policy_rejected, rejected),
        "reference's chosen": (trained.reference_chosen, ours.reference_chosen, chosen),
        "reference's rejected": (trained.reference_rejected, ours.reference_rejected, rejected),
    }
    largest = 0.0
    for name, (got, expected, lengths) in sums.items():
        difference = (got.double() - expected).abs()
        largest = max(largest, difference.max().item())
        if not bool((difference / lengths <= TOLERANCE[dtype]).all()):
            raise RunFailed(
                f"the log-probability of the {name} completion must equal the one computed from scratch within "
                f"{TOLERANCE[dtype]:g} nats per token, got a difference of {difference.max().item():.4g} nats: "
                "the forward pass that trains is wrong for this model; report it, or set verify=off to go on "
                "unchecked"
            )
    ways = pair_loss(trained).mean().item(), scratch_loss(trained).mean().item()
    if abs(ways[0] - ways[1]) > 1e-4 * max(1.0, abs(ways[1])):
        raise RunFailed(f"the loss must be {ways[1]:.6f} as computed from scratch, got {ways[0]:.6f}")
    return Verified(ways[0], scratch_loss(ours).mean().item(), largest, 4 * len(chosen), TOLERANCE[dtype])


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
