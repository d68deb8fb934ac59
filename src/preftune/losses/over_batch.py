"""Losses whose costs depend on the other pairs of a batch: pure functions, in nats.

The batch is what one device holds at once, so that each also depends on how the pairs of a step fall into
micro-batches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from preftune.losses.logps import PairLogps
from preftune.losses.ranges import require_flip_share, require_not_negative, require_positive
from preftune.losses.traits import declares

# Least share of beta that beta_dpo trains with: below 0 it would prefer rejected.
_LEAST_SHARE = 1e-3


@declares(per_pair=False, accumulates=False)
def aot(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    r"""AOT: the policy's margins, sorted, must exceed the reference's, sorted.

    .. math:: -(1 - \epsilon) \log \sigma(\beta h_{(k)}) - \epsilon \log \sigma(-\beta h_{(k)}), \quad
        h_{(k)} = \Big(\log\frac{\pi(y_w)}{\pi(y_l)}\Big)_{(k)} - \Big(\log\frac{\rho(y_w)}{\rho(y_l)}\Big)_{(k)}

    with :math:`x_{(k)}` the k-th smallest of the batch. The distribution of margins is moved, not each pair's own: a
    pair may fall behind where another gains as much. A policy equal to its reference costs log 2 = 0.693 whatever the
    arguments. On a batch of one pair it is `sigmoid`.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0. Larger keeps the policy closer to the reference.
        label_smoothing: Probability that a label is wrong, in [0, 0.5).

    Returns:
        Cost of each rank, not of each pair, least margin first, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or `label_smoothing` is outside its range.

    Source:
        Melnyk et al. 2024, arXiv:2406.05882, Algorithm 1, paired data; the logistic loss with its smoothing.

    Example:
        >>> zero = torch.zeros(2)
        >>> aot(PairLogps(torch.tensor([10.0, 0.0]), zero, zero, zero), beta=0.1)
        tensor([0.6931, 0.3133])
    """
    require_positive(beta)
    require_flip_share(label_smoothing)
    policy = (logps.policy_chosen - logps.policy_rejected).sort().values
    reference = (logps.reference_chosen - logps.reference_rejected).sort().values
    return _logistic(beta * (policy - reference), label_smoothing)


@declares(per_pair=False, accumulates=False)
def aot_unpaired(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    r"""AOT on unpaired answers: the log-ratios of chosen, sorted, must exceed those of rejected, sorted.

    .. math:: -(1 - \epsilon) \log \sigma(\beta h_{(k)}) - \epsilon \log \sigma(-\beta h_{(k)}), \quad
        h_{(k)} = \Big(\log\frac{\pi(y_w)}{\rho(y_w)}\Big)_{(k)} - \Big(\log\frac{\pi(y_l)}{\rho(y_l)}\Big)_{(k)}

    with :math:`x_{(k)}` the k-th smallest of the batch. Which rejected answer stands beside which chosen one does not
    matter. A policy equal to its reference costs log 2 = 0.693 whatever the arguments. On a batch of one pair it is
    `sigmoid`.

    Args:
        logps: Log-probabilities of `B` pairs.
        beta: Inverse temperature, in 1/nat, above 0. Larger keeps the policy closer to the reference.
        label_smoothing: Probability that a label is wrong, in [0, 0.5).

    Returns:
        Cost of each rank, not of each pair, least log-ratios first, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or `label_smoothing` is outside its range.

    Source:
        Melnyk et al. 2024, arXiv:2406.05882, Algorithm 1, unpaired data; the logistic loss with its smoothing.

    Example:
        >>> zero = torch.zeros(2)
        >>> aot_unpaired(PairLogps(torch.tensor([10.0, 0.0]), torch.tensor([0.0, 10.0]), zero, zero), beta=0.1)
        tensor([0.6931, 0.6931])
    """
    require_positive(beta)
    require_flip_share(label_smoothing)
    chosen, rejected = logps.chosen_logratio().sort().values, logps.rejected_logratio().sort().values
    return _logistic(beta * (chosen - rejected), label_smoothing)


@declares(accumulates=False)
def sft(logps: PairLogps) -> Tensor:
    r"""Supervised fine-tuning on chosen: the mean over the batch is the mean over the batch's chosen tokens.

    .. math:: -\frac{B}{\sum_j |y_{w,j}|} \log \pi(y_w)

    A token counts the same whichever answer it is in, so that a long answer counts more than a short one, and a pair's
    cost depends on the lengths beside it. The penalty term `nll` counts each answer the same. Neither rejected nor the
    reference is read: the first loss of a run is the nats per token of the start.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats per token of a mean answer, never negative.

    Raises:
        ValueError: `logps` carries no lengths.

    Source:
        The negative log-likelihood, averaged over tokens as TRL's `sft` does.

    Example:
        >>> chosen, zero, lengths = torch.tensor([-6.0, -1.0]), torch.zeros(2), (torch.tensor([6, 1]), torch.ones(2))
        >>> sft(PairLogps(chosen, zero, zero, zero, *lengths))
        tensor([1.7143, 0.2857])
    """
    chosen_lengths, _ = logps.lengths()
    return -logps.policy_chosen * len(chosen_lengths) / chosen_lengths.sum()


@declares(accumulates=False, running=("margin",))
def beta_dpo(logps: PairLogps, *, beta: float, alpha: float) -> Tensor:
    r"""DPO whose beta follows the batch: larger where its margins are wider than those of the steps before.

    .. math:: -\log \sigma(\beta_b h), \quad \beta_b = \beta \big(1 + \alpha (\bar M - M_0)\big), \quad M = \beta h

    with :math:`h` the margin, :math:`\bar M` the batch's mean of :math:`M` and :math:`M_0` its running mean over the
    steps so far. No gradient flows through :math:`\beta_b`, which is never below 0.001 of `beta`. Before the first step
    the batch's own mean stands for :math:`M_0`, and `beta` stays as given. A policy equal to its reference costs
    log 2 = 0.693 per pair.

    The paper also draws at random which pairs of a batch train, by how far their margin lies from :math:`M_0`. This
    loss draws none. The authors' code leaves `beta` out of :math:`M`, and holds :math:`\beta_b` above 0.001 itself: its
    0.6 at a `beta` of 0.1 is an `alpha` of 6 here.

    Args:
        logps: Log-probabilities of `B` pairs, and the running mean of the margin, in nats, once there is one.
        beta: Inverse temperature that a usual batch trains with, in 1/nat, above 0.
        alpha: Share by which beta grows for each nat of reward above the usual, at least 0; 0 is DPO. The paper
            trains with 0.6.

    Returns:
        Cost of each pair, of shape `(B,)`, in nats, never negative.

    Raises:
        ValueError: `beta` or `alpha` is outside its range.

    Source:
        Wu et al. 2024, arXiv:2407.08639, Sec. 4, the batch-level dynamic beta.

    Example:
        >>> zero, usual = torch.zeros(2), {"margin": 0.0}
        >>> beta_dpo(PairLogps(torch.tensor([10.0, 10.0]), zero, zero, zero, running=usual), beta=0.1, alpha=1.0)
        tensor([0.1269, 0.1269])
    """
    require_positive(beta)
    require_not_negative("alpha", alpha)
    h = logps.margin()
    mean = h.detach().mean()
    usual = logps.running.get("margin", mean)
    share = torch.clamp(1 + alpha * beta * (mean - usual), min=_LEAST_SHARE)
    return -F.logsigmoid(beta * share * h)


def _logistic(h: Tensor, label_smoothing: float) -> Tensor:
    return -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)
