"""Losses of each answer's own log-ratio: they anchor chosen and rejected by themselves, not their margin alone."""

import torch.nn.functional as F
from torch import Tensor

from preftune.losses.logps import PairLogps
from preftune.losses.ranges import require_positive


def nca_pair(logps: PairLogps, *, beta: float) -> Tensor:
    r"""NCA on a pair: raises chosen, lowers rejected, and holds both near the reference.

    .. math:: -\log \sigma(r_w) - \frac{1}{2} \log \sigma(-r_w) - \frac{1}{2} \log \sigma(-r_l)

    with the rewards :math:`r = \beta \log \frac{\pi}{\rho}`. A policy equal to its reference costs
    2 log 2 = 1.386 per pair whatever `beta`. Chosen is drawn to a reward of log 2 = 0.693 and no further.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, above 0.95.

    Raises:
        ValueError: `beta` is not above 0.

    Source:
        Chen et al. 2024, arXiv:2402.05369, NCA for pairs of which one is preferred.

    Example:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> nca_pair(PairLogps(torch.tensor([0.0, 10.0]), zero, zero, zero), beta=0.1)
        tensor([1.3863, 1.3165])
    """
    require_positive(beta)
    chosen, rejected = beta * logps.chosen_logratio(), beta * logps.rejected_logratio()
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def bco_pair(logps: PairLogps, *, beta: float) -> Tensor:
    r"""BCO on a pair, without its shift: a classifier that calls chosen good and rejected bad.

    .. math:: -\log \sigma(r_w) - \log \sigma(-r_l)

    with the rewards :math:`r = \beta \log \frac{\pi}{\rho}`. A policy equal to its reference costs
    2 log 2 = 1.386 per pair whatever `beta`. It is never below `sigmoid` on the same pair: the paper's bound, which
    is loose where both rewards have moved the same way. The paper tightens it by taking a running mean of all rewards,
    chosen and rejected, off both of them, and weighs rejected answers where their prompts differ from those of chosen;
    TRL's BCOTrainer did both, in the releases that have it. TRL's DPOTrainer does neither, and nor does this loss.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` is not above 0.

    Source:
        Jung et al. 2024, arXiv:2404.04656, the binary cross-entropy of Sec. 3, with a shift of 0.

    Example:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> bco_pair(PairLogps(torch.tensor([0.0, 10.0]), zero, zero, zero), beta=0.1)
        tensor([1.3863, 1.0064])
    """
    require_positive(beta)
    return -F.logsigmoid(beta * logps.chosen_logratio()) - F.logsigmoid(-beta * logps.rejected_logratio())


def sppo_hard(logps: PairLogps, *, beta: float) -> Tensor:
    r"""SPPO with labels taken as certain: draws each answer's log-ratio to a fixed number.

    .. math:: (\log \frac{\pi(y_w)}{\rho(y_w)} - \frac{1}{2 \beta})^2
        + (\log \frac{\pi(y_l)}{\rho(y_l)} + \frac{1}{2 \beta})^2

    A policy equal to its reference costs :math:`1/(2\beta^2)`: 50 at `beta` 0.1. The paper's beta of 0.001 draws
    each answer to 500 nats and starts at 500,000, which asks for a learning rate to match.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: 1 over the paper's eta, in 1/nat, above 0. Chosen is drawn to 1/(2 beta) nats, rejected to -1/(2 beta).

    Returns:
        Cost of each pair, of shape `(B,)`, in squared nats, never negative.

    Raises:
        ValueError: `beta` is not above 0.

    Source:
        Wu et al. 2024, arXiv:2405.00675, Eq. 4.7, with probability 1 that chosen wins and 0 that rejected does.

    Example:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> sppo_hard(PairLogps(torch.tensor([0.0, 5.0]), zero, zero, zero), beta=0.1)
        tensor([50., 25.])
    """
    require_positive(beta)
    target = 0.5 / beta
    return (logps.chosen_logratio() - target) ** 2 + (logps.rejected_logratio() + target) ** 2


def apo_zero(logps: PairLogps, *, beta: float) -> Tensor:
    r"""APO-zero: raises chosen and lowers rejected, for chosen answers better than the model's own.

    .. math:: 1 - \sigma(r_w) + \sigma(r_l)

    with the rewards :math:`r = \beta \log \frac{\pi}{\rho}`. A policy equal to its reference costs 1 per pair
    whatever `beta`. The paper has no 1, which moves no gradient and keeps the cost from being negative.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0.

    Returns:
        Cost of each pair, of shape `(B,)`, in [0, 2].

    Raises:
        ValueError: `beta` is not above 0.

    Source:
        D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 7, plus 1.

    Example:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> apo_zero(PairLogps(torch.tensor([0.0, 10.0]), zero, zero, zero), beta=0.1)
        tensor([1.0000, 0.7689])
    """
    require_positive(beta)
    return F.sigmoid(-beta * logps.chosen_logratio()) + F.sigmoid(beta * logps.rejected_logratio())


def apo_down(logps: PairLogps, *, beta: float) -> Tensor:
    r"""APO-down: lowers chosen, and rejected more, for chosen answers worse than the model's own.

    .. math:: \sigma(r_w) + 1 - \sigma(r_w - r_l)

    with the rewards :math:`r = \beta \log \frac{\pi}{\rho}`. A policy equal to its reference costs 1 per pair
    whatever `beta`, and the gradient on chosen is then exactly 0: its two terms cancel. The paper has no 1, which
    moves no gradient and keeps the cost from being negative.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0.

    Returns:
        Cost of each pair, of shape `(B,)`, in [0, 2].

    Raises:
        ValueError: `beta` is not above 0.

    Source:
        D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 8, plus 1.

    Example:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> apo_down(PairLogps(zero, torch.tensor([0.0, -10.0]), zero, zero), beta=0.1)
        tensor([1.0000, 0.7689])
    """
    require_positive(beta)
    return F.sigmoid(beta * logps.chosen_logratio()) + F.sigmoid(-beta * logps.margin())
