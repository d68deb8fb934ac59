"""The independent reference: log-probabilities and losses written from their definitions.

It shares no line with the code that trains and none with TRL. Everything runs in float64, and nothing is fused,
so that it can be read beside the papers.
"""

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps


def completion_logps(logits: Tensor, input_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """Sum the log-probabilities of each sequence's completion tokens.

    The token at position t is predicted by the logits at position t - 1. Tokens of the prompt and padding count
    nothing.

    Args:
        logits: Of shape `(B, T, V)`.
        input_ids: Of shape `(B, T)`.
        completion_mask: 1 where the token belongs to the completion, of shape `(B, T)`.

    Returns:
        Log-probability of each completion, of shape `(B,)`, in nats, in float64.

    Source:
        The chain rule: log p(y | x) = sum over t of log p(y_t | x, y_<t).
    """
    totals = []
    for row_logits, row_ids, row_mask in zip(logits, input_ids, completion_mask, strict=True):
        positions = [t for t in range(1, len(row_ids)) if row_mask[t]]
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        for t in positions:
            scores = row_logits[t - 1].double()
            total = total + scores[row_ids[t]] - torch.logsumexp(scores, dim=0)
        totals.append(total)
    return torch.stack(totals)


def sigmoid(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO, arXiv:2305.18290, Eq. 7, with log sigma(x) = -log(1 + exp(-x)); smoothing from the cDPO note, Eq. 3."""
    chosen, rejected = _logratios(logps)
    reward_gap = beta * chosen - beta * rejected
    zero = torch.zeros_like(reward_gap)
    cost_if_right = torch.logaddexp(zero, -reward_gap)
    cost_if_wrong = torch.logaddexp(zero, reward_gap)
    return (1.0 - label_smoothing) * cost_if_right + label_smoothing * cost_if_wrong


def ipo(logps: PairLogps, *, beta: float) -> Tensor:
    """IPO, arXiv:2310.12036, Eq. 17, each log-ratio divided by its completion's tokens."""
    chosen, rejected = _logratios(logps)
    chosen_lengths, rejected_lengths = logps.lengths()
    gap = chosen / chosen_lengths.double() - rejected / rejected_lengths.double()
    return torch.square(gap - 0.5 / beta)


def hinge(logps: PairLogps, *, beta: float) -> Tensor:
    """The hinge of arXiv:2305.10425, Eq. 4, on the reward gap."""
    chosen, rejected = _logratios(logps)
    return torch.clamp(1.0 - (beta * chosen - beta * rejected), min=0.0)


def weighted(costs: Tensor, logps: PairLogps) -> Tensor:
    """Return each pair's cost as often as its weight says, once where it has none."""
    if "weight" not in logps.extras:
        return costs
    return torch.nan_to_num(logps.extras["weight"].double(), nan=1.0) * costs.double()


def _logratios(logps: PairLogps) -> tuple[Tensor, Tensor]:
    chosen = logps.policy_chosen.double() - logps.reference_chosen.double()
    rejected = logps.policy_rejected.double() - logps.reference_rejected.double()
    return chosen, rejected
