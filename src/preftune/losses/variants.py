"""More losses of a pair's margin: pure functions, unreduced, in nats unless said otherwise."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from preftune.losses.logps import PairLogps
from preftune.losses.ranges import require_flip_share, require_positive


def robust(logps: PairLogps, *, beta: float, label_smoothing: float = 0.1) -> Tensor:
    r"""Robust DPO: the DPO loss with the mean effect of flipped labels taken out.

    .. math:: \frac{-(1 - \epsilon) \log \sigma(\beta h) + \epsilon \log \sigma(-\beta h)}{1 - 2 \epsilon}

    with :math:`h` the margin. A policy equal to its reference costs log 2 = 0.693 per pair whatever the arguments.
    Averaged over labels of which a share epsilon is flipped, it is the DPO loss on the true labels; a single pair
    with a large margin costs less than 0, and without bound.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0. Larger keeps the policy closer to the reference.
        label_smoothing: Share of labels that are flipped, in [0, 0.5). At 0 this is the DPO loss.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats; it can be negative.

    Raises:
        ValueError: `beta` or `label_smoothing` is outside its range.

    Source:
        Chowdhury et al. 2024, arXiv:2403.00409, the unbiased loss of rDPO.

    Example:
        >>> zero = torch.zeros(2)
        >>> robust(PairLogps(torch.tensor([0.0, 50.0]), zero, zero, zero), beta=0.1, label_smoothing=0.1)
        tensor([ 0.6931, -0.6183])
    """
    require_positive(beta)
    require_flip_share(label_smoothing)
    h = beta * logps.margin()
    as_labelled, flipped = -F.logsigmoid(h), -F.logsigmoid(-h)
    return ((1 - label_smoothing) * as_labelled - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def exo_pair(logps: PairLogps, *, beta: float, label_smoothing: float = 1e-3) -> Tensor:
    r"""EXO on a pair: the reverse divergence of the policy's preference from the label's.

    .. math:: q \log \frac{q}{1 - \epsilon} + (1 - q) \log \frac{1 - q}{\epsilon}, \quad q = \sigma(\beta h)

    with :math:`h` the margin. A policy equal to its reference costs
    :math:`-\log 2 - \frac{1}{2} \log(\epsilon (1 - \epsilon))`: 2.761 at epsilon 0.001. A pair costs nothing where
    its margin is :math:`\frac{1}{\beta} \log \frac{1 - \epsilon}{\epsilon}`, 69 nats at `beta` 0.1, and costs again
    beyond it.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: The paper's beta_pi, in 1/nat, above 0.
        label_smoothing: Probability epsilon that the label gives to rejected, in (0, 0.5). At 0 the loss is infinite.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or `label_smoothing` is outside its range.

    Source:
        Ji et al. 2024, arXiv:2402.00856, Eq. 16 with K = 2.

    Example:
        >>> zero = torch.zeros(2)
        >>> exo_pair(PairLogps(torch.tensor([0.0, 10.0]), zero, zero, zero), beta=0.1)
        tensor([2.7612, 1.2763])
    """
    require_positive(beta)
    if not 0 < label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be above 0 and below 0.5, got {label_smoothing}")
    h = beta * logps.margin()
    chosen = F.sigmoid(h) * (F.logsigmoid(h) - math.log1p(-label_smoothing))
    rejected = F.sigmoid(-h) * (F.logsigmoid(-h) - math.log(label_smoothing))
    return chosen + rejected


def discopop(logps: PairLogps, *, beta: float, tau: float = 0.05) -> Tensor:
    r"""DiscoPOP: logistic loss for pairs ranked wrongly, exponential loss for pairs ranked rightly.

    .. math:: -(1 - w) \log \sigma(\beta h) + w e^{-\beta h}, \quad w = \sigma(\beta h / \tau)

    with :math:`h` the margin. A policy equal to its reference costs (log 2 + 1) / 2 = 0.847 per pair whatever the
    arguments. The loss is not convex: with `tau` 0.05 its slope there is +0.784, so that training lowers margins
    from the reference, into a valley of 0.786 at :math:`\beta h = -0.119`. Only a pair beyond a ridge at +0.072 is
    pushed up. From `tau` 0.103 upward the slope at the reference is negative.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0.
        tau: Width of the change from one loss to the other, in units of :math:`\beta h`, in (0, 1]. Above 1 the
            exponential would win on pairs ranked wrongly and grow beyond every number.

    Returns:
        Cost of each pair, of shape `(B,)`, never negative.

    Raises:
        ValueError: `beta` or `tau` is outside its range.

    Source:
        Lu et al. 2024, arXiv:2406.08414, Eq. 5.

    Example:
        >>> zero = torch.zeros(2)
        >>> discopop(PairLogps(torch.tensor([0.0, 10.0]), zero, zero, zero), beta=0.1)
        tensor([0.8466, 0.3679])
    """
    require_positive(beta)
    if not 0 < tau <= 1:
        raise ValueError(f"tau must be above 0 and at most 1, got {tau}")
    h = beta * logps.margin()
    logistic = -F.logsigmoid(h) * F.sigmoid(-h / tau)
    # w exp(-h) as one power: at h = -89 its parts are 0 and infinity in float32, whose product is NaN
    exponential = torch.exp(F.logsigmoid(h / tau) - h)
    return logistic + exponential


def sigmoid_norm(logps: PairLogps, *, beta: float) -> Tensor:
    r"""The DPO loss on log-probabilities per token.

    .. math:: -\log \sigma(\beta \bar h), \quad
        \bar h = \frac{1}{|y_w|}\log\frac{\pi(y_w)}{\rho(y_w)} - \frac{1}{|y_l|}\log\frac{\pi(y_l)}{\rho(y_l)}

    A policy equal to its reference costs log 2 = 0.693 per pair whatever `beta`. The margin is per token, so `beta`
    must be as many times larger than with `sigmoid` as answers have tokens to weigh the same.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths.
        beta: Inverse temperature, in tokens per nat, above 0.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` is not above 0, or `logps` carries no lengths.

    Source:
        Lambert et al. 2024, arXiv:2411.15124, Eq. 6.

    Example:
        >>> ten, zero = torch.tensor([10.0]), torch.zeros(1)
        >>> sigmoid_norm(PairLogps(ten, zero, zero, zero, ten, ten), beta=1.0)
        tensor([0.3133])
    """
    require_positive(beta)
    chosen_lengths, rejected_lengths = logps.lengths()
    per_token = logps.chosen_logratio() / chosen_lengths - logps.rejected_logratio() / rejected_lengths
    return -F.logsigmoid(beta * per_token)
