"""The checks at run time for single answers: a micro-batch from scratch, the first step against its start."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from preftune.losses import scratch
from preftune.losses.answers import AnswerLogps
from preftune.refusals import RunFailed
from preftune.training.scratch_side import Cost, Forward, alone, total_gradient
from preftune.training.verification import TOLERANCE

AnswerLoss = Callable[[AnswerLogps], Tensor]


class AnswerSide:
    """A micro-batch of answers computed from scratch, each sequence alone and without padding."""

    def __init__(self, policy: Forward, reference: Forward, batch: dict[str, Tensor]) -> None:
        """Keep what is needed.

        Args:
            policy: Gives the policy's logits, of shape `(1, T, V)`, for ids of shape `(1, T)`.
            reference: The same of the reference.
            batch: `input_ids`, `attention_mask`, `completion_mask` of shape `(B, T)`, and the same of mismatched
                answers, named `KL_...`, of another T.
        """
        self.policy, self.reference, self.batch = policy, reference, batch

    @torch.no_grad()
    def logps(self, trained: AnswerLogps) -> AnswerLogps:
        """Compute the record of the batch, in float64, with the labels of `trained`."""
        sums = {
            f"{model}{suffix}": torch.cat(list(_sums(forward, self.batch, prefix)))
            for prefix, suffix in (("", ""), ("KL_", "_mismatched"))
            for model, forward in (("policy", self.policy), ("reference", self.reference))
        }
        return replace(trained, **sums)

    def lengths(self, logps: AnswerLogps) -> dict[str, Tensor]:
        """Return the tokens behind each sum of log-probabilities, each of shape `(B,)`, by the sum's name."""
        own = {"policy": logps.lengths, "reference": logps.lengths}
        return own | {f"{model}_mismatched": logps.mismatched_lengths for model in own}

    def gradient(self, cost: Cost, logps: AnswerLogps, moving: Sequence[nn.Parameter]) -> list[Tensor]:
        """Return the gradient of the mean of `cost` to what trains, in float32."""
        policy = logps.policy.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(cost(replace(logps, policy=policy)).mean(), policy)
        sums = _sums(self.policy, self.batch, "")
        return total_gradient((slope * one.sum() for slope, one in zip(slopes, sums, strict=True)), moving)


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
    for ids, answer in alone(batch, prefix):
        yield scratch.completion_logps(forward(ids), ids, answer)
