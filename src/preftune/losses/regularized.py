"""Losses of a pair's margin with a term that bounds it: pure functions, unreduced."""

import torch
import torch.nn.functional as F
from torch import Tensor

from preftune.losses.logps import PairLogps


def dpop(logps: PairLogps, *, beta: float, penalty: float) -> Tensor:
    r"""DPO-Positive: DPO that costs more where chosen has become less likely than under the reference.

    .. math:: -\log \sigma\Big(\beta \big(h - \lambda \max(0, -\log\frac{\pi(y_w)}{\rho(y_w)})\big)\Big)

    with :math:`h` the margin. A policy equal to its reference costs log 2 = 0.693 per pair, whatever the arguments.
    One nat lost on chosen costs as much as 1 + `penalty` nats of margin; one gained is worth one.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0. Larger keeps the policy closer to the reference.
        penalty: The paper's lambda, at least 0; 0 is DPO. The paper trains with 50.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or `penalty` is outside its range.

    Source:
        Pal et al. 2024, arXiv:2402.13228, Eq. 3.

    Example:
        >>> zero = torch.zeros(2)
        >>> dpop(PairLogps(torch.tensor([1.0, -1.0]), zero, zero, zero), beta=0.5, penalty=3.0)
        tensor([0.4741, 2.1269])
    """
    _require_positive("beta", beta)
    _require_not_negative("penalty", penalty)
    lost = torch.relu(-logps.chosen_logratio())
    return -F.logsigmoid(beta * (logps.margin() - penalty * lost))


def rdpo(logps: PairLogps, *, beta: float, alpha: float) -> Tensor:
    r"""DPO with the length of the answers taken out of the reward.

    .. math:: -\log \sigma\big(\beta h + \alpha (|y_w| - |y_l|)\big)

    with :math:`h` the margin. Where chosen is the longer answer, part of the preference is put down to its length
    and less margin is asked for. A policy equal to its reference costs :math:`\log(1 + e^{-\alpha(|y_w| - |y_l|)})`:
    log 2 = 0.693 where both are as long, 0.313 where chosen is 100 tokens longer at `alpha` 0.01.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths.
        beta: Inverse temperature, in 1/nat, above 0. Larger keeps the policy closer to the reference.
        alpha: Reward that a token is worth by itself, in nats, at least 0; 0 is DPO.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or `alpha` is outside its range, or `logps` carries no lengths.

    Source:
        Park et al. 2024, arXiv:2403.19159, Sec. 4, the length-regularised objective.

    Example:
        >>> zero, lengths = torch.zeros(1), (torch.tensor([150]), torch.tensor([50]))
        >>> rdpo(PairLogps(zero, zero, zero, zero, *lengths), beta=0.1, alpha=0.01)
        tensor([0.3133])
    """
    _require_positive("beta", beta)
    _require_not_negative("alpha", alpha)
    chosen_lengths, rejected_lengths = logps.lengths()
    h = beta * logps.margin()
    longer = (chosen_lengths - rejected_lengths).to(h)  # whole numbers times alpha would be float32 whatever h is
    return -F.logsigmoid(h + alpha * longer)


def cal_dpo(logps: PairLogps, *, beta: float) -> Tensor:
    r"""Cal-DPO: DPO whose log-ratios are also drawn to a value each, so that chosen does not fall with rejected.

    .. math:: -\log \sigma(h) + \big(\log\frac{\pi(y_w)}{\rho(y_w)} - \frac{1}{2\beta}\big)^2
        + \big(\log\frac{\pi(y_l)}{\rho(y_l)} + \frac{1}{2\beta}\big)^2

    with :math:`h` the margin, which the paper does not multiply by :math:`\beta`. A policy equal to its reference
    costs :math:`\log 2 + 1/(2\beta^2)`: 50.693 at `beta` 0.1. The squares are of sums over tokens and dwarf the
    first term far from their targets. The authors' code halves both squares, which the paper does not: there the start
    costs 25.693.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0. The log-ratios are drawn to 1/(2 beta) and -1/(2 beta) nats.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats and squared nats, never negative.

    Raises:
        ValueError: `beta` is not above 0.

    Source:
        Xiao et al. 2024, arXiv:2412.14516, Sec. 4, the calibrated objective and Algorithm 1.

    Example:
        >>> zero = torch.zeros(2)
        >>> cal_dpo(PairLogps(torch.tensor([0.0, 1.0]), torch.tensor([0.0, -1.0]), zero, zero), beta=0.5)
        tensor([2.6931, 0.1269])
    """
    _require_positive("beta", beta)
    target = 1 / (2 * beta)
    calibration = (logps.chosen_logratio() - target) ** 2 + (logps.rejected_logratio() + target) ** 2
    return -F.logsigmoid(logps.margin()) + calibration


def ipo_sum(logps: PairLogps, *, beta: float) -> Tensor:
    r"""The IPO loss on sums over tokens, as its paper writes it.

    .. math:: (h - \frac{1}{2\beta})^2

    with :math:`h` the margin. A policy equal to its reference costs :math:`1/(4\beta^2)`: 25 at `beta` 0.1. `ipo`
    divides each log-ratio by its answer's tokens: at `beta` 0.1 this loss draws a whole answer's margin to 5 nats,
    `ipo` draws 5 nats per token, which is 500 nats on answers of 100 tokens.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: The paper's tau, in 1/nat, above 0. The margin is drawn to 1/(2 beta) nats.

    Returns:
        Cost of each pair, of shape `(B,)`, in squared nats, never negative.

    Raises:
        ValueError: `beta` is not above 0.

    Source:
        Azar et al. 2023, arXiv:2310.12036, Eq. 17.

    Example:
        >>> zero = torch.zeros(2)
        >>> ipo_sum(PairLogps(torch.tensor([0.0, 5.0]), zero, zero, zero), beta=0.1)
        tensor([25.,  0.])
    """
    _require_positive("beta", beta)
    return (logps.margin() - 1 / (2 * beta)) ** 2


def _require_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def _require_not_negative(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
