"""Losses that read how strong a preference is: pure functions, unreduced, in nats."""

import torch
import torch.nn.functional as F
from torch import Tensor

from preftune.losses.logps import PairLogps


def soft(logps: PairLogps, *, beta: float) -> Tensor:
    r"""DPO with a probability for each label: cross-entropy between that probability and the policy's.

    .. math:: -p \log \sigma(\beta h) - (1 - p) \log \sigma(-\beta h)

    with :math:`h` the margin, the reference in it, and :math:`p` the pair's `probability` that chosen is the
    better answer; a pair without one (NaN) counts as :math:`p = 1`. A policy equal to its reference costs
    log 2 = 0.693 per pair whatever :math:`p`. The least cost of a pair is the entropy of :math:`p`, 0.325 at 0.9,
    and lies at :math:`\beta h = \log(p / (1 - p))`, 2.197 at 0.9. Where every pair has the same :math:`p` it is
    `sigmoid` with `label_smoothing` 1 - p.

    Args:
        logps: Log-probabilities of `B` pairs, with the extra `probability`, in [0, 1] or NaN.
        beta: Inverse temperature, in 1/nat, above 0. Larger keeps the policy closer to the reference.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or a probability is outside its range, or `logps` carries no probability.

    Source:
        Rafailov et al. 2023, arXiv:2305.18290, Eq. 7, in expectation over the label; Mitchell 2023, cDPO note,
        Eq. 3, with a smoothing of each pair's own.

    Example:
        >>> zero = torch.zeros(2)
        >>> carried = {"probability": torch.tensor([0.9, torch.nan])}
        >>> soft(PairLogps(torch.tensor([10.0, 10.0]), zero, zero, zero, extras=carried), beta=0.1)
        tensor([0.4133, 0.3133])
    """
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    h = beta * logps.margin()
    p = _carried(logps, "probability", "data.extras.probability, or the votes that give it").to(h)
    p = torch.where(p.isnan(), 1.0, p)
    if bool(((p < 0) | (p > 1)).any()):
        raise ValueError(f"probability must be from 0 to 1, got {p[(p < 0) | (p > 1)][0].item():g}")
    return -p * F.logsigmoid(h) - (1 - p) * F.logsigmoid(-h)


def odpo(logps: PairLogps, *, beta: float, alpha: float) -> Tensor:
    r"""DPO with an offset: the reward gap must exceed what the scores call for.

    .. math:: -\log \sigma(\beta h - \alpha \log(s_w - s_l))

    with :math:`h` the margin and :math:`s_w - s_l` the score of chosen less that of rejected. It is the extra
    `score`, which is that difference where a row or a list of ranked answers gives both scores, and the strength
    itself where a row gives one; a pair without it takes `score_chosen` less `score_rejected`. A pair with none of
    them has an offset of 0, so that it trains as DPO does. A policy equal to its reference costs
    :math:`\log(1 + (s_w - s_l)^\alpha)`: log 2 = 0.693 at a difference of 1, and 1.099 at 2 with `alpha` 1. The
    unit of the scores matters: below a difference of 1 the offset is negative.

    Args:
        logps: Log-probabilities of `B` pairs, with the extra `score`, or both of `score_chosen` and
            `score_rejected`; each difference above 0, or NaN.
        beta: Inverse temperature, in 1/nat, above 0. Larger keeps the policy closer to the reference.
        alpha: Offset for each e-fold of the difference of scores, in nats, at least 0; 0 is DPO.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: A parameter or a difference of scores is outside its range, or `logps` carries no scores.

    Source:
        Amini et al. 2024, arXiv:2402.10571, Sec. 4, with the logarithm as scaling function.

    Example:
        >>> zero = torch.zeros(2)
        >>> carried = {"score": torch.tensor([1.0, 2.0])}
        >>> odpo(PairLogps(zero, zero, zero, zero, extras=carried), beta=0.1, alpha=1.0)
        tensor([0.6931, 1.0986])
    """
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    if not alpha >= 0:
        raise ValueError(f"alpha must be at least 0, got {alpha}")
    h = beta * logps.margin()
    gap = _score_gap(logps).to(h)
    if bool((gap <= 0).any()):
        raise ValueError(
            f"the score of chosen less that of rejected must be above 0 for odpo, got {gap[gap <= 0][0].item():g}; "
            "data.ties=drop leaves out those of 0, data.min_margin those below it"
        )
    offset = alpha * torch.log(torch.where(gap.isnan(), 1.0, gap))
    return -F.logsigmoid(h - offset)


def _score_gap(logps: PairLogps) -> Tensor:
    """Return the score of chosen less that of rejected, of shape `(B,)`, NaN where a pair has none."""
    both = [logps.extras[name] for name in ("score_chosen", "score_rejected") if name in logps.extras]
    if "score" not in logps.extras and len(both) == 2:
        return both[0] - both[1]
    gap = _carried(logps, "score", "data.score")
    return torch.where(gap.isnan(), both[0] - both[1], gap) if len(both) == 2 else gap


def _carried(logps: PairLogps, name: str, setting: str) -> Tensor:
    if name not in logps.extras:
        raise ValueError(f"pairs must carry a {name} for this loss, got none; set {setting}")
    return logps.extras[name]
