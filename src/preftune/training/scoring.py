"""From the outputs of the fused LM head to the record that a loss takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from preftune.engine.shared import SharedPass, causal_model
from preftune.losses.logps import PairLogps, TokenLogps
from preftune.losses.traits import Traits


class FusedOutput(Protocol):
    """What a model with TRL's fused LM head returns, each of shape `(2 B, T - 1)`, 0 where no completion token is."""

    log_probs: Tensor
    log_sum_sq_probs: Tensor | None


Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Kept:
    """Log-probabilities of an earlier forward pass, of shape `(2 B, T - 1)`."""

    log_probs: Tensor
    log_sum_sq_probs: None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """One forward pass.

    Attributes:
        outputs: What the fused head returned, or what stands for it.
        hidden: Last hidden state before each completion token, in the order of the mask, of shape `(C, H)`; None where
            nothing asked for them.
    """

    outputs: FusedOutput
    hidden: Tensor | None


class StockPass:
    """Calls a model with TRL's fused head, two sequences a pair."""

    def __init__(self, model: nn.Module, *, hidden: bool) -> None:
        """Keep the last hidden states, too, where `hidden`."""
        self.model = model
        self.keeps_hidden = hidden
        self.hidden: Tensor | None = None

    def __call__(self, labels: Tensor, **inputs: Any) -> Any:
        """Return what the model returns."""
        states: list[Tensor] = []
        hooks = []
        if self.keeps_hidden:
            backbone = causal_model(self.model).base_model
            hooks.append(backbone.register_forward_hook(lambda *call: states.append(call[-1].last_hidden_state)))
        outputs = self.model(labels=labels, **inputs)
        for hook in hooks:
            hook.remove()
        self.hidden = states[0][:, :-1][labels[:, 1:] != -100] if states else None
        return outputs


class Recording:
    """Calls a forward pass and keeps what it gave."""

    def __init__(self, forward: StockPass | SharedPass) -> None:
        """Keep the pass."""
        self.forward = forward
        self.scored: Scored

    def __call__(self, **inputs: Any) -> Any:
        """Return what the pass returns."""
        outputs: Any = self.forward(**inputs)
        hidden = outputs.hidden if isinstance(self.forward, SharedPass) else self.forward.hidden
        self.scored = Scored(outputs, hidden)
        return outputs


class Replay:
    """Stands for a model whose forward pass is done: returns the outputs that it gave."""

    def __init__(self, outputs: Any) -> None:
        """Keep the outputs."""
        self.outputs = outputs
        self.scored = Scored(outputs, None)

    def __call__(self, **_: Any) -> Any:
        """Return them."""
        return self.outputs


def pair_logps(
    policy: Scored,
    reference: Scored,
    completion_mask: Tensor,
    extras: Mapping[str, Tensor],
    traits: Traits,
    heads: tuple[Head, Head],
) -> PairLogps:
    """Return the record of a batch whose first half holds chosen and whose second half rejected.

    Args:
        policy: The policy's forward pass.
        reference: The reference's.
        completion_mask: 1 where a token belongs to the completion, of shape `(2 B, T)`.
        extras: Numbers that travel with the pairs.
        traits: What the loss reads at each token.
        heads: Policy's and reference's: from hidden states to log-probabilities of the next token.
    """
    mask = completion_mask[:, 1:].bool()
    sums = (*policy.outputs.log_probs.sum(dim=1).chunk(2), *reference.outputs.log_probs.sum(dim=1).chunk(2))
    if not traits.tokens:
        return PairLogps(*sums, *mask.sum(dim=1).chunk(2), extras=extras)
    kl = None
    if "kl" in traits.tokens:
        kl = divergence(*heads, (policy.hidden, reference.hidden), mask)  # type: ignore[arg-type]
    collision = policy.outputs.log_sum_sq_probs if "collision" in traits.tokens else None
    columns = (policy.outputs.log_probs, reference.outputs.log_probs, collision, kl)
    chosen, rejected = (
        TokenLogps(*(None if c is None else _to_the_left(c.chunk(2)[side], mask.chunk(2)[side]) for c in columns))  # type: ignore[arg-type]
        for side in (0, 1)
    )
    return PairLogps(*sums, *mask.sum(dim=1).chunk(2), extras=extras, chosen_tokens=chosen, rejected_tokens=rejected)


def divergence(policy: Head, reference: Head, hidden: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Return KL(reference || policy) of the next token at each completion token, of shape `(2 B, T - 1)`, in nats.

    It holds the log-probabilities of all tokens of the vocabulary at all completion tokens of the batch at once.

    Args:
        policy: Gives the policy's log-probabilities of the next token, of shape `(N, V)`, from its hidden states.
        reference: The reference's, without gradient.
        hidden: Last hidden states of policy and reference before each completion token, each of shape `(C, H)`.
        mask: True where the next token belongs to the completion, of shape `(2 B, T - 1)`.
    """
    log_pi, log_ref = policy(hidden[0]), reference(hidden[1])
    values = (log_ref.exp() * (log_ref - log_pi)).sum(dim=-1)
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def _to_the_left(values: Tensor, mask: Tensor) -> Tensor:
    """Move the completion tokens of each row to its first columns; what is beyond them is 0."""
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    width = int(mask.sum(dim=1).max())
    return values.masked_fill(~mask, 0.0).gather(1, order)[:, :width]
