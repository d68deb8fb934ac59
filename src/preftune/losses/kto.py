"""The loss of single answers: KTO, a pure function, unreduced."""

import torch
from torch import Tensor

from preftune.losses.answers import AnswerLogps
from preftune.losses.ranges import require_positive
from preftune.losses.traits import declares


@declares(per_pair=False, accumulates=False)
def kto(answers: AnswerLogps, *, beta: float, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Tensor:
    r"""The KTO loss: each answer alone, measured against how far the policy has moved as a whole.

    .. math:: \lambda_D\,(1 - \sigma(\beta (r - z))) \text{ if desirable, else }
        \lambda_U\,(1 - \sigma(\beta (z - r))), \quad z = \max(0, \frac{1}{B}\sum_i r'_i)

    with :math:`r` the log-ratio of an answer and :math:`r'_i` that of the mismatched answer `i`, without gradient. A
    policy equal to its reference costs half its weight: 0.5 per answer at the default weights, which is the first loss
    every run should show. A cost saturates on both sides: an answer far on the wrong side costs its whole weight and
    teaches nothing.

    :math:`z` is of the batch that it is given: the loss of a micro-batch of other answers is another, and accumulation
    changes the gradient.

    Args:
        answers: Log-probabilities of `B` answers.
        beta: Inverse temperature, in 1/nat, above 0. Larger keeps the policy closer to the reference.
        desirable_weight: :math:`\lambda_D`, at least 0. The paper keeps the ratio of the two weights, each times its
            number of answers, between 1 and 4/3.
        undesirable_weight: :math:`\lambda_U`, at least 0, not 0 beside a `desirable_weight` of 0.

    Returns:
        Cost of each answer, of shape `(B,)`, without unit, between 0 and its weight.

    Raises:
        ValueError: `beta` or a weight is outside its range.

    Source:
        Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1.

    Example:
        >>> zero = torch.zeros(2)
        >>> moved, label = torch.tensor([10.0, 10.0]), torch.tensor([True, False])
        >>> kto(AnswerLogps(label, moved, zero, zero, zero, zero, zero), beta=0.1)
        tensor([0.2689, 0.7311])
    """
    require_positive(beta)
    require_weights(desirable_weight, undesirable_weight)
    z = answers.mismatched_logratio().detach().mean().clamp(min=0)
    over = beta * (answers.logratio() - z)
    # 1 - sigma(x) = sigma(-x), which keeps its digits where sigma(x) is close to 1
    return torch.where(
        answers.desirable, desirable_weight * torch.sigmoid(-over), undesirable_weight * torch.sigmoid(over)
    )


def require_weights(desirable_weight: float, undesirable_weight: float) -> None:
    """Refuse weights that are below 0, or that are both 0.

    Raises:
        ValueError: They are, or one is NaN.
    """
    for name, weight in (("desirable_weight", desirable_weight), ("undesirable_weight", undesirable_weight)):
        if not weight >= 0:
            raise ValueError(f"{name} must be at least 0, got {weight}")
    if desirable_weight == undesirable_weight == 0:
        raise ValueError("desirable_weight must be above 0 where undesirable_weight is 0, got 0")
