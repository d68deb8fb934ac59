"""The independent reference, continued: the losses of `variants` and `pointwise` from their papers, in float64."""

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps


def robust(logps: PairLogps, *, beta: float, label_smoothing: float = 0.1) -> Tensor:
    """rDPO, arXiv:2403.00409: ((1 - e) L(w, l) - e L(l, w)) / (1 - 2 e), with L the DPO loss."""
    chosen, rejected = _rewards(logps, beta)
    loss_of_label = _minus_log_sigma(chosen - rejected)
    loss_of_flipped_label = _minus_log_sigma(rejected - chosen)
    unbiased = (1.0 - label_smoothing) * loss_of_label - label_smoothing * loss_of_flipped_label
    return unbiased / (1.0 - 2.0 * label_smoothing)


def exo_pair(logps: PairLogps, *, beta: float, label_smoothing: float = 1e-3) -> Tensor:
    """EXO, arXiv:2402.00856, Eq. 16: KL(softmax of the two rewards || (1 - e, e))."""
    log_p = torch.log_softmax(torch.stack(_rewards(logps, beta)), dim=0)
    label = torch.tensor([[1.0 - label_smoothing], [label_smoothing]], dtype=torch.float64, device=log_p.device)
    return torch.sum(torch.exp(log_p) * (log_p - torch.log(label)), dim=0)


def nca_pair(logps: PairLogps, *, beta: float) -> Tensor:
    """NCA, arXiv:2402.05369: -log sigma(r_w) - 1/2 of the sum of log sigma(-r) over both answers."""
    chosen, rejected = _rewards(logps, beta)
    pushed_down = torch.stack([_minus_log_sigma(-reward) for reward in (chosen, rejected)])
    return _minus_log_sigma(chosen) + torch.mean(pushed_down, dim=0)


def bco_pair(logps: PairLogps, *, beta: float) -> Tensor:
    """BCO, arXiv:2404.04656, with a shift of 0: cross-entropy of a classifier that gives good answers sigma(r)."""
    good, bad = _rewards(logps, beta)
    return _minus_log_sigma(good) + _minus_log_sigma(-bad)


def sppo_hard(logps: PairLogps, *, beta: float) -> Tensor:
    """SPPO, arXiv:2405.00675, Eq. 4.7: (log ratio - eta (P - 1/2))^2 for each answer, P its chance to win."""
    eta = 1.0 / beta
    chosen, rejected = _rewards(logps, 1.0)
    return torch.square(chosen - eta * (1.0 - 0.5)) + torch.square(rejected - eta * (0.0 - 0.5))


def apo_zero(logps: PairLogps, *, beta: float) -> Tensor:
    """APO-zero, arXiv:2408.06266, Eq. 7, plus 1: -sigma(r_w) + sigma(r_l)."""
    chosen, rejected = _rewards(logps, beta)
    return 1.0 - _sigma(chosen) + _sigma(rejected)


def apo_down(logps: PairLogps, *, beta: float) -> Tensor:
    """APO-down, arXiv:2408.06266, Eq. 8, plus 1: sigma(r_w) - sigma(r_w - r_l)."""
    chosen, rejected = _rewards(logps, beta)
    return 1.0 + _sigma(chosen) - _sigma(chosen - rejected)


def discopop(logps: PairLogps, *, beta: float, tau: float = 0.05) -> Tensor:
    """DiscoPOP, arXiv:2406.08414, Eq. 5: (1 - w) log(1 + exp(-x)) + w exp(-x), with w = 1 / (1 + exp(-x / tau))."""
    chosen, rejected = _rewards(logps, beta)
    x = chosen - rejected
    log_w = -_minus_log_sigma(x / tau)
    return (1.0 - torch.exp(log_w)) * _minus_log_sigma(x) + torch.exp(log_w - x)


def sigmoid_norm(logps: PairLogps, *, beta: float) -> Tensor:
    """DPO per token, arXiv:2411.15124, Eq. 6: each reward is divided by its answer's tokens."""
    rewards = _rewards(logps, beta)
    chosen, rejected = (reward / length.double() for reward, length in zip(rewards, logps.lengths(), strict=True))
    return _minus_log_sigma(chosen - rejected)


def _rewards(logps: PairLogps, beta: float) -> tuple[Tensor, Tensor]:
    chosen = beta * (logps.policy_chosen.double() - logps.reference_chosen.double())
    rejected = beta * (logps.policy_rejected.double() - logps.reference_rejected.double())
    return chosen, rejected


def _minus_log_sigma(x: Tensor) -> Tensor:
    return torch.logaddexp(torch.zeros_like(x), -x)


def _sigma(x: Tensor) -> Tensor:
    return torch.exp(-_minus_log_sigma(x))
