"""Losses of a pair's margin: pure functions, unreduced, in nats."""

import torch
import torch.nn.functional as F
from torch import Tensor

from preftune.losses.logps import PairLogps
from preftune.losses.ranges import require_flip_share, require_positive


def sigmoid(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    r"""The DPO loss; conservative DPO when `label_smoothing` is not 0.

    .. math:: -(1 - \epsilon) \log \sigma(\beta h) - \epsilon \log \sigma(-\beta h)

    with :math:`h` the margin. A policy equal to its reference costs log 2 = 0.693 per pair whatever the
    arguments, so that is the first loss every run should show.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0. Larger keeps the policy closer to the reference.
        label_smoothing: Probability that a label is wrong, in [0, 0.5).

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or `label_smoothing` is outside its range.

    Source:
        Rafailov et al. 2023, arXiv:2305.18290, Eq. 7. Smoothing: Mitchell 2023, cDPO note, Eq. 3.

    Example:
        >>> zero = torch.zeros(2)
        >>> sigmoid(PairLogps(torch.tensor([0.0, 10.0]), zero, zero, zero), beta=0.1)
        tensor([0.6931, 0.3133])
    """
    require_positive(beta)
    require_flip_share(label_smoothing)
    h = beta * logps.margin()
    return -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)


def ipo(logps: PairLogps, *, beta: float) -> Tensor:
    r"""The IPO loss on log-probabilities per token.

    .. math:: (\bar h - \frac{1}{2\beta})^2, \quad
        \bar h = \frac{1}{|y_w|}\log\frac{\pi(y_w)}{\rho(y_w)} - \frac{1}{|y_l|}\log\frac{\pi(y_l)}{\rho(y_l)}

    A policy equal to its reference costs :math:`1/(4\beta^2)`: 25 at `beta` 0.1. The paper writes sums over
    tokens; TRL, like its authors' experiments, divides by length, and so does this loss. The same `beta` means
    something else in code that sums.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths.
        beta: The paper's tau, in 1/nat, above 0. The margin per token is drawn to 1/(2 beta) nats.

    Returns:
        Cost of each pair, of shape `(B,)`, in squared nats per token, never negative.

    Raises:
        ValueError: `beta` is not above 0, or `logps` carries no lengths.

    Source:
        Azar et al. 2023, arXiv:2310.12036, Eq. 17.

    Example:
        >>> two = torch.tensor([2.0])
        >>> zero = torch.zeros(1)
        >>> ipo(PairLogps(two, zero, zero, zero, two, two), beta=0.5)
        tensor([0.])
    """
    require_positive(beta)
    chosen_lengths, rejected_lengths = logps.lengths()
    per_token = logps.chosen_logratio() / chosen_lengths - logps.rejected_logratio() / rejected_lengths
    return (per_token - 1 / (2 * beta)) ** 2


def hinge(logps: PairLogps, *, beta: float) -> Tensor:
    r"""The hinge of SLiC on DPO's margin.

    .. math:: \max(0, 1 - \beta h)

    A policy equal to its reference costs 1 per pair. A pair whose margin exceeds 1/`beta` nats costs nothing and
    teaches nothing.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0.

    Returns:
        Cost of each pair, of shape `(B,)`, never negative.

    Raises:
        ValueError: `beta` is not above 0.

    Source:
        Zhao et al. 2023, arXiv:2305.10425, Eq. 4, on the margin of Liu et al. 2023, arXiv:2309.06657, Eq. 11.

    Example:
        >>> zero = torch.zeros(2)
        >>> hinge(PairLogps(torch.tensor([0.0, 20.0]), zero, zero, zero), beta=0.1)
        tensor([1., 0.])
    """
    require_positive(beta)
    return torch.relu(1 - beta * logps.margin())
