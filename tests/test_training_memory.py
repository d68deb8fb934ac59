"""The memory of a run: its longest micro-batch, what `auto` decides, and the trial before the first step."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from preftune.engine.layout import lay_out
from preftune.models.layers import LiveBytes
from preftune.models.settings import FullSettings
from preftune.refusals import RunFailed
from preftune.reporting import plan
from preftune.training import memory, memory_trial
from preftune.training.longest import Longest, longest
from preftune.training.loss_settings import LossSettings
from preftune.training.memory import plan_memory
from preftune.training.methods import build_trainer
from preftune.training.preparation import Prepared, prepare
from preftune.training.settings import TrainSettings
from tests import stock

TRAIN: dict[str, Any] = {
    "name": "test",
    "global_batch_size": 8,
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "gradient_checkpointing": "auto",
    "bf16": False,
    "max_length": 256,
}
KTO = {"name": "kto", "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
Make = Callable[..., tuple[Prepared, TrainSettings]]


def loss_settings(fields: dict[str, Any] | None = None) -> LossSettings:
    return TypeAdapter(LossSettings).validate_python(fields or {"name": "sigmoid", "beta": 0.1, "label_smoothing": 0})


@pytest.fixture(scope="module")
def six_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock.save_model(tmp_path_factory.mktemp("six"), stock.CHATML, layers=6)


@pytest.fixture
def make(six_layers: Path, pair_file: Path) -> Make:
    def build(*, loss: LossSettings | None = None, adapter: Any = None, model: Any = None, **train: Any) -> Any:
        settings = TrainSettings.model_validate(TRAIN | train)
        data = stock.data_settings(pair_file, test_size=6)
        chosen = stock.model_settings(six_layers, **(model or {}))
        return prepare(chosen, data, adapter or stock.lora(), settings, loss or loss_settings(), 0), settings

    return build


def sizes(prepared: Prepared) -> Any:
    return sum(prepared.rows.lengths(name) for name in ("prompt", "chosen", "rejected"))


def test_the_longest_micro_batch_holds_the_longest_pairs(make: Make) -> None:
    prepared, train = make()
    padded, shared = (longest(prepared, train, shared=each) for each in (False, True))
    rows = prepared.rows
    assert sorted(sizes(prepared)[shared.places]) == sorted(sizes(prepared))[-4:]
    assert shared.tokens(shared=True) == sum(sorted(sizes(prepared))[-4:])
    width = (rows.lengths("prompt") + np.maximum(rows.lengths("chosen"), rows.lengths("rejected"))).max()
    assert (padded.width, padded.sequences) == (width, 8)
    assert padded.tokens(shared=False) == 8 * width


def test_a_budget_is_filled_with_the_longest_pairs_of_a_step(make: Make) -> None:
    prepared, train = make(tokens_per_batch=150)
    batch = longest(prepared, train, shared=True)
    assert sizes(prepared).max() in sizes(prepared)[batch.places]
    assert 150 - sizes(prepared).min() < batch.tokens(shared=True) <= 150
    prepared, train = make(tokens_per_batch=1)
    assert len(longest(prepared, train, shared=True).places) == 1
    prepared, train = make(tokens_per_batch=10**6)
    assert len(longest(prepared, train, shared=True).places) == 8  # a step brings no more


def test_answers_that_come_alone_are_a_sequence_each(make: Make) -> None:
    prepared, train = make(loss=loss_settings(KTO))
    batch = longest(prepared, train, shared=False)
    assert (batch.answers.shape, batch.sequences) == ((4, 1), 4)


def test_a_made_batch_has_the_mean_lengths_and_shares_the_prompt_alone() -> None:
    batch = Longest(np.arange(2), np.array([10, 20]), np.array([[30, 5], [40, 15]]))
    made = batch.alike(2, 1.0)
    layout = lay_out(made["input_ids"], made["attention_mask"], made["completion_mask"])
    assert made["attention_mask"].sum(dim=1).tolist() == [50, 50, 25, 25]
    assert made["input_ids"].shape == (4, batch.width)
    assert [(each.trunk, each.chosen, each.rejected) for each in layout.branches] == [(15, 35, 10)] * 2
    assert batch.alike(1, 0.5)["attention_mask"].sum(dim=1).tolist() == [26, 13]


@pytest.mark.parametrize("engine", ["shared", "trl"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_of_a_training_step_is_close_to_what_it_holds(
    make: Make, tmp_path: Path, engine: str, checkpointing: bool
) -> None:
    prepared, train = make(gradient_checkpointing=checkpointing, per_device_train_batch_size=8)
    needs = plan_memory(prepared, train, engine, "off")
    estimate = needs.estimate
    trainer = build_trainer(prepared, needs.settle(train), loss_settings(), "base", engine, "off", 0, tmp_path)
    if checkpointing:
        trainer.model.gradient_checkpointing_enable()
    batch = memory_trial._rows(trainer, prepared, needs.longest)
    with LiveBytes() as live:
        memory_trial._pass(trainer, batch, torch.empty(0))
    expected = sum(estimate.step.values()) + estimate.standing["gradients"]
    untouched = 0
    if engine == "trl":  # TRL's tile is as wide as 32768 entries, of which the vocabulary's alone come to be memory
        vocabulary = trainer.model.config.vocab_size
        untouched = 4 * needs.longest.tokens(shared=False) * (32768 - vocabulary)
    assert live.peak - untouched == pytest.approx(expected, rel=0.15 if engine == "shared" else 0.22)


@pytest.mark.parametrize(("has", "decided", "words"), [
    (10.0, False, "all activations fit: "),
    (0.95, True, "keeping all activations would take "),
    (0.1, True, "even so the run may not fit: "),
])  # fmt: skip
def test_auto_computes_activations_again_where_they_do_not_fit(
    make: Make, monkeypatch: pytest.MonkeyPatch, has: float, decided: bool, words: str
) -> None:
    prepared, train = make()
    prepared = replace(prepared, resident_before=0)
    kept, again = (plan_memory(prepared, make(gradient_checkpointing=each)[1]).estimate.total for each in (False, True))
    assert again < 0.9 * kept
    monkeypatch.setattr(memory, "capacity", lambda device: int(has * kept))
    needs = plan_memory(prepared, train)
    assert needs.checkpointing is decided
    assert str(needs.reason).startswith(words)
    assert needs.settle(train).dpo["gradient_checkpointing"] is decided
    assert needs.estimate.total == (again if decided else kept)


@pytest.mark.parametrize("asked", [True, False])
def test_what_a_person_decided_stays(make: Make, asked: bool) -> None:
    prepared, train = make(gradient_checkpointing=asked)
    needs = plan_memory(prepared, train)
    assert (needs.checkpointing, needs.reason) == (asked, None)
    assert needs.settle(train) == train


def test_the_arguments_of_checkpointing_go_where_auto_goes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, train = make(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert "gradient_checkpointing_kwargs" not in plan_memory(prepared, train).settle(train).dpo
    monkeypatch.setattr(memory, "capacity", lambda device: 1)
    assert plan_memory(prepared, train).settle(train).dpo["gradient_checkpointing_kwargs"] == {"use_reentrant": False}


def test_auto_that_nothing_settled_is_off_for_trl() -> None:
    train = TrainSettings.model_validate(TRAIN)
    assert train.for_trl == {**train.dpo, "gradient_checkpointing": False}


@pytest.mark.parametrize("engine", ["shared", "trl"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_run_that_auto_checkpoints_ends_where_one_that_keeps_ends(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, reentrant: bool
) -> None:
    ends = []
    for has in (10**15, 1):
        monkeypatch.setattr(memory, "capacity", lambda device, has=has: has)
        prepared, train = make(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        settled = plan_memory(prepared, train, engine).settle(train)
        trainer = build_trainer(prepared, settled, loss_settings(), "base", engine, "first_batch", 0, tmp_path)
        trainer.train()
        assert trainer.model.is_gradient_checkpointing is (has == 1)
        ends.append([p.detach() for p in trainer.model.parameters() if p.requires_grad])
    for kept, again in zip(*ends, strict=True):
        torch.testing.assert_close(kept, again, rtol=1e-4, atol=1e-6)


def test_the_measurement_leaves_attention_mode_and_random_numbers_alone(make: Make) -> None:
    prepared, train = make()
    prepared.policy.eval()
    before, state = copy.deepcopy(prepared.policy.config._attn_implementation), torch.get_rng_state()
    plan_memory(prepared, train, "shared")
    assert prepared.policy.config._attn_implementation == before
    assert not prepared.policy.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("loss", [None, KTO])
def test_the_trial_leaves_no_trace(make: Make, tmp_path: Path, loss: dict[str, Any] | None) -> None:
    prepared, train = make(loss=loss_settings(loss), gradient_checkpointing=False)
    trainer = build_trainer(prepared, train, loss_settings(loss), "base", "trl", "off", 0, tmp_path)
    weights, state = [p.detach().clone() for p in trainer.model.parameters()], torch.get_rng_state()
    calls: list[int] = []
    trainer.model.register_forward_hook(lambda *_: calls.append(1))
    memory_trial.try_longest(trainer, prepared, train)
    assert calls
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(trainer.model.parameters(), weights, strict=True))
    assert (trainer.pairs_seen, trainer.tokens_seen, trainer.first_losses) == (0, 0, [])
    assert not any(trainer._metrics["train"].values())


@pytest.mark.parametrize(
    ("train", "engine", "remedies"),
    [
        (
            {"gradient_checkpointing": False},
            "trl",
            "lower train.per_device_train_batch_size=4; set train.gradient_checkpointing=true; "
            "set model.quantization=nf4 with adapter=lora; set train.max_length below ",
        ),
        (
            {"gradient_checkpointing": True, "tokens_per_batch": 200},
            "shared",
            "lower train.tokens_per_batch=200; set model.quantization=nf4 with adapter=lora; set train.max_length",
        ),
    ],
)
def test_a_batch_that_does_not_fit_fails_before_the_first_step_with_what_to_change(
    make: Make, tmp_path: Path, train: dict[str, Any], engine: str, remedies: str
) -> None:
    prepared, settings = make(**train)
    trainer = build_trainer(prepared, settings, loss_settings(), "base", engine, "off", 0, tmp_path)

    def runs_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.model.base_model.model.model.norm.register_forward_hook(runs_out)
    trainer.add_callback(memory_trial.LongestFirst(trainer, prepared, settings))
    with pytest.raises(
        RunFailed, match=r"the longest micro-batch must fit into the [\d.]+ GiB of cpu, got \d+ pairs"
    ) as failed:
        trainer.train()
    assert f"In order of effect: {remedies}" in str(failed.value)
    assert trainer.state.global_step == 0


def test_without_a_gpu_nothing_is_tried(make: Make, tmp_path: Path) -> None:
    prepared, train = make(gradient_checkpointing=False)
    trainer = build_trainer(prepared, train, loss_settings(), "base", "trl", "off", 0, tmp_path)
    tried = [each for each in trainer.callback_handler.callbacks if isinstance(each, memory_trial.LongestFirst)]
    assert len(tried) == int(torch.cuda.is_available())


def test_a_full_training_counts_its_reference(make: Make) -> None:
    prepared, train = make(adapter=FullSettings(name="full"))
    parts = plan_memory(prepared, train).estimate.parts()
    assert parts["reference"] == parts["weights"]
    assert "adapter" not in parts


def test_the_plan_says_what_a_run_takes_beside_what_there_is(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, train = make()
    monkeypatch.setattr(memory, "capacity", lambda device: 3 * 2**30)
    needs = plan_memory(replace(prepared, resident_before=2**29), train, "auto", "off")
    lines = dict(plan.memory_lines(needs))
    assert lines["memory"].endswith("MiB of the 3.0 GiB that this process can have")
    assert lines["of which"].startswith("process 512 MiB, ")
    assert {part.rsplit(" ", 2)[0] for part in lines["of which"].split(", ")} == set(needs.estimate.parts())
    assert lines["longest batch"].endswith(" tokens, prompts once")
    assert lines["checkpointing"] == "off: all activations fit: 0.5 of 3.0 GiB"
    decided = plan_memory(*make(gradient_checkpointing=True), "trl")
    assert "checkpointing" not in dict(plan.memory_lines(decided))
    assert dict(plan.memory_lines(decided))["longest batch"].endswith(" tokens, padded")
