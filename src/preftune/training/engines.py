"""What computes the log-probabilities: the stock trainer's forward pass, or the shared one where it proves equal."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import gather
from rich.text import Text
from torch import Tensor, nn

from preftune.engine.layout import pair_tokens
from preftune.engine.packing import by_pairs, by_tokens, by_turns
from preftune.engine.shared import Kind, SharedPass, causal_model, prepare_attention
from preftune.engine.support import unsupported
from preftune.refusals import Refusal
from preftune.training.scoring import StockPass
from preftune.training.verification import TOLERANCE

# What the code of a model that expects another layout raises.
_FOREIGN = (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)


class Engine(Protocol):
    """One of the two."""

    name: str

    def forward(self, model: nn.Module, tokens: Sequence[str], *, metrics: bool) -> StockPass | SharedPass:
        """Return a forward pass of `model` that keeps what the loss reads at `tokens`, and TRL's `metrics`."""

    def parts(self, batch: dict[str, Tensor], micro_batch: int, budget: int | None) -> list[list[int]]:
        """Return the micro-batches of a step, as places of its pairs."""


class Stock:
    """The forward pass of the stock trainer: two sequences a pair, padded to the longest."""

    name = "trl"

    def forward(self, model: nn.Module, tokens: Sequence[str], *, metrics: bool) -> StockPass:
        """Return it; `metrics` are always there."""
        return StockPass(model, hidden="kl" in tokens)

    def parts(self, batch: dict[str, Tensor], micro_batch: int, budget: int | None) -> list[list[int]]:
        """Return `micro_batch` pairs at a time."""
        return by_pairs(len(batch["row"]), micro_batch)


@dataclass(frozen=True)
class Shared:
    """Each token once, completion tokens scored alone, no padding: `preftune.engine`.

    Attributes:
        kind: How attention is told the layout.
        autocast: What the head is computed under.
    """

    kind: Kind
    autocast: Callable[[], AbstractContextManager[None]]
    name: str = "shared"

    def forward(self, model: nn.Module, tokens: Sequence[str], *, metrics: bool) -> SharedPass:
        """Return it."""
        return SharedPass(
            model,
            self.kind,
            metrics=metrics,
            collision="collision" in tokens,
            hidden="kl" in tokens,
            autocast=self.autocast,
        )

    def parts(self, batch: dict[str, Tensor], micro_batch: int, budget: int | None) -> list[list[int]]:
        """Return as many pairs at a time as `budget` tokens hold; without a budget `micro_batch` pairs."""
        if budget is None:
            return by_pairs(len(batch["row"]), micro_batch)
        tokens = pair_tokens(batch["input_ids"], batch["attention_mask"])
        if PartialState().num_processes == 1:
            return by_tokens(tokens, budget)
        # TRL gathers what it measures of each pair from all processes, so that all need micro-batches of one size
        parts = by_turns(tokens, budget)
        while len(set(counts := gather(batch["row"].new_tensor([len(parts)])).tolist())) > 1:
            parts = by_turns(tokens, budget, max(counts))
        return parts


def choose(trainer: Any, engine: str, longest: int | None) -> None:
    """Give a trainer of pairs its engine; where `auto` chooses, say which and why.

    Args:
        trainer: A `PairTrainer` before its first step.
        engine: `trl`, `shared` or `auto`.
        longest: Tokens of the longest prompt and answer together; None for no limit.

    Raises:
        Refusal: `shared` is asked for, and the model does not take it.
    """
    if engine == "trl":
        return
    reason = "the model is compiled" if trainer.args.torch_compile else unsupported(trainer.model, longest)
    if reason is not None and engine == "shared":
        raise Refusal(f"engine must be trl or auto for this model, got shared: {reason}")
    if reason is None:
        models = [model for model in (trainer.ref_model, trainer.model) if model is not None]
        before = [(model, causal_model(model).config._attn_implementation) for model in models]
        shared = Shared([prepare_attention(model) for model in models][-1], trainer.accelerator.autocast)
        if engine == "shared":
            trainer.engine = shared
            return
        batch = trainer.first_batch()
        reason, difference = _compared(trainer, shared, batch)
        if reason is None:
            trainer.engine = shared
            sequences = len(batch["input_ids"])
            trainer.console.print(
                Text(f"engine: shared; within {difference:.0e} nats of stock TRL over {sequences} completions")
            )
            return
        for model, attention in before:
            causal_model(model).set_attn_implementation(attention)
    held = f"; {trainer.micro_batch} pairs are held at once" if trainer.tokens_per_batch is not None else ""
    trainer.console.print(Text(f"engine: trl, as {reason}{held}"))


@torch.no_grad()
def _compared(trainer: Any, shared: Shared, batch: dict[str, Tensor]) -> tuple[str | None, float]:
    """Return what is against the shared pass on a batch, None where it equals stock, and the largest difference."""
    completion = batch["completion_mask"]
    labels = batch["input_ids"].masked_fill(completion == 0, -100)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    trainer.model.eval()
    with trainer.accelerator.autocast():
        stock = trainer.model(**inputs, use_cache=False, fused_lm_head=True).log_probs
    try:
        ours = shared.forward(trainer.model, (), metrics=False)(**inputs).log_probs
    except torch.OutOfMemoryError:
        raise
    except _FOREIGN as error:
        return f"the shared pass does not run on this model: {type(error).__name__}: {error}", 0.0
    finally:
        trainer.model.train()
    apart = (stock.double().sum(dim=1) - ours.double().sum(dim=1)).abs()
    tolerance = TOLERANCE[trainer.precision]
    per_token = apart / completion.sum(dim=1)
    worst = int(per_token.argmax())
    if bool((per_token <= tolerance).all()):
        return None, apart.max().item()
    half = len(apart) // 2
    answer = "chosen" if worst < half else "rejected"
    origin = trainer.pairs["train"].origin(int(batch["row"][worst % half]))
    return (
        f"the shared pass gives the {answer} answer of {origin} a log-probability that differs from stock TRL's by "
        f"{apart[worst].item():.4g} nats, {per_token[worst].item():.2g} a token, above {tolerance:g}"
    ), apart.max().item()
