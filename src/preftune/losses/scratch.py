"""The independent reference: log-probabilities and losses written from their definitions.

It shares no line with the code that trains and none with TRL. Everything runs in float64, and nothing is fused,
so that it can be read beside the papers.
"""

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps, TokenLogps


def token_logps(logits: Tensor, ids: Tensor, completion_mask: Tensor) -> Tensor:
    """Return the log-probability of each completion token of one sequence.

    The token at position t is predicted by the logits at position t - 1. Tokens of the prompt and padding count
    nothing, and nothing predicts the first token.

    Args:
        logits: Of shape `(T, V)`.
        ids: Of shape `(T,)`.
        completion_mask: 1 where the token belongs to the completion, of shape `(T,)`.

    Returns:
        One number for each token of the completion, in its order, in nats, in float64.

    Source:
        log p(v) = z_v - log sum over u of exp(z_u), with z the logits.
    """
    found = []
    for block in _completion(completion_mask):
        z = logits[block - 1].double()
        z_of_token = z[torch.arange(len(block), device=z.device), ids[block]]
        found.append(z_of_token - torch.logsumexp(z, dim=1))
    return torch.cat(found)


def completion_logps(logits: Tensor, input_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """Sum the log-probabilities of each sequence's completion tokens.

    Args:
        logits: Of shape `(B, T, V)`.
        input_ids: Of shape `(B, T)`.
        completion_mask: 1 where the token belongs to the completion, of shape `(B, T)`.

    Returns:
        Log-probability of each completion, of shape `(B,)`, in nats, in float64.

    Source:
        The chain rule: log p(y | x) = sum over t of log p(y_t | x, y_<t).
    """
    rows = zip(logits, input_ids, completion_mask, strict=True)
    return torch.stack([token_logps(*row).sum() for row in rows])


def mean_logps(logits: Tensor, input_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """Average what `completion_logps` sums: the log-probability per completion token, of shape `(B,)`."""
    rows = zip(logits, input_ids, completion_mask, strict=True)
    return torch.stack([token_logps(*row).mean() for row in rows])


def token_values(
    policy_logits: Tensor, reference_logits: Tensor, input_ids: Tensor, completion_mask: Tensor
) -> TokenLogps:
    """Return all that a loss may read at each completion token.

    Args:
        policy_logits: Of shape `(B, T, V)`.
        reference_logits: Of shape `(B, T, V)`.
        input_ids: Of shape `(B, T)`.
        completion_mask: 1 where the token belongs to the completion, of shape `(B, T)`.

    Returns:
        Values of shape `(B, tokens of the longest completion)`, 0 beyond a completion's end, in nats, in float64.

    Source:
        KL(r || p) = sum over v of r(v) (log r(v) - log p(v)); the collision is log sum over v of p(v)^2.
    """
    rows = zip(policy_logits, reference_logits, input_ids, completion_mask, strict=True)
    columns = zip(*(_token_values(*row) for row in rows), strict=True)
    return TokenLogps(*(torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True) for column in columns))


def _token_values(policy: Tensor, reference: Tensor, ids: Tensor, completion_mask: Tensor) -> tuple[Tensor, ...]:
    """Return log-probability under policy and reference, collision and divergence, each of shape `(tokens,)`."""
    collisions, divergences = [], []
    for block in _completion(completion_mask):
        log_p = torch.log_softmax(policy[block - 1].double(), dim=1)
        log_r = torch.log_softmax(reference[block - 1].double(), dim=1)
        collisions.append(torch.logsumexp(2 * log_p.detach(), dim=1))
        # a token that the reference rules out adds nothing: 0 log 0 = 0
        terms = torch.where(log_r.isinf(), 0.0, log_r.exp() * (log_r - log_p))
        divergences.append(terms.sum(dim=1))
    logps = (token_logps(logits, ids, completion_mask) for logits in (policy, reference))
    return *logps, torch.cat(collisions), torch.cat(divergences)


def _completion(completion_mask: Tensor) -> tuple[Tensor, ...]:
    """Return the positions of the completion's tokens, few at a time: float64 logits of a whole answer are large."""
    return torch.split(completion_mask[1:].nonzero().squeeze(1) + 1, 128)


def sigmoid(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO, arXiv:2305.18290, Eq. 7, with log sigma(x) = -log(1 + exp(-x)); smoothing from the cDPO note, Eq. 3."""
    chosen, rejected = _logratios(logps)
    reward_gap = beta * chosen - beta * rejected
    zero = torch.zeros_like(reward_gap)
    cost_if_right = torch.logaddexp(zero, -reward_gap)
    cost_if_wrong = torch.logaddexp(zero, reward_gap)
    return (1.0 - label_smoothing) * cost_if_right + label_smoothing * cost_if_wrong


def ipo(logps: PairLogps, *, beta: float) -> Tensor:
    """IPO, arXiv:2310.12036, Eq. 17, each log-ratio divided by its completion's tokens."""
    chosen, rejected = _logratios(logps)
    chosen_lengths, rejected_lengths = logps.lengths()
    gap = chosen / chosen_lengths.double() - rejected / rejected_lengths.double()
    return torch.square(gap - 0.5 / beta)


def hinge(logps: PairLogps, *, beta: float) -> Tensor:
    """The hinge of arXiv:2305.10425, Eq. 4, on the reward gap."""
    chosen, rejected = _logratios(logps)
    return torch.clamp(1.0 - (beta * chosen - beta * rejected), min=0.0)


def weighted(costs: Tensor, logps: PairLogps) -> Tensor:
    """Return each pair's cost as often as its weight says, once where it has none."""
    if "weight" not in logps.extras:
        return costs
    return torch.nan_to_num(logps.extras["weight"].double(), nan=1.0) * costs.double()


def _logratios(logps: PairLogps) -> tuple[Tensor, Tensor]:
    chosen = logps.policy_chosen.double() - logps.reference_chosen.double()
    rejected = logps.policy_rejected.double() - logps.reference_rejected.double()
    return chosen, rejected
