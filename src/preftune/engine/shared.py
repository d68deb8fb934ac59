"""The shared forward pass: it is called as a model with TRL's fused head is, and answers as one does."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from preftune.engine import attention, head
from preftune.engine.layout import Layout, allowed, lay_out

Kind = Literal["blocks", "flex", "mask"]


@dataclass(frozen=True, slots=True)
class PairOutput:
    """What TRL reads of a forward pass, by the names of its own record, each of shape `(2 B, T - 1)`.

    Attributes:
        log_probs: Log-probability of each completion token, in nats, 0 elsewhere; so with the others.
        entropy: Of the distribution of the next token, in nats.
        mean_logits: Mean of the logits over the vocabulary.
        is_top1: Whether no token is likelier.
        log_sum_sq_probs: Log of the sum of squared probabilities; None where not asked for.
        hidden: Last hidden state before each completion token, in the order of the mask, of shape `(C, H)`; None
            where not asked for.
    """

    log_probs: Tensor
    entropy: Tensor | None
    mean_logits: Tensor | None
    is_top1: Tensor | None
    log_sum_sq_probs: Tensor | None
    hidden: Tensor | None


class SharedPass:
    """Computes each token of a micro-batch once, and the head at completion tokens alone."""

    def __init__(
        self,
        model: nn.Module,
        kind: Kind,
        *,
        metrics: bool = True,
        collision: bool = False,
        hidden: bool = False,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Wrap a model.

        Args:
            model: The model as it is trained, with its wrappers.
            kind: How attention is told the layout; `prepare_attention` says which the model takes.
            metrics: Whether to measure what TRL logs.
            collision: Whether the loss reads `log_sum_sq_probs`.
            hidden: Whether the loss reads the hidden states.
            autocast: What the head is computed under.
        """
        self.model, self.kind, self.metrics, self.collision = model, kind, metrics, collision
        self.hidden, self.autocast = hidden, autocast

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any) -> PairOutput:
        """Return the scores of a batch.

        Args:
            input_ids: As for `lay_out`.
            attention_mask: As for `lay_out`.
            labels: The ids, with -100 where a token belongs to no completion.
        """
        layout = lay_out(input_ids, attention_mask, labels != -100)
        states = self._hidden(layout)[0][layout.places]
        causal = causal_model(self.model)
        trained = any(p.requires_grad for p in causal.get_output_embeddings().parameters())
        with self.autocast():
            scores = head.score(
                lambda hidden: logits_of(causal, hidden),
                states,
                layout.labels,
                trained=trained,
                metrics=self.metrics,
                collision=self.collision,
            )
        columns = (scores.entropy, scores.mean_logits, scores.is_top1, scores.log_sum_sq_probs)
        entropy, mean_logits, is_top1, squares = (None if c is None else layout.spread(c) for c in columns)
        hidden = states[layout.sources] if self.hidden else None
        return PairOutput(layout.spread(scores.log_probs), entropy, mean_logits, is_top1, squares, hidden)

    def _hidden(self, layout: Layout) -> Tensor:
        """Return the last hidden states of the row, of shape `(1, N, H)`."""
        states: list[Tensor] = []
        backbone = causal_model(self.model).base_model
        hook = backbone.register_forward_hook(lambda *call: states.append(call[-1].last_hidden_state))
        try:
            # the wrapped model is called, as wrappers gather gradients by their own forward pass; no logit is computed
            self.model(
                input_ids=layout.ids,
                position_ids=layout.positions,
                use_cache=False,
                logits_to_keep=layout.places[:0],
                **self._attention(layout),
            )
        finally:
            hook.remove()
        return states[0]

    def _attention(self, layout: Layout) -> dict[str, Any]:
        if self.kind == "flex":
            return {"attention_mask": attention.block_mask(layout)}
        if self.kind == "mask":
            dtype = causal_model(self.model).dtype  # what is added to the scores, as every implementation takes it
            closed = torch.finfo(dtype).min
            return {
                "attention_mask": torch.zeros(1, dtype=dtype, device=layout.ids.device).where(allowed(layout), closed)
            }
        # a mask of four dimensions goes through transformers untouched; this one is never read
        return {"attention_mask": layout.ids.new_ones(1, 1, 1, 1), "pair_layout": layout}


def prepare_attention(model: Any) -> Kind:
    """Let a model attend over rows of pairs, and return how it is told the layout.

    Other calls of the model go on as before.
    """
    causal = causal_model(model)
    if causal.config._attn_implementation == "flex_attention":
        return "flex"
    if causal.config._attn_implementation not in ("sdpa", attention.NAME) or not causal._supports_attention_backend:
        return "mask"
    causal.set_attn_implementation(attention.NAME)
    return "blocks"


def causal_model(model: Any) -> Any:
    """Return the language model itself, without the adapter and the wrappers around it."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if isinstance(model, PeftModel) else model


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Return the logits that a language model makes of hidden states, of shape `(M, V)`."""
    logits: Tensor = model.get_output_embeddings()(hidden)
    config = model.config.get_text_config()
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite's
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits
