"""Which models the shared pass takes, told from their configuration."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from preftune.engine.support import unsupported
from tests.engine import FAMILIES, SMALL, model


def configured(family: str, attention: str = "sdpa", **fields: Any) -> Any:
    """Return what has a configuration as a model of the family has it."""
    config = AutoConfig.for_model(family, **fields)
    config._attn_implementation = attention
    return SimpleNamespace(config=config)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_usual_families_are_taken(family: str) -> None:
    assert unsupported(model(family), 64) is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            configured("mistral", sliding_window=63),
            "the model attends 63 tokens back, and a sequence may have 64 tokens",
        ),
        (
            configured("gemma2", sliding_window=63),
            "the model attends 63 tokens back, and a sequence may have 64 tokens",
        ),
        (
            configured("qwen2", use_sliding_window=True, sliding_window=32, max_window_layers=1, num_hidden_layers=2),
            "the model attends 32 tokens back, and a sequence may have 64 tokens",
        ),
        (
            configured("qwen3_next", num_hidden_layers=4),
            "the model has layers of full_attention, linear_attention, which mix tokens along the row",
        ),
        (
            configured("mamba", num_hidden_layers=2),
            "the model has layers of linear_attention, which mix tokens along the row",
        ),
        (configured("rwkv"), "the model has layers of another kind, which mix tokens along the row"),
        (configured("falcon_h1"), "the model has layers of hybrid, which mix tokens along the row"),
        (
            configured("lfm2", num_hidden_layers=2, layer_types=["conv", "full_attention"]),
            "the model has layers of conv, full_attention, which mix tokens along the row",
        ),
        (
            configured("llama4_text", attention_chunk_size=63),
            "the model attends 63 tokens back, and a sequence may have 64 tokens",
        ),
        (configured("qwen2_vl"), "the model takes more than text"),
        (configured("gemma3"), "the model takes more than text"),
        (configured("mixtral", output_router_logits=True), "the model has experts whose load is part of the loss"),
        (
            configured("llama", "flash_attention_2"),
            "model.attention=flash_attention_2 knows no layout of pairs; sdpa does",
        ),
    ],
    ids=lambda each: each.config.model_type if isinstance(each, SimpleNamespace) else "",
)
def test_other_models_are_named_with_what_is_against_them(given: Any, reason: str) -> None:
    assert reason in (unsupported(given, 64) or "")


def test_a_window_is_long_enough_where_no_sequence_is_longer() -> None:
    assert unsupported(configured("mistral", sliding_window=64), 64) is None


def test_no_window_is_long_enough_without_a_limit_to_sequences() -> None:
    assert unsupported(configured("mistral", sliding_window=4096), None) == (
        "the model attends 4096 tokens back, and a sequence may have any number of tokens"
    )


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_window_that_the_model_does_not_use_is_no_window(family: str) -> None:
    fields = SMALL | {"use_sliding_window": False, "sliding_window": 8}
    assert unsupported(configured(family, **fields), 64) is None


@pytest.mark.parametrize("attention", ["sdpa", "eager", "preftune"])
def test_attention_that_takes_a_layout_is_taken(attention: str) -> None:
    assert unsupported(configured("llama", attention), 64) is None
