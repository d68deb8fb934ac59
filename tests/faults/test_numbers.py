"""NaN and infinity in weights, adapters, gradients, batches, evaluations and samples: named, and not trained on."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from preftune.evaluating.sampling import sample_reference
from preftune.evaluating.settings import EvaluateSettings
from preftune.models.finite import refuse_bad_weights
from preftune.models.policy import load_policy, save_policy
from preftune.models.settings import FullSettings
from preftune.models.source import ModelSource
from preftune.refusals import Refusal, RunFailed
from preftune.training.checkpoints import Checkpoints
from preftune.training.guard import last_good
from preftune.training.trainer import PairTrainer
from tests import stock
from tests.test_trainer import Make, make  # noqa: F401

WEIGHT = "model.layers.1.mlp.up_proj.weight"


def moving(trainer: PairTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]


def same(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def sharded(directory: Path, *, value: float, entries: int = 3, dtype: torch.dtype = torch.bfloat16) -> ModelSource:
    """Write a model in two files and more, with `value` planted in one."""
    stock.save_model(directory, stock.CHATML, dtype=dtype)
    (whole,) = directory.glob("*.safetensors")
    tensors = load_file(whole)
    tensors[WEIGHT].view(-1)[:entries] = value
    whole.unlink()
    names = sorted(tensors)
    halves = {"one.safetensors": names[:9], "two.safetensors": names[9:]}
    for file, held in halves.items():
        save_file({name: tensors[name] for name in held}, directory / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in halves.items() for name in held}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return ModelSource(str(directory), None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_a_weight_of_the_base_is_refused_by_tensor_count_and_file(
    tmp_path: Path, value: float, quantization: str | None
) -> None:
    source = sharded(tmp_path / "model", value=value)
    settings = stock.model_settings(tmp_path / "model", quantization=quantization, dtype="bfloat16")
    with pytest.raises(Refusal) as refused:
        load_policy(settings, stock.lora(), source, seed=0)
    assert str(refused.value) == (
        f"model must name weights that are finite, got NaN or infinity in 1 tensor of {tmp_path / 'model'}: "
        f"{WEIGHT} in two.safetensors (3 of 8,192 entries); take another copy of it: training would spread them"
    )


@pytest.mark.parametrize(
    ("quantization", "scale"), [("nf4", "absmax"), ("nf4", "offset"), ("nf4", "nested_absmax"), ("int8", "SCB")]
)
def test_a_scale_of_a_quantised_weight_is_refused(chatml_model: Path, quantization: str, scale: str) -> None:
    settings = stock.model_settings(chatml_model, quantization=quantization, dtype="bfloat16")
    model = load_policy(settings, stock.lora(), ModelSource(str(chatml_model), None), seed=0).get_base_model()
    weight = model.get_submodule(WEIGHT.removesuffix(".weight")).weight
    state = getattr(weight, "quant_state", None)
    if scale == "absmax":  # as without double quantisation, where it is no code itself
        state.absmax = state.absmax.float()
    held = {
        "absmax": lambda: state.absmax,
        "offset": lambda: state.offset,
        "nested_absmax": lambda: state.state2.absmax,
        "SCB": lambda: weight.SCB,
    }
    held[scale]().view(-1)[0] = math.nan
    with pytest.raises(Refusal, match=rf"in 1 tensor of here: \S*up_proj\S*\.{scale} \(1 of [\d,]+ entries\); take"):
        refuse_bad_weights(model, "model", "here", [])


def test_a_weight_that_outgrows_its_type_is_told_from_one_that_is_broken(tmp_path: Path) -> None:
    source = sharded(tmp_path / "model", value=1e6)
    load_policy(stock.model_settings(tmp_path / "model"), stock.lora(), source, seed=0)
    with pytest.raises(
        Refusal,
        match=rf"in 1 tensor of .*: {WEIGHT} \(3 of 8,192 entries\); in its files they are finite, but too large for "
        "the type here: set model.dtype to float32 or bfloat16",
    ):
        load_policy(stock.model_settings(tmp_path / "model", dtype="float16"), stock.lora(), source, seed=0)


@pytest.fixture
def adapter(make: Make, tmp_path: Path) -> Path:  # noqa: F811
    trainer = make(max_steps=1, verify="off")
    trainer.train()
    return save_policy(trainer.model, trainer.processing_class, tmp_path / "earlier")


def test_a_weight_of_an_adapter_is_refused_by_tensor_count_and_file(make: Make, adapter: Path) -> None:  # noqa: F811
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[3]
    tensors[name][0, 0] = math.nan
    save_file(tensors, file)
    with pytest.raises(Refusal) as refused:
        make(adapter=stock.lora(path=str(adapter)))
    assert str(refused.value).startswith(
        f"adapter.path must name weights that are finite, got NaN or infinity in 1 tensor of {adapter}: "
        f"{name} in adapter_model.safetensors (1 of "
    )


def test_a_gradient_names_its_rows_its_step_and_the_last_good_checkpoint(
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    for name in ("step-2", "step-10", "step-30.torn", ".step-40"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    trainer = make()
    before = moving(trainer)
    next(p for p in trainer.model.parameters() if p.requires_grad).register_hook(lambda g: g * float("nan"))
    with pytest.raises(
        RunFailed,
        match=r"^the gradient of step 1 must be finite, got NaN or infinity; nothing was updated\. Its rows: "
        r"(pairs.jsonl:\d+(, |\. )){8}Lower train.learning_rate, or look at those rows\. The last good state is kept "
        r"in \S+/checkpoints/step-10$",
    ):
        trainer.train()
    assert same(before, moving(trainer))
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("where", ["gradient", "weight"])
def test_the_last_checkpoint_is_of_the_last_good_step(make: Make, tmp_path: Path, where: str) -> None:  # noqa: F811
    trainer = make(max_steps=6, save_steps=1)
    saved = Checkpoints(tmp_path / "checkpoints", ["mine"])
    trainer.keep_checkpoints(saved, {})
    parameter = next(p for p in trainer.model.parameters() if p.requires_grad)

    def plant(gradient: torch.Tensor) -> torch.Tensor:
        if trainer.state.global_step < 3:
            return gradient
        if where == "weight":
            trainer.optimizer.param_groups[0]["lr"] = math.inf
            return gradient
        return gradient * math.nan

    parameter.register_hook(plant)
    with pytest.raises(RunFailed, match=rf"{where}.*step 4 must be finite.*is kept in \S+/checkpoints/step-3$"):
        trainer.fit()
    found = saved.newest()
    assert found is not None
    assert found.step == 3


def test_a_run_without_a_checkpoint_names_none(tmp_path: Path) -> None:
    assert last_good(str(tmp_path)) == ""


@pytest.mark.parametrize("adapter_settings", [stock.lora(), FullSettings(name="full")])
def test_a_weight_that_a_step_made_infinite_ends_the_run_after_that_step(
    make: Make,  # noqa: F811
    adapter_settings: Any,
) -> None:
    trainer = make(adapter=adapter_settings, learning_rate=1e39, max_grad_norm=0.0)
    with pytest.raises(
        RunFailed,
        match=r"^the weights after step 1 must be finite, got NaN or infinity in .* entries\).*; they are not saved\. "
        r"Its rows: pairs.jsonl:\d+.*\. Lower train.learning_rate$",
    ):
        trainer.train()
    assert trainer.state.global_step == 1


def test_an_answer_without_probability_is_named_though_it_costs_nothing(make: Make) -> None:  # noqa: F811
    trainer = make(engine="trl", verify="off")
    before = moving(trainer)
    trainer.objective.costs = lambda logps: {"loss": logps.policy_chosen * 0 + 1}  # type: ignore[method-assign]
    score = trainer._score

    def without(*arguments: Any) -> Any:
        logps, passes = score(*arguments)
        logps.policy_rejected.data[1] = -math.inf
        return logps, passes

    trainer._score = without  # type: ignore[method-assign]
    with pytest.raises(RunFailed, match=r"^the log-ratio of step 1 must be finite.*Its rows: pairs.jsonl:\d+\. Lower"):
        trainer.train()
    assert same(before, moving(trainer))


def test_rows_that_are_not_finite_in_evaluation_are_named_and_nothing_is_trained(make: Make) -> None:  # noqa: F811
    trainer = make(engine="trl")
    before = moving(trainer)
    costs = trainer.objective.costs
    spoilt = torch.tensor([1.0, math.inf, math.nan, 1.0])
    trainer.objective.costs = (
        lambda logps: {  # type: ignore[method-assign]
            "loss": costs(logps)["loss"] * spoilt[: len(logps.margin())]
        }
    )
    with pytest.raises(
        RunFailed,
        match=r"^the loss of the evaluation after step 0 must be finite, got NaN or infinity\. Its rows: "
        r"pairs.jsonl:\d+, pairs.jsonl:\d+\. Look at those rows, or lower train.learning_rate$",
    ):
        trainer.evaluate()
    assert same(before, moving(trainer))


def test_training_that_takes_no_step_is_no_success(make: Make) -> None:  # noqa: F811
    trainer = make(train_sampling_strategy="sequential")
    trainer.train_dataset = trainer.train_dataset.select([])
    with pytest.raises(RunFailed, match="training must take at least one optimizer step, got none: the data gave no"):
        trainer.train()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_of_sampling_that_are_not_finite_name_their_prompt(make: Make, value: float) -> None:  # noqa: F811
    trainer = make(engine="trl", verify="off")
    prepared = trainer.prepared
    prompts = prepared.held_out_prompts()[:2]
    settings = EvaluateSettings(points=1, prompts=2, max_new_tokens=4, batch_size=2)

    def plant(_: Any, __: Any, logits: torch.Tensor) -> None:
        logits[1, -1, 7] = value

    trainer.model.get_base_model().lm_head.register_forward_hook(plant)
    with pytest.raises(RunFailed) as failed:
        sample_reference(trainer.acting_as_reference, prepared.chat, prompts, settings, seed=0)
    assert str(failed.value).startswith("the logits of sampled answers must be finite, got NaN or infinity after the ")
    assert prompts[1][-1]["content"] in str(failed.value)
    assert str(failed.value).endswith("lower train.learning_rate, or sample nothing with evaluate.prompts=0")


def test_a_token_without_probability_is_sampled_around(make: Make) -> None:  # noqa: F811
    trainer = make(engine="trl", verify="off")
    prepared = trainer.prepared
    settings = EvaluateSettings(points=1, prompts=2, max_new_tokens=4, batch_size=2)

    def plant(_: Any, __: Any, logits: torch.Tensor) -> None:
        logits[:, -1, 7] = -math.inf

    trainer.model.get_base_model().lm_head.register_forward_hook(plant)
    prompts = prepared.held_out_prompts()[:2]
    assert len(sample_reference(trainer.acting_as_reference, prepared.chat, prompts, settings, seed=0).texts) == 2


@pytest.fixture
def in_float16(make: Make) -> Iterator[PairTrainer]:  # noqa: F811
    """A trainer whose loss is scaled by 4 as in float16 on a GPU, on the CPU, where TRL takes no fp16 itself."""
    trainer = make(max_steps=4, engine="trl")
    trainer.args.fp16 = True
    trainer.accelerator.state._mixed_precision = "fp16"
    trainer.accelerator.native_amp = True
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    yield trainer
    trainer.accelerator.state._mixed_precision = "no"


def spoil(trainer: PairTrainer, *, above: float) -> None:
    """Let gradients be infinite while the loss is scaled by more than `above`."""
    first = next(p for p in trainer.model.parameters() if p.requires_grad)
    first.register_hook(lambda g: g * (math.inf if trainer.loss_scale() > above else 1.0))


def test_a_scaled_gradient_may_overflow_and_its_step_is_counted(in_float16: PairTrainer) -> None:
    before = moving(in_float16)
    spoil(in_float16, above=1.0)
    in_float16.train()
    assert in_float16.verified is not None
    assert in_float16.verified.describe().split("; ")[-2] == "gradient not compared, as it is not finite"
    assert in_float16.totals().overflowed == 2  # at scales of 4 and 2
    assert in_float16.totals().steps == 4
    assert not same(before, moving(in_float16))
    assert all(bool(p.isfinite().all()) for p in moving(in_float16))


def test_a_gradient_that_is_infinite_without_its_scale_is_refused(in_float16: PairTrainer) -> None:
    before = moving(in_float16)
    spoil(in_float16, above=0.0)
    with pytest.raises(RunFailed, match=r"^the gradient of step 3 must be finite"):
        in_float16.train()
    assert same(before, moving(in_float16))


def test_a_run_whose_steps_all_overflowed_is_no_success(in_float16: PairTrainer) -> None:
    in_float16.args.max_steps = 2
    spoil(in_float16, above=0.0)
    with pytest.raises(RunFailed, match=r"got none: the gradients of all 2 overflowed float16; set train.bf16=true"):
        in_float16.train()
