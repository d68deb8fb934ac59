"""Floating-point operations: those that torch counts, those of attention beside them, and the fewest there can be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from preftune.engine.layout import Layout
from preftune.engine.shared import causal_model

Shape = Sequence[int]

# torch 2.13 has no formula for attention on CPU; delete these once `flop_counter.flop_registry` holds them.
_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass
class Operations:
    """Floating-point operations of a stretch of work.

    Attributes:
        counted: What torch's counter counts as it is.
        attention: What it leaves out: fused attention on CPU.
    """

    counted: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.counted + self.attention

    def __add__(self, other: "Operations") -> "Operations":
        """Return those of both stretches."""
        return Operations(self.counted + other.counted, self.attention + other.attention)


@contextmanager
def counting() -> Iterator[Operations]:
    """Count the operations of the block; the record is filled at its end."""
    found = Operations()
    counter = FlopCounterMode(display=False, custom_mapping={_ATTENTION: _forward, _ATTENTION_BACKWARD: _backward})
    counter.mod_tracker = _Everything()  # type: ignore[assignment]
    with counter:
        yield found
    by_kind = counter.get_flop_counts().get("Global", {})
    found.attention = sum(count for kind, count in by_kind.items() if kind in (_ATTENTION, _ATTENTION_BACKWARD))
    found.counted = counter.get_total_flops() - found.attention


class _Everything:
    """In place of the counter's account by module, which a forward pass without gradients inside one with breaks."""

    parents = frozenset(("Global",))

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _forward(query: Shape, key: Shape, value: Shape, dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
    """Return those of full attention, of half of it where it is causal."""
    full: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return full // (2 if causal else 1)


def _backward(
    slope: Shape,
    query: Shape,
    key: Shape,
    value: Shape,
    output: Shape,
    normalizer: Shape,
    dropout: float = 0.0,
    causal: bool = False,
    **_: Any,
) -> int:
    full: int = sdpa_backward_flop_count(slope, query, key, value)  # type: ignore[no-untyped-call]
    return full // (2 if causal else 1)


@dataclass(frozen=True)
class Floor:
    """The fewest operations that one pass over pairs can take.

    Attributes:
        policy: Forward and backward passes of the policy.
        reference: Forward pass of the reference.
    """

    policy: Operations
    reference: Operations


def floor(model: nn.Module, layouts: Sequence[Layout]) -> Floor:
    """Return the operations of each unique token once, with the head at completion tokens alone.

    A frozen matrix of `n` entries takes `2 n` operations a token forward and `2 n` for the gradient to its input; one
    that trains takes `2 n` more. Attention takes 2 products of queries and keys forward and 4 backward, each over the
    tokens that a token sees. The gradient to the input of the first layer is counted although nothing trains below it.

    Args:
        model: The policy, with its adapter; not one to which a second adapter was added.
        layouts: What was trained on, once.
    """
    causal = causal_model(model)
    head = causal.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    frozen = sum(m.in_features * m.out_features for m in linear if not m.weight.requires_grad)
    trained = sum(m.in_features * m.out_features for m in linear if m.weight.requires_grad)
    text = causal.config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    tokens = sum(layout.ids.numel() for layout in layouts)
    scores = sum(len(layout.places) for layout in layouts) * head.in_features * head.out_features
    products = 2 * sum(map(_seen, layouts)) * width * text.num_attention_heads * text.num_hidden_layers
    adapters = trained if any(not m.weight.requires_grad for m in linear) else 0
    return Floor(
        policy=Operations(4 * scores + tokens * (4 * frozen + 6 * trained), 6 * products),
        reference=Operations(2 * scores + 2 * tokens * (frozen + trained - adapters), 2 * products),
    )


def _seen(layout: Layout) -> int:
    """Return how many tokens the tokens of a row attend to, added up."""
    total = 0
    for each in layout.branches:
        first = each.trunk + each.chosen
        total += first * (first + 1) // 2 + each.rejected * each.trunk + each.rejected * (each.rejected + 1) // 2
    return total
