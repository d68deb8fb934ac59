"""Penalty terms that are added to a loss: pure functions, unreduced, of the record before any change of rewards."""

from collections.abc import Callable

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps
from preftune.losses.token_level import divergence
from preftune.losses.traits import declares


def nll(logps: PairLogps) -> Tensor:
    r"""Return the negative log-likelihood of chosen per token.

    .. math:: -\frac{1}{|y_w|} \log \pi(y_w)

    It keeps chosen likely where a loss of the margin alone would let both answers fall. Each answer counts the same;
    in the loss `sft` each token does.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths.

    Returns:
        Score of each pair, of shape `(B,)`, in nats per token, never negative.

    Raises:
        ValueError: `logps` carries no lengths.

    Source:
        Pang et al. 2024, arXiv:2404.19733, the likelihood term of its loss, there per token of prompt and answer.

    Example:
        >>> zero, lengths = torch.zeros(1), (torch.tensor([4]), torch.tensor([1]))
        >>> nll(PairLogps(torch.tensor([-2.0]), zero, zero, zero, *lengths))
        tensor([0.5000])
    """
    return -logps.policy_chosen / logps.lengths()[0]


def length(logps: PairLogps) -> Tensor:
    r"""Return the margin that a longer chosen answer earns, times the share by which it is longer.

    .. math:: \max(0, h) \, \frac{\max(0, |y_w| - |y_l|)}{|y_w| + |y_l|}

    with :math:`h` the margin. A pair whose chosen answer is the shorter, or whose margin is not above 0, scores 0, as
    does every pair at the reference. The share is 1/3 where chosen has twice the tokens, and below 1. Weighed by w, the
    term takes back up to w of each nat of margin that such a pair gains.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths.

    Returns:
        Score of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `logps` carries no lengths.

    Source:
        Our own.

    Example:
        >>> zero, lengths = torch.zeros(1), (torch.tensor([20]), torch.tensor([10]))
        >>> length(PairLogps(torch.tensor([6.0]), zero, zero, zero, *lengths))
        tensor([2.])
    """
    margin = logps.margin()
    chosen, rejected = (lengths.to(margin) for lengths in logps.lengths())
    return torch.relu(margin) * torch.relu(chosen - rejected) / (chosen + rejected)


@declares(tokens=("logps", "kl"))
def kl(logps: PairLogps) -> Tensor:
    r"""Return how far the policy has moved from its reference along both answers.

    .. math:: \frac{1}{2} \sum_{y \in \{y_w, y_l\}} \sum_t
        \mathrm{KL}\big(\rho(\cdot | x, y_{<t}) \,\|\, \pi(\cdot | x, y_{<t})\big)

    It is 0 at the reference, and its gradient there too. It is exact at each token and counts every token of the
    vocabulary, where a log-ratio sees the answer's own alone; it is of the answers given, and not of the policy's own.

    Args:
        logps: Log-probabilities of `B` pairs, with the divergence at each token.

    Returns:
        Score of each pair, of shape `(B,)`, in nats per answer, never negative.

    Raises:
        ValueError: `logps` carries no divergences.

    Source:
        The sequential divergence of Zeng et al. 2024, arXiv:2404.11999, averaged over the answers of a pair.

    Example:
        >>> from preftune.losses.logps import TokenLogps
        >>> zero, row = torch.zeros(1), torch.ones(1, 3)
        >>> chosen, rejected = TokenLogps(row, row, kl=row), TokenLogps(row, row, kl=0 * row)
        >>> kl(PairLogps(zero, zero, zero, zero, chosen_tokens=chosen, rejected_tokens=rejected))
        tensor([1.5000])
    """
    chosen, rejected = (divergence(tokens) for tokens in logps.tokens())
    return (chosen + rejected) / 2


TERMS: dict[str, Callable[..., Tensor]] = {"nll": nll, "length": length, "kl": kl}
