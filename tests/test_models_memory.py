"""The estimate of memory: what it counts is what lies there, and what a layer keeps is what autograd saves."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from preftune.models import memory
from preftune.models.layers import LiveBytes, decoder_layers, measure_layer
from preftune.models.memory import Estimate, Layers, optimizer_bytes, standing
from preftune.models.policy import load_policy
from preftune.models.source import locate
from tests import stock

Policy = Any


def llama(*, layers: int = 4, dtype: torch.dtype = torch.float32, dora: bool = False, adapter: bool = True) -> Policy:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    policy: Policy = LlamaForCausalLM(config).to(dtype)
    if adapter:
        lora = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear", use_dora=dora)
        policy = get_peft_model(policy, lora)
        for parameter in policy.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    return policy.train()


def forward(policy: Policy, tokens: int) -> Callable[[], Tensor]:
    ids = torch.arange(2 * tokens).view(2, tokens) % 500
    attended = torch.ones_like(ids)
    attended[1, tokens // 2 :] = 0

    def call() -> Tensor:
        return policy(input_ids=ids, attention_mask=attended, use_cache=False, logits_to_keep=1).logits  # type: ignore[no-any-return]

    return call


def saved_bytes(policy: nn.Module, call: Callable[[], Tensor]) -> int:
    own = {p.untyped_storage()._cdata for p in policy.parameters()}
    kept = {}  # held weakly: DoRA saves for graphs that it drops

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = weakref.ref(tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = call()
    assert result.requires_grad
    alive = {key: storage() for key, storage in kept.items() if key not in own}
    return sum(storage.nbytes() for storage in alive.values() if storage is not None)


@pytest.mark.parametrize("tokens", [64, 256])
@pytest.mark.parametrize(
    "made",
    [{}, {"dtype": torch.bfloat16}, {"dora": True}, {"adapter": False}],
    ids=["lora", "bfloat16", "dora", "full"],
)
def test_what_the_layers_keep_is_what_autograd_saves_within_15_percent(made: dict[str, Any], tokens: int) -> None:
    policy = llama(**made)
    layers = measure_layer(policy, forward(policy, tokens))
    saved = saved_bytes(policy, forward(policy, tokens))
    assert layers.count * layers.kept + layers.shared == pytest.approx(saved, rel=0.15)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_of_a_pass_is_estimated_within_15_percent(dtype: torch.dtype, checkpointing: bool) -> None:
    policy = llama(dtype=dtype, layers=6)
    estimated = measure_layer(policy, forward(policy, 256)).activations(checkpointing=checkpointing)
    if checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.enable_input_require_grads()
    with LiveBytes() as live:
        forward(policy, 256)().sum().backward()
    assert estimated == pytest.approx(live.peak, rel=0.15)


def test_the_measurement_leaves_the_policy_as_it_was() -> None:
    policy = llama()
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    measure_layer(policy, forward(policy, 32))
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in policy.named_parameters())
    assert forward(policy, 32)().isfinite().all()


def test_live_bytes_count_what_is_made_until_it_is_gone() -> None:
    given = torch.zeros(10)
    with LiveBytes() as live:
        made = given + 1
        view = made[:5]
        given.add_(1)
        assert live.now == 40
        del made
        assert live.now == 40  # the view holds it
        del view
        assert (live.now, live.peak) == (0, 40)


def test_two_rows_tell_what_more_rows_take() -> None:
    policy = llama()
    one, two, five = (
        measure_layer(policy, lambda rows=rows: policy(input_ids=torch.zeros(rows, 64, dtype=torch.long)))  # type: ignore[misc]
        for rows in (1, 2, 5)
    )
    scaled = one.scaled(two, 5)
    assert (scaled.kept, scaled.entry) == (five.kept, five.entry)
    assert scaled.peak == pytest.approx(five.peak, rel=0.02)


def test_the_formula_of_activations_is_that_of_its_docstring() -> None:
    layers = Layers(count=10, entry=2, kept=30, peak=50, shared=7)
    assert layers.activations(checkpointing=False) == 7 + 10 * 30 + 2 * 2 + (50 - 30)
    assert layers.activations(checkpointing=True) == 7 + 10 * 2 + 2 * 2 + 50
    assert layers.activations(checkpointing=False, head=15) == 7 + 10 * 30 + 2 * 2 + (50 - 30 - 15)
    assert layers.activations(checkpointing=True, head=60) == 7 + 10 * 2 + 2 * 2


def test_a_model_without_layers_of_the_kind_has_none() -> None:
    assert decoder_layers(nn.Linear(2, 2)) == []
    assert len(decoder_layers(llama(layers=3))) == 3


def test_weights_adapter_gradients_and_state_are_counted_to_the_byte() -> None:
    policy = llama(dtype=torch.bfloat16)
    parts = standing(policy).parts("adamw_torch", reference=False, adapter=True)
    frozen = sum(2 * p.numel() for p in policy.parameters() if not p.requires_grad)
    buffers = sum(b.nbytes for b in policy.buffers())
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert parts == {
        "weights": frozen + buffers,
        "reference": 0,
        "adapter": 4 * trained,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
    }


def test_a_full_training_holds_the_weights_twice_and_tied_ones_once() -> None:
    policy = llama(adapter=False)
    held = sum(p.nbytes for p in policy.parameters()) + sum(b.nbytes for b in policy.buffers())
    parts = standing(policy).parts("sgd", reference=True, adapter=False)
    assert (parts["weights"], parts["reference"], parts["optimizer"]) == (held, held, 0)
    policy.lm_head.weight = policy.model.embed_tokens.weight
    assert standing(policy).parts("sgd", reference=True, adapter=False)["weights"] == held - 500 * 64 * 4


def test_a_four_bit_weight_takes_half_a_byte_and_its_scales(tmp_path: Path) -> None:
    model = stock.save_model(tmp_path, stock.CHATML)
    settings = stock.model_settings(model, quantization="nf4", dtype="bfloat16")
    policy = load_policy(settings, stock.lora(), locate(settings), seed=0)
    linear = [p for p in policy.parameters() if type(p).__name__ == "Params4bit"]
    stood_for = sum(p.quant_state.shape.numel() for p in linear)
    others = sum(p.nbytes for p in policy.parameters() if not p.requires_grad) - sum(p.nbytes for p in linear)
    buffers = sum(b.nbytes for b in policy.buffers())
    states = 2 * 16 * 4 + 2 * 256 * 4  # code books of the two levels, the same small size whatever the weight
    counted = standing(policy).frozen - others - buffers
    assert stood_for * 0.516 <= counted <= stood_for * 0.52 + states * len(linear)


@pytest.mark.parametrize(
    ("optim", "expected"),
    [
        ("adamw_torch", 8),
        ("adamw_torch_fused", 8),
        ("paged_adamw_32bit", 8),
        ("paged_adamw_8bit", 2),
        ("adamw_torch_4bit", 1),
        ("lion_32bit", 4),
        ("paged_lion_8bit", 1),
        ("rmsprop", 4),
        ("sgd", 0),
        ("adafactor", 0),
    ],
)
def test_an_optimizer_keeps_as_many_numbers_as_its_kind_has(optim: str, expected: float) -> None:
    assert optimizer_bytes(optim, 4) == expected


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "rmsprop"])
def test_the_state_of_an_optimizer_is_what_torch_keeps(optim: str) -> None:
    weight = nn.Parameter(torch.ones(1000))
    kinds = {"adamw_torch": torch.optim.AdamW, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}
    optimizer = kinds[optim]([weight], lr=0.1)  # type: ignore[operator]
    weight.sum().backward()
    optimizer.step()
    held = sum(value.nbytes for value in optimizer.state[weight].values() if value.numel() > 1)
    assert held == optimizer_bytes(optim, 4) * 1000


def test_the_larger_of_pass_and_check_is_in_the_total() -> None:
    passing = Estimate({"weights": 100, "reference": 0}, {"activations": 30, "logits": 20}, check=40)
    checked = Estimate({"weights": 100}, {"activations": 30}, check=40)
    assert passing.total == sum(passing.parts().values()) == 150
    assert passing.parts() == {"weights": 100, "activations": 30, "logits": 20}
    assert checked.total == 140
    assert checked.parts() == {"weights": 100, "first check": 40}


def test_a_process_can_have_what_is_free_and_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    has = memory.resident()
    assert has > 50 * 2**20
    assert memory.capacity(torch.device("cpu")) > has
    (tmp_path / "max").write_text("1000000\n")
    (tmp_path / "current").write_text("400000\n")
    monkeypatch.setattr(memory, "_GROUP_LIMITS", [(tmp_path / "max", tmp_path / "current")])
    assert memory.capacity(torch.device("cpu")) == pytest.approx(600_000 + has, abs=20 * 2**20)
    (tmp_path / "max").write_text("max\n")
    assert memory.capacity(torch.device("cpu")) > has + 2**20
