"""What stands between log-probabilities and a loss: other rewards of an answer, and a weight of its pair."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from preftune.losses.logps import PairLogps, TokenLogps
from preftune.losses.traits import declares

# Greatest exponent, in nats: e^80 = 5.5e34 is a number in float32 and in bfloat16.
_MOST = 80.0


def divergent(logps: PairLogps, *, f_divergence_type: str, f_alpha_divergence_coef: float = 0.5) -> PairLogps:
    r"""Return the record whose log-ratios are the scores of an f-divergence: f-DPO with the loss that follows.

    .. math:: \text{reverse\_kl: } \log t, \quad \text{forward\_kl: } 1 - \frac{1}{t}, \quad
        \text{js\_divergence: } \log \frac{2 t}{1 + t}, \quad
        \text{alpha\_divergence: } \frac{t^{c - 1} - 1}{c - 1}, \quad t = \frac{\pi(y)}{\rho(y)}

    each of which is :math:`f'(t)` but for a constant, which a margin does not see, that makes it 0 at the reference.
    The last has `reverse_kl` for its limit at c = 1 and is `forward_kl` at c = 0; the paper's alpha is 1 - c. For
    c < 1 all but `reverse_kl` are bounded above, by log 2 for `js_divergence`, so that a chosen answer stops gaining.
    An exponent above 80 counts as 80 whatever the type, as in TRL's `alpha_divergence` in float32, and has no gradient:
    `forward_kl` no longer lowers or raises an answer that is 80 nats less likely than under the reference. TRL's own
    `forward_kl` has no such bound, and is infinite in float32 beyond 88.7 nats.

    Args:
        logps: Log-probabilities of `B` pairs.
        f_divergence_type: One of the four above.
        f_alpha_divergence_coef: c, any finite number, of `alpha_divergence` alone.

    Returns:
        The record with scores for the policy's log-probabilities and 0 for the reference's; the rest as it was. It is
        for losses that read log-ratios: one without a reference would take scores for log-probabilities.

    Raises:
        ValueError: `f_divergence_type` is none of the four, or `f_alpha_divergence_coef` is not finite.

    Source:
        Wang et al. 2023, arXiv:2309.16240, Table 1, and TRL's `f_divergence_type`.

    Example:
        >>> zero = torch.zeros(2)
        >>> pair = PairLogps(torch.tensor([0.0, 1.0]), zero, zero, zero)
        >>> divergent(pair, f_divergence_type="forward_kl").margin()
        tensor([0.0000, 0.6321])
    """
    if not math.isfinite(f_alpha_divergence_coef):
        raise ValueError(f"f_alpha_divergence_coef must be a finite number, got {f_alpha_divergence_coef}")
    power = {"forward_kl": -1.0, "reverse_kl": 0.0, "alpha_divergence": f_alpha_divergence_coef - 1}
    if f_divergence_type != "js_divergence" and f_divergence_type not in power:
        raise ValueError(
            "f_divergence_type must be one of reverse_kl, forward_kl, js_divergence, alpha_divergence, "
            f"got {f_divergence_type}"
        )

    def score(logratio: Tensor) -> Tensor:
        if f_divergence_type == "js_divergence":
            return math.log(2) + F.logsigmoid(logratio)
        return _power_score(logratio, power[f_divergence_type])

    zero = torch.zeros_like(logps.reference_chosen)
    return replace(
        logps,
        policy_chosen=score(logps.chosen_logratio()),
        policy_rejected=score(logps.rejected_logratio()),
        reference_chosen=zero,
        reference_rejected=zero,
    )


@declares(tokens=("logps",))
def desensitized(logps: PairLogps, *, ld_alpha: float) -> PairLogps:
    r"""Return the record in which the tokens of the longer answer beyond the shorter one's length count less.

    .. math:: \log \pi(y) = \sum_{t \le m} \log \pi(y_t) + \alpha \sum_{t > m} \log \pi(y_t), \quad
        m = \min(|y_w|, |y_l|)

    and the same of the reference. The shorter answer is as it was. 1 changes nothing; at 0 both answers are read to the
    same length, and the end of the longer one is not trained. Lengths, and the values at each token, stay as they were.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths and with those of each token.
        ld_alpha: What a token beyond the shorter answer's length counts, in [0, 1].

    Returns:
        The record with these sums.

    Raises:
        ValueError: `ld_alpha` is outside its range, or `logps` carries no lengths or no values at each token.

    Source:
        Liu et al. 2024, arXiv:2409.06411, the length-desensitised likelihood, and TRL's `ld_alpha`.

    Example:
        >>> zero, row = torch.zeros(1), torch.tensor([[-1.0, -1.0, -1.0]])
        >>> longer, shorter = TokenLogps(row, 0 * row), TokenLogps(row[:, :1], 0 * row[:, :1])
        >>> pair = PairLogps(zero - 3, zero - 1, zero, zero, torch.tensor([3]), torch.tensor([1]),
        ...                  chosen_tokens=longer, rejected_tokens=shorter)
        >>> desensitized(pair, ld_alpha=0.25).policy_chosen
        tensor([-1.5000])
    """
    if not 0 <= ld_alpha <= 1:
        raise ValueError(f"ld_alpha must be from 0 to 1, got {ld_alpha}")
    shared = torch.minimum(*logps.lengths())

    def total(tokens: Tensor) -> Tensor:
        beyond = torch.arange(tokens.shape[1], device=tokens.device) >= shared[:, None]
        return torch.where(beyond, ld_alpha * tokens, tokens).sum(dim=1)

    chosen, rejected = logps.tokens()
    return replace(
        logps,
        policy_chosen=total(chosen.policy),
        policy_rejected=total(rejected.policy),
        reference_chosen=total(chosen.reference),
        reference_rejected=total(rejected.reference),
    )


@declares(tokens=("logps", "collision"))
def wpo_weight(logps: PairLogps) -> Tensor:
    r"""Return the weight of each pair by how likely its answers are under the policy: WPO with the loss that follows.

    .. math:: \prod_{y \in \{y_w, y_l\}} \exp\Big(\frac{1}{|y|} \sum_t
        \big(\log \pi(y_t) - \log \sum_v \pi(v | x, y_{<t})^2\big)\Big)

    A pair that the policy itself might have written counts more than one from elsewhere. The second term is the log of
    the mean probability of a token drawn from the policy, so that such a token counts 1 on average, whether the policy
    is sure or not; without it prompts on which a model is confident would weigh more. An answer weighs at most
    :math:`(1 + \sqrt V) / 2` for a vocabulary of V: 180 at 128,256.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths and with those and the collisions of each token.

    Returns:
        Weight of each pair, of shape `(B,)`, above 0 but for rounding, without gradient.

    Raises:
        ValueError: `logps` carries no lengths, or no values or no collisions at each token.

    Source:
        Zhou et al. 2024, arXiv:2406.11827, Eq. 2 with the sampled alignment of weights, and TRL's `use_weighting`.

    Example:
        >>> zero, length, halves = torch.zeros(1), torch.tensor([2]), torch.full((1, 2), 0.5).log()
        >>> usual = TokenLogps(halves, halves, collision=halves)
        >>> unusual = TokenLogps(2 * halves, halves, collision=halves)
        >>> pair = PairLogps(zero, zero, zero, zero, length, length, chosen_tokens=usual, rejected_tokens=unusual)
        >>> wpo_weight(pair)
        tensor([0.5000])
    """
    chosen, rejected = (_alignment(*side) for side in zip(logps.tokens(), logps.lengths(), strict=True))
    return torch.exp(chosen + rejected)


def _power_score(logratio: Tensor, power: float) -> Tensor:
    """Return (t^power - 1) / power of log t, which is log t in the limit of 0."""
    if abs(power) < 1e-6:  # 0 / 0; the bound is TRL's
        return logratio
    return torch.expm1(torch.clamp(power * logratio, max=_MOST)) / power


def _alignment(tokens: TokenLogps, lengths: Tensor) -> Tensor:
    """Return the mean over an answer's tokens of their log-probability less that of a token drawn, without gradient."""
    if tokens.collision is None:
        raise ValueError("collision must be set at each token for this weight, got None")
    return (tokens.policy.detach() - tokens.collision.detach()).sum(dim=1) / lengths
