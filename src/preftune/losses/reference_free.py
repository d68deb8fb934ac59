"""Losses of the policy's log-probabilities alone: pure functions, unreduced, in nats.

None reads the reference, so the first loss of a run is no constant: it says how the start ranks the answers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from preftune.losses.logps import PairLogps

# Greatest log-probability per token in the odds, in nats: at 0 the odds are infinite and their gradient is no number.
_SUREST = -1e-6


def simpo(logps: PairLogps, *, beta: float, gamma: float) -> Tensor:
    r"""SimPO: the gap of log-probabilities per token must exceed a margin.

    .. math:: -\log \sigma\Big(\frac{\beta}{|y_w|}\log\pi(y_w) - \frac{\beta}{|y_l|}\log\pi(y_l) - \gamma\Big)

    Answers that are as likely per token cost :math:`\log(1 + e^\gamma)`: 1.313 at `gamma` 1. Here, as in the paper,
    in TRL (`simpo_gamma`) and in LLaMA-Factory, `gamma` is absolute. The authors' code takes `gamma_beta_ratio`, which
    is gamma / beta: its 0.5 at `beta` 2 is a `gamma` of 1 here, and a `gamma` of 0.5 here is its 0.25.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths; those of the reference are not read.
        beta: Scale of a log-probability per token, above 0. The paper's are 2 to 10: ten times and more of DPO's.
        gamma: Least gap asked for, after `beta`, in nats, at least 0.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or `gamma` is outside its range, or `logps` carries no lengths.

    Source:
        Meng et al. 2024, arXiv:2405.14734, Eq. 6.

    Example:
        >>> zero, lengths = torch.zeros(1), (torch.tensor([2]), torch.tensor([4]))
        >>> simpo(PairLogps(torch.tensor([-2.0]), torch.tensor([-6.0]), zero, zero, *lengths), beta=2.0, gamma=1.0)
        tensor([0.6931])
    """
    _require_positive(beta)
    _require_not_negative("gamma", gamma)
    chosen, rejected = _per_token(logps)
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def orpo(logps: PairLogps, *, odds_weight: float) -> Tensor:
    r"""ORPO: negative log-likelihood of chosen, and the odds of chosen against those of rejected.

    .. math:: -\log P_w - \lambda \log \sigma\Big(\log \frac{P_w}{1 - P_w} - \log \frac{P_l}{1 - P_l}\Big), \quad
        \log P = \frac{1}{|y|}\log\pi(y)

    Answers that are as likely per token cost :math:`-\log P_w + \lambda \log 2`: 1.069 at one nat per token and
    `odds_weight` 0.1. There is no `beta`: TRL gives that name to lambda. TRL's first term also counts the prompt's
    tokens, and is a mean over the tokens of the batch: here it is over those of the answer, pair by pair, as in the
    paper. A log-probability above -1e-6 nats per token counts as that in the odds, which stay finite.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths; those of the reference are not read.
        odds_weight: The paper's lambda, at least 0; 0 is supervised fine-tuning on chosen.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `odds_weight` is outside its range, or `logps` carries no lengths.

    Source:
        Hong et al. 2024, arXiv:2403.07691, Eq. 6 and 7.

    Example:
        >>> one, zero, lengths = -torch.ones(1), torch.zeros(1), (torch.tensor([1]), torch.tensor([1]))
        >>> orpo(PairLogps(one, one, zero, zero, *lengths), odds_weight=0.1)
        tensor([1.0693])
    """
    _require_not_negative("odds_weight", odds_weight)
    chosen, rejected = _per_token(logps)
    return -chosen - odds_weight * F.logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def cpo(logps: PairLogps, *, beta: float, nll_weight: float) -> Tensor:
    r"""CPO: DPO without its reference, and the negative log-likelihood of chosen per token.

    .. math:: -\log \sigma\big(\beta \log\pi(y_w) - \beta \log\pi(y_l)\big) - \frac{\lambda}{|y_w|} \log\pi(y_w)

    Answers that are as likely cost log 2 = 0.693 and `nll_weight` times the nats per token of chosen. The paper writes
    the second term as a sum over the answer; its authors' code and TRL (`cpo_alpha`) take the mean over tokens, and so
    does this loss. An answer of 20 tokens at one nat each adds 20 by the paper and 1 here: an `nll_weight` of 20 is
    the paper's for it. TRL's mean is over the tokens of a batch, in which a long answer counts more than a short one.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths; those of the reference are not read.
        beta: Inverse temperature, in 1/nat, above 0.
        nll_weight: Weight of the second term, at least 0.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or `nll_weight` is outside its range, or `logps` carries no lengths.

    Source:
        Xu et al. 2024, arXiv:2401.08417, Sec. 3, the contrastive preference objective with its likelihood term.

    Example:
        >>> chosen, rejected, zero = torch.tensor([-2.0]), torch.tensor([-12.0]), torch.zeros(1)
        >>> lengths = torch.tensor([2]), torch.tensor([4])
        >>> cpo(PairLogps(chosen, rejected, zero, zero, *lengths), beta=0.1, nll_weight=1.0)
        tensor([1.3133])
    """
    _require_positive(beta)
    _require_not_negative("nll_weight", nll_weight)
    chosen, _ = _per_token(logps)
    return -F.logsigmoid(beta * (logps.policy_chosen - logps.policy_rejected)) - nll_weight * chosen


def _per_token(logps: PairLogps) -> tuple[Tensor, Tensor]:
    chosen_lengths, rejected_lengths = logps.lengths()
    return logps.policy_chosen / chosen_lengths, logps.policy_rejected / rejected_lengths


def _log_odds(log_probability: Tensor) -> Tensor:
    sure = log_probability.clamp(max=_SUREST)
    return sure - torch.log(-torch.expm1(sure))


def _require_positive(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")


def _require_not_negative(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
