"""The from-scratch side of the losses that read a strength, bound the margin, or leave the reference out.

As in `scratch`: each from its paper, in float64, sharing no line with the code that trains.
"""

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps


def soft(logps: PairLogps, *, beta: float) -> Tensor:
    """The DPO cost in expectation over the label: right with probability p, wrong with 1 - p; p is 1 where unknown."""
    reward_gap = beta * _gain(logps, "chosen") - beta * _gain(logps, "rejected")
    right = torch.nan_to_num(logps.extras["probability"].double(), nan=1.0)
    return right * _softplus(-reward_gap) + (1.0 - right) * _softplus(reward_gap)


def odpo(logps: PairLogps, *, beta: float, alpha: float) -> Tensor:
    """ODPO, arXiv:2402.10571, Sec. 4: the reward gap less alpha log of the gap of scores; none where unknown."""
    reward_gap = beta * _gain(logps, "chosen") - beta * _gain(logps, "rejected")
    costs = []
    for place, gap in enumerate(reward_gap):
        score = _score_gap(logps, place)
        offset = 0.0 if score.isnan() else alpha * score.log()
        costs.append(_softplus(offset - gap))
    return torch.stack(costs)


def dpop(logps: PairLogps, *, beta: float, penalty: float) -> Tensor:
    """DPOP, arXiv:2402.13228, Eq. 3: inside the sigmoid, lambda max(0, log ref(y_w) / pi(y_w)) is taken off."""
    chosen, rejected = _gain(logps, "chosen"), _gain(logps, "rejected")
    fallen = torch.where(chosen < 0, -chosen, torch.zeros_like(chosen))
    return _softplus(beta * (rejected - chosen + penalty * fallen))


def rdpo(logps: PairLogps, *, beta: float, alpha: float) -> Tensor:
    """R-DPO, arXiv:2403.19159, Sec. 4: each reward is beta times the log-ratio, and alpha for each token."""
    chosen_tokens, rejected_tokens = (count.double() for count in logps.lengths())
    chosen = beta * _gain(logps, "chosen") + alpha * chosen_tokens
    rejected = beta * _gain(logps, "rejected") + alpha * rejected_tokens
    return _softplus(rejected - chosen)


def cal_dpo(logps: PairLogps, *, beta: float) -> Tensor:
    """Cal-DPO, arXiv:2412.14516, Algorithm 1: the contrast, and the square of each log-ratio from its target."""
    chosen, rejected = _gain(logps, "chosen"), _gain(logps, "rejected")
    return _softplus(rejected - chosen) + torch.square(chosen - 0.5 / beta) + torch.square(rejected + 0.5 / beta)


def ipo_sum(logps: PairLogps, *, beta: float) -> Tensor:
    """IPO, arXiv:2310.12036, Eq. 17, on sums over tokens."""
    return torch.square(_gain(logps, "chosen") - _gain(logps, "rejected") - 0.5 / beta)


def simpo(logps: PairLogps, *, beta: float, gamma: float) -> Tensor:
    """SimPO, arXiv:2405.14734, Eq. 6: rewards are beta times the mean log-probability of a token (Eq. 4)."""
    reward_chosen = beta * _mean_token(logps, "chosen")
    reward_rejected = beta * _mean_token(logps, "rejected")
    return _softplus(reward_rejected + gamma - reward_chosen)


def orpo(logps: PairLogps, *, odds_weight: float) -> Tensor:
    """ORPO, arXiv:2403.07691, Eq. 6 and 7; odds P / (1 - P) of the geometric mean probability of a token."""
    chosen, rejected = _mean_token(logps, "chosen"), _mean_token(logps, "rejected")
    surest = torch.full_like(chosen, -1e-6)  # the odds of a certain answer are infinite
    p_chosen, p_rejected = (torch.minimum(mean, surest) for mean in (chosen, rejected))
    log_odds_ratio = p_chosen - torch.log1p(-p_chosen.exp()) - p_rejected + torch.log1p(-p_rejected.exp())
    return odds_weight * _softplus(-log_odds_ratio) - chosen


def cpo(logps: PairLogps, *, beta: float, nll_weight: float) -> Tensor:
    """CPO, arXiv:2401.08417, Sec. 3: DPO under a uniform reference, and the likelihood of chosen by token."""
    contrast = _softplus(beta * logps.policy_rejected.double() - beta * logps.policy_chosen.double())
    return contrast - nll_weight * _mean_token(logps, "chosen")


def _gain(logps: PairLogps, answer: str) -> Tensor:
    """Return log pi / ref of `chosen` or `rejected`."""
    policy, reference = getattr(logps, f"policy_{answer}"), getattr(logps, f"reference_{answer}")
    return policy.double() - reference.double()  # type: ignore[no-any-return]


def _mean_token(logps: PairLogps, answer: str) -> Tensor:
    """Return the mean log-probability of a token of `chosen` or `rejected` under the policy."""
    tokens = logps.lengths()[0 if answer == "chosen" else 1]
    return getattr(logps, f"policy_{answer}").double() / tokens.double()  # type: ignore[no-any-return]


def _score_gap(logps: PairLogps, place: int) -> Tensor:
    """Return how much better chosen is, by `score`, else by the two scores, else NaN."""
    nothing = torch.full((place + 1,), torch.nan)
    score, chosen, rejected = (
        logps.extras.get(name, nothing)[place].double() for name in ("score", "score_chosen", "score_rejected")
    )
    return chosen - rejected if score.isnan() else score


def _softplus(x: Tensor) -> Tensor:
    """Return -log sigma(-x) = log(1 + exp(x))."""
    return torch.logaddexp(torch.zeros_like(x), x)
