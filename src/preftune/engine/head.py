"""From hidden states to scores of the next token, a chunk at a time, so that the whole logits are never held."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]

CHUNK = {"cpu": 1 << 24, "cuda": 1 << 28}  # bytes of the logits held at once, in float32


@dataclass(frozen=True, slots=True)
class Scores:
    """What a forward pass gives for each of `M` tokens, by the names of TRL's fused head, each of shape `(M,)`.

    Attributes:
        log_probs: Log-probability of the token, in nats.
        entropy: Of the distribution it was drawn from, in nats, without gradient; None where not asked for.
        mean_logits: Mean of the logits over the vocabulary; None where not asked for.
        is_top1: Whether no token is likelier; None where not asked for.
        log_sum_sq_probs: Log of the sum of the squared probabilities; None where not asked for.
    """

    log_probs: Tensor
    entropy: Tensor | None = None
    mean_logits: Tensor | None = None
    is_top1: Tensor | None = None
    log_sum_sq_probs: Tensor | None = None


def score(head: Head, hidden: Tensor, labels: Tensor, *, trained: bool, metrics: bool, collision: bool) -> Scores:
    """Score `labels` by the distributions that `head` makes of `hidden`, in float32.

    The log-probability's gradient to the hidden state is worked out in the forward pass, while the logits are there:
    the backward pass multiplies it by the slope of the loss and needs no logits again. Where the head itself trains
    that cannot be, and each chunk is computed once more.

    Args:
        head: Gives logits, of shape `(m, V)`, for hidden states of shape `(m, H)`.
        hidden: Of shape `(M, H)`.
        labels: Of shape `(M,)`.
        trained: Whether the head has parameters that train.
        metrics: Whether `entropy`, `mean_logits` and `is_top1` are asked for.
        collision: Whether `log_sum_sq_probs` is asked for.
    """
    with torch.no_grad():
        width = head(hidden[:1]).shape[-1]
    rows = max(1, CHUNK[hidden.device.type] // (4 * width))
    chunks = zip(torch.split(hidden, rows), torch.split(labels, rows), strict=True)
    if trained and torch.is_grad_enabled():
        parts = [checkpoint(_recomputed, *chunk, head, metrics, collision, use_reentrant=False) for chunk in chunks]
    elif hidden.requires_grad and torch.is_grad_enabled():
        parts = [_SlopesKept.apply(*chunk, head, metrics, collision) for chunk in chunks]  # type: ignore[no-untyped-call]
    else:
        parts = [_recomputed(*chunk, head, metrics, collision) for chunk in chunks]
    return Scores(*(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)))  # type: ignore[arg-type]


def _recomputed(
    hidden: Tensor, labels: Tensor, head: Head, metrics: bool, collision: bool
) -> tuple[Tensor | None, ...]:
    """Return the fields of `Scores` for a chunk, by steps that autograd can follow."""
    logits = _widened(head(hidden))
    normalizer = logits.logsumexp(dim=1)
    log_probs = logits.gather(1, labels[:, None])[:, 0] - normalizer
    with torch.no_grad():
        shares = (logits - normalizer[:, None]).exp_() if metrics else None
        return log_probs, *_measured(logits, labels, normalizer, shares), _collision(logits, normalizer, collision)


class _SlopesKept(torch.autograd.Function):
    """The fields of `Scores` for a chunk under a head that does not train."""

    @staticmethod
    def forward(
        context: Any, hidden: Tensor, labels: Tensor, head: Head, metrics: bool, collision: bool
    ) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            inner = hidden.detach().requires_grad_()
            graph = _widened(head(inner))
        logits = graph.detach()
        normalizer = logits.logsumexp(dim=1)
        log_probs = logits.gather(1, labels[:, None])[:, 0] - normalizer
        shares = (logits - normalizer[:, None]).exp_()
        measured = _measured(logits, labels, normalizer, shares if metrics else None)
        squares = _collision(logits, normalizer, collision)
        # the gradient of a log-probability to its logits: 1 at the label, less the probabilities
        slopes = shares.neg_().scatter_add_(1, labels[:, None], torch.ones_like(log_probs)[:, None])
        context.save_for_backward(*torch.autograd.grad(graph, inner, slopes))
        context.mark_non_differentiable(*(each for each in (*measured, squares) if each is not None))
        return log_probs, *measured, squares

    @staticmethod
    def backward(context: Any, slope: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        (slopes,) = context.saved_tensors
        return (slopes * slope[:, None]).to(slopes.dtype), None, None, None, None


def _widened(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _measured(
    logits: Tensor, labels: Tensor, normalizer: Tensor, shares: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return entropy, mean of the logits and whether the label is on top; nothing without the probabilities."""
    if shares is None:
        return None, None, None
    entropy = normalizer - torch.linalg.vecdot(shares, logits)
    return entropy, logits.mean(dim=1), logits.argmax(dim=1) == labels


def _collision(logits: Tensor, normalizer: Tensor, asked: bool) -> Tensor | None:
    return (2 * logits).logsumexp(dim=1) - 2 * normalizer if asked else None
