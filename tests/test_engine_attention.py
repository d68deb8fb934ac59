"""Attention over a row of pairs: pair by pair, by a mask, by FlexAttention, and without a row as sdpa."""

import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.testing import assert_close
from transformers import AttentionInterface, LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import LlamaAttention

from preftune.engine.attention import NAME, attend, block_mask
from preftune.engine.layout import Layout, allowed, lay_out
from tests.engine import RAGGED, SMALL, Pair, batch, drawn_pairs

few = settings(max_examples=25, deadline=None)


def drawn(length: int) -> tuple[nn.Module, list[Tensor]]:
    """Return an attention layer of four heads over two, and its query, key and value of `length` tokens."""
    torch.manual_seed(0)
    layer = LlamaAttention(LlamaConfig(**SMALL), layer_idx=0).eval()
    shapes = [(1, heads, length, 8) for heads in (4, 2, 2)]
    return layer, [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def layout_of(pairs: list[Pair]) -> Layout:
    made = batch(pairs)
    return lay_out(made["input_ids"], made["attention_mask"], made["completion_mask"])


@given(drawn_pairs())
@example(RAGGED)
@example([([3], [4, 5], [4])])
@few
def test_pair_by_pair_is_the_masked_row_in_value_and_gradient(pairs: list[Pair]) -> None:
    layout = layout_of(pairs)
    layer, states = drawn(layout.ids.shape[1])
    blocks, nothing = attend(layer, *states, None, pair_layout=layout)
    masked, _ = sdpa_attention_forward(layer, *states, allowed(layout))
    assert nothing is None
    assert_close(blocks, masked, rtol=1e-10, atol=1e-12)
    slopes = torch.randn(blocks.shape, dtype=torch.float64)
    for got, expected in zip(
        torch.autograd.grad(blocks, states, slopes), torch.autograd.grad(masked, states, slopes), strict=True
    ):
        assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pairs", [RAGGED, [([3], [4], [5])], [([3], [4, 5], [4])]])
def test_the_block_mask_says_what_the_mask_says(pairs: list[Pair]) -> None:
    layout = layout_of(pairs)
    layer, states = drawn(layout.ids.shape[1])
    masked, _ = sdpa_attention_forward(layer, *states, allowed(layout))
    with torch.no_grad():  # it has no backward pass on a CPU
        query, key, value = (each.detach() for each in states)
        mask = block_mask(layout)
        flex = flex_attention(query, key, value, block_mask=mask, scale=layer.scaling, enable_gqa=True)
    assert_close(flex.transpose(1, 2), masked, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_without_a_row_of_pairs_it_is_sdpa_to_the_last_bit(masked: bool) -> None:
    layer, states = drawn(7)
    mask = torch.ones(7, 7, dtype=torch.bool).tril()[None, None] if masked else None
    assert torch.equal(attend(layer, *states, mask)[0], sdpa_attention_forward(layer, *states, mask)[0])


def test_the_scale_and_the_dropout_of_the_model_are_passed_on() -> None:
    layout = layout_of(RAGGED)
    layer, states = drawn(layout.ids.shape[1])
    scaled = attend(layer, *states, None, pair_layout=layout, scaling=0.5)[0]
    assert_close(scaled, sdpa_attention_forward(layer, *states, allowed(layout), scaling=0.5)[0])
    dropped = attend(layer, *states, None, pair_layout=layout, scaling=0.5, dropout=0.5)[0]
    assert not torch.allclose(dropped, scaled)


def test_it_stands_beside_the_others_under_its_name() -> None:
    assert AttentionInterface()[NAME] is attend
