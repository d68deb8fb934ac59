"""Small models of several families and batches of drawn pairs, for the tests of the shared engine."""

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from trl.trainer.dpo_trainer import DataCollatorForPreference

from preftune.losses import scratch

Pair = tuple[list[int], list[int], list[int]]

SMALL: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What a family needs besides, by its name in transformers.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "gemma": {},
    "gemma2": {"attn_implementation": "eager", "sliding_window": 64},  # sdpa leaves out the softcap of its scores
    "phi": {"num_key_value_heads": 4},
    "phi3": {},
    "smollm3": {},
    "starcoder2": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}
# These normalise in the type that they compute in; the others do so in float32 whatever that is.
EXACT = ("phi", "starcoder2", "gpt2")
# A row of pairs, in words: prompt, chosen, rejected.
RAGGED: list[Pair] = [
    ([3, 4, 5], [6, 7, 8, 2], [9, 2]),
    ([3], [4], [5]),
    ([3, 4], [5, 6, 7, 2], [5, 6, 8, 8, 8, 2]),
    ([4, 4], [5, 6, 2], [5, 6]),
    ([4, 4, 9, 9, 9], [5], [5, 6, 2]),
    ([7], [2], [2, 2]),
    ([8, 3, 4], [9, 9], [9, 9]),
]


def model(family: str = "phi", *, dtype: torch.dtype = torch.float64, **changes: Any) -> PreTrainedModel:
    """Build a model of two layers, its biases and norms drawn, too, so that none of them is idle."""
    fields = {"attn_implementation": "sdpa", **SMALL, **FAMILIES.get(family, {}), **changes}
    attention = fields.pop("attn_implementation")
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **fields)
    made = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape).to(dtype))
    return made.eval()


def batch(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Return pairs as TRL collates them, with `labels` as TRL makes them and `row`."""
    rows = [{"prompt_ids": prompt, "chosen_ids": a, "rejected_ids": b} for prompt, a, b in pairs]
    made: dict[str, Tensor] = DataCollatorForPreference(pad_token_id=0)(rows)
    return {**made, "row": torch.arange(len(rows))}


def inputs(of: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a forward pass takes of a batch."""
    labels = of["input_ids"].masked_fill(of["completion_mask"] == 0, -100)
    return {"input_ids": of["input_ids"], "attention_mask": of["attention_mask"], "labels": labels}


def alone(of: PreTrainedModel, made: dict[str, Tensor]) -> Tensor:
    """Return the log-probability of each completion token, each sequence alone, of shape `(2 B, T - 1)`."""
    found = []
    for ids, attended, completion in zip(
        made["input_ids"], made["attention_mask"], made["completion_mask"], strict=True
    ):
        length = int(attended.sum())
        logits = of(input_ids=ids[None, :length], use_cache=False).logits[0]
        found.append(scratch.token_logps(logits, ids[:length], completion[:length]))
    mask = made["completion_mask"][:, 1:].bool()
    return found[0].new_zeros(mask.shape).masked_scatter(mask, torch.cat(found))


def slopes_like(tokens: Tensor) -> Tensor:
    """Return a slope of the loss for each token, negative at some."""
    return torch.randn(tokens.shape, generator=torch.Generator().manual_seed(5)).to(tokens.dtype)


def gradient(of: PreTrainedModel, tokens: Tensor, slopes: Tensor) -> Tensor:
    """Return the gradient, to all that trains, of a loss with `slopes` at `tokens`, in one row."""
    moving = [parameter for parameter in of.parameters() if parameter.requires_grad]
    found = torch.autograd.grad((tokens * slopes).sum(), moving, allow_unused=True, materialize_grads=True)
    return torch.cat([each.flatten().double() for each in found])


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Return the norm of the difference as a share of that of `theirs`."""
    return float((ours.detach().double() - theirs.detach().double()).norm() / theirs.detach().double().norm())


def few_tokens(longest: int) -> st.SearchStrategy[list[int]]:
    """Draw at least one token out of few, so that beginnings are often equal."""
    return st.lists(st.integers(3, 5), min_size=1, max_size=longest)


def drawn_pairs(most: int = 4) -> st.SearchStrategy[list[Pair]]:
    """Draw up to `most` pairs, as a rule with something in common."""
    return st.lists(st.tuples(few_tokens(4), few_tokens(6), few_tokens(6)), min_size=1, max_size=most)
