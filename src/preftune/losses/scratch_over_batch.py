"""The from-scratch side of `over_batch`: as in `scratch`, each from its paper, in float64."""

import math

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps


def aot(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """AOT, arXiv:2406.05882, Algorithm 1, paired: quantiles of the policy's margin against the reference's."""
    policy = _in_order(logps.policy_chosen.double() - logps.policy_rejected.double())
    reference = _in_order(logps.reference_chosen.double() - logps.reference_rejected.double())
    return _dominance(policy, reference, beta, label_smoothing)


def aot_unpaired(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """AOT, arXiv:2406.05882, Algorithm 1, unpaired: quantiles of chosen log-ratios against rejected ones."""
    chosen = _in_order(logps.policy_chosen.double() - logps.reference_chosen.double())
    rejected = _in_order(logps.policy_rejected.double() - logps.reference_rejected.double())
    return _dominance(chosen, rejected, beta, label_smoothing)


def sft(logps: PairLogps) -> Tensor:
    """The negative log-likelihood of chosen in units of the batch's mean answer, whose mean is that of a token."""
    mean_length = torch.mean(logps.lengths()[0].double())
    return torch.neg(logps.policy_chosen.double()) / mean_length


def beta_dpo(logps: PairLogps, *, beta: float, alpha: float) -> Tensor:
    """beta-DPO, arXiv:2407.08639, Sec. 4: DPO with the batch's beta, which is a number and no function of weights."""
    chosen = logps.policy_chosen.double() - logps.reference_chosen.double()
    rejected = logps.policy_rejected.double() - logps.reference_rejected.double()
    rewards = (beta * chosen - beta * rejected).tolist()
    batch_mean = math.fsum(rewards) / len(rewards)
    usual = beta * logps.running["margin"] if "margin" in logps.running else batch_mean
    of_batch = max(beta + alpha * beta * (batch_mean - usual), 0.001 * beta)
    height = of_batch * (rejected - chosen)
    return torch.logaddexp(torch.zeros_like(height), height)


def _in_order(numbers: Tensor) -> Tensor:
    """Return the numbers from least to greatest."""
    return torch.stack([numbers[place] for place in sorted(range(len(numbers)), key=numbers.tolist().__getitem__)])


def _dominance(above: Tensor, below: Tensor, beta: float, label_smoothing: float) -> Tensor:
    right = torch.logaddexp(torch.zeros_like(above), beta * below - beta * above)
    wrong = torch.logaddexp(torch.zeros_like(above), beta * above - beta * below)
    return right + label_smoothing * (wrong - right)
