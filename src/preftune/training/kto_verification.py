"""The checks at run time for single answers: the first batch against scratch, the first step against its start."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from preftune.losses import scratch
from preftune.losses.answers import AnswerLogps
from preftune.refusals import RunFailed
from preftune.training.verification import TOLERANCE, Forward, Verified

AnswerLoss = Callable[[AnswerLogps], Tensor]


def scratch_logps(policy: Forward, reference: Forward, batch: dict[str, Tensor], trained: AnswerLogps) -> AnswerLogps:
    """Compute the record of a batch from scratch, each sequence alone and without padding.

    Args:
        policy: Gives the policy's logits, of shape `(1, T, V)`, for ids of shape `(1, T)`.
        reference: The same of the reference.
        batch: `input_ids`, `attention_mask`, `completion_mask` of shape `(B, T)`, and the same of mismatched answers,
            named `KL_...`, of another T.
        trained: Gives labels and lengths.
    """
    sums = {
        f"{name}{suffix}": torch.cat(list(_sums(forward, batch, prefix)))
        for prefix, suffix in (("", ""), ("KL_", "_mismatched"))
        for name, forward in (("policy", policy), ("reference", reference))
    }
    return replace(trained, **sums)


def compare(
    trained: AnswerLogps, ours: AnswerLogps, loss: AnswerLoss, scratch_loss: AnswerLoss, dtype: torch.dtype
) -> Verified:
    """Compare what trains with what was computed from scratch.

    Raises:
        RunFailed: A log-probability or the loss differs by more than the tolerance of `dtype`.
    """
    largest = 0.0
    for name in ("policy", "reference", "policy_mismatched", "reference_mismatched"):
        lengths = trained.mismatched_lengths if name.endswith("_mismatched") else trained.lengths
        difference = (getattr(trained, name).double() - getattr(ours, name)).abs()
        largest = max(largest, difference.max().item())
        if not bool((difference / lengths <= TOLERANCE[dtype]).all()):
            raise RunFailed(
                f"the log-probability of the {_words(name)} must equal the one computed from scratch within "
                f"{TOLERANCE[dtype]:g} nats per token, got a difference of {difference.max().item():.4g} nats: "
                "the forward pass that trains is wrong for this model; report it, or set verify=off to go on "
                "unchecked"
            )
    ways = loss(trained).mean().item(), scratch_loss(trained).mean().item()
    if not abs(ways[0] - ways[1]) <= 1e-4 * max(1.0, abs(ways[1])):
        raise RunFailed(f"the loss must be {ways[1]:.6f} as computed from scratch, got {ways[0]:.6f}")
    return Verified(ways[0], scratch_loss(ours).mean().item(), largest, 4 * len(trained.policy), TOLERANCE[dtype])


def check_first_step(logps: AnswerLogps, loss: AnswerLoss, dtype: torch.dtype) -> None:
    """Check that the policy equals its reference before the first update, so that an answer costs half its weight.

    Raises:
        RunFailed: It does not; the message names the likely causes.
    """
    drifts = logps.logratio().abs() / logps.lengths, logps.mismatched_logratio().abs() / logps.mismatched_lengths
    drift = torch.maximum(*drifts).max()
    if bool(drift <= TOLERANCE[dtype]):
        return
    got, expected = loss(logps).mean().item(), loss(logps.at_reference()).mean().item()
    raise RunFailed(
        f"before the first step the policy must equal its reference, so that rewards are 0 and the loss is "
        f"{expected:.6f}, half of the mean weight; got a log-ratio of {drift.item():.4g} nats per token and a loss of "
        f"{got:.6f}. Likely causes: the reference is another model than the start (see reference=), dropout is live in "
        "the first step, an adapter that is not zero at its start, or weights that are not finite"
    )


def _sums(forward: Forward, batch: dict[str, Tensor], prefix: str) -> Iterator[Tensor]:
    columns = (batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask"))
    for ids, attended, completion in zip(*columns, strict=True):
        one, answer = ids[attended.bool()][None], completion[attended.bool()][None]
        yield scratch.completion_logps(forward(one), one, answer)


def _words(name: str) -> str:
    side, _, mismatched = name.partition("_")
    return f"{side}'s {mismatched} completion" if mismatched else f"{side}'s completion"
