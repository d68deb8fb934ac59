"""Losses of the distributions at each token: pure functions, unreduced, in nats."""

import torch.nn.functional as F
from torch import Tensor

from preftune.losses.logps import PairLogps, TokenLogps
from preftune.losses.ranges import require_not_negative, require_positive
from preftune.losses.traits import declares


@declares(tokens=("logps", "kl"))
def tdpo(logps: PairLogps, *, beta: float, alpha: float) -> Tensor:
    r"""TDPO2: DPO that also holds the divergence along rejected to that along chosen.

    .. math:: -\log \sigma\Big(\beta h - \alpha \beta \big(D_l - \mathrm{sg}(D_w)\big)\Big), \quad
        D = \sum_t \mathrm{KL}\big(\rho(\cdot | x, y_{<t}) \,\|\, \pi(\cdot | x, y_{<t})\big)

    with :math:`h` the margin and sg no gradient: :math:`D_w` is a level that :math:`D_l` is compared with, and nothing
    pushes it up. A policy equal to its reference costs log 2 = 0.693 per pair whatever the arguments, and has there the
    gradient of DPO: a divergence is flat at its least. The paper's TDPO1 has `alpha` 1 and no sg, so that it rewards a
    policy for leaving the reference along chosen answers.

    Args:
        logps: Log-probabilities of `B` pairs, with the divergence at each token.
        beta: Inverse temperature, in 1/nat, above 0. Larger keeps the policy closer to the reference.
        alpha: Weight of the difference of divergences, at least 0; 0 is DPO. The paper trains with 0.5.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or `alpha` is outside its range, or `logps` carries no divergences.

    Source:
        Zeng et al. 2024, arXiv:2404.11999, Sec. 4, the TDPO2 loss.

    Example:
        >>> import torch
        >>> zero, row = torch.zeros(1), torch.zeros(1, 2)
        >>> chosen, rejected = TokenLogps(row, row, kl=row), TokenLogps(row, row, kl=row + 5)
        >>> pair = PairLogps(zero, zero, zero, zero, chosen_tokens=chosen, rejected_tokens=rejected)
        >>> tdpo(pair, beta=0.1, alpha=1.0)
        tensor([1.3133])
    """
    require_positive(beta)
    require_not_negative("alpha", alpha)
    chosen, rejected = (divergence(tokens) for tokens in logps.tokens())
    return -F.logsigmoid(beta * (logps.margin() - alpha * (rejected - chosen.detach())))


def divergence(tokens: TokenLogps) -> Tensor:
    """Return the sum over each completion's tokens of KL(reference || policy), of shape `(B,)`, in nats.

    Raises:
        ValueError: The values at each token were made without `kl`.
    """
    if tokens.kl is None:
        raise ValueError("kl must be set at each token for this loss, got None")
    return tokens.kl.sum(dim=1)
