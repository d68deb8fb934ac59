"""The training loop on a two-layer model: its loss, its checks, its stops. Nothing of TRL is replaced."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from preftune.models.policy import save_policy
from preftune.models.settings import FullSettings, LowRankSettings
from preftune.refusals import Refusal, RunFailed
from preftune.training.loss_settings import LossSettings
from preftune.training.preparation import prepare
from preftune.training.settings import TrainSettings
from preftune.training.trainer import PairTrainer, build_trainer
from tests import stock

TRAIN: dict[str, Any] = {
    "name": "test",
    "global_batch_size": 8,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "bf16": False,
    "max_length": 256,
}
Make = Callable[..., PairTrainer]


@pytest.fixture
def make(chatml_model: Path, pair_file: Path, tmp_path: Path) -> Make:
    def build(
        *,
        adapter: LowRankSettings | FullSettings | None = None,
        loss: str = "sigmoid",
        parameters: dict[str, Any] | None = None,
        reference: str = "base",
        engine: str = "auto",
        verify: str = "first_batch",
        model: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        **train: Any,
    ) -> PairTrainer:
        settings = stock.model_settings(chatml_model, **(model or {}))
        recipe = TrainSettings.model_validate(TRAIN | train)
        fields = ({"name": loss} if loss == "sum" else {"name": loss, "beta": 0.1}) | (parameters or {})
        if loss == "sigmoid":
            fields = {"label_smoothing": 0.0} | fields
        chosen = TypeAdapter(LossSettings).validate_python(fields)
        rows = stock.data_settings(pair_file, **({"test_size": 6} | (data or {})))
        prepared = prepare(settings, rows, adapter or stock.lora(), recipe, chosen, 0)
        logged: list[tuple[int, dict[str, float]]] = []
        trainer = build_trainer(prepared, recipe, chosen, reference, engine, verify, 0, tmp_path)
        trainer.report_to(lambda step, steps: None, lambda metrics, step: logged.append((step, dict(metrics))))
        LOGS[id(trainer)] = logged
        return trainer

    return build


LOGS: dict[int, list[Any]] = {}


def logged(trainer: PairTrainer) -> list[Any]:
    return LOGS[id(trainer)]


def first_loss(trainer: PairTrainer) -> float:
    return float(torch.cat(trainer.first_losses).mean())


@pytest.mark.parametrize("adapter", [stock.lora(), stock.lora(name="dora"), FullSettings(name="full")])
@pytest.mark.parametrize("model", [{}, {"dtype": "bfloat16"}])
def test_the_first_loss_is_log_two_and_training_lowers_it(
    make: Make, adapter: LowRankSettings | FullSettings, model: dict[str, Any]
) -> None:
    trainer = make(adapter=adapter, model=model, max_steps=6)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    rounding = 1e-3 if model else 1e-6  # DoRA divides by a norm that bfloat16 rounds
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=rounding)
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=rounding)
    assert before["eval_logratio/margin"] == pytest.approx(0.0, abs=100 * rounding)
    assert after["eval_loss"] < before["eval_loss"] - 1e-3
    assert after["eval_logratio/margin"] > 0


def test_nf4_trains_like_the_weights_it_stands_for(make: Make) -> None:
    trainer = make(model={"quantization": "nf4", "dtype": "bfloat16"}, max_steps=6)
    before = trainer.evaluate()
    start = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    moved = {n: bool((p != start[n]).all()) for n, p in trainer.model.named_parameters() if n in start}
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=1e-6)
    assert trainer.evaluate()["eval_loss"] < before["eval_loss"] - 1e-3
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    assert all(moved.values())


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_and_its_gradient_equal_those_of_stock_trl(make: Make, loss: str, accumulation: int) -> None:
    ours = make(loss=loss, engine="trl", per_device_train_batch_size=8 // accumulation)
    other = make(loss=loss, engine="trl", verify="off", per_device_train_batch_size=8 // accumulation)
    stock_loss = _with_stock_loss(other, loss)
    for trainer in (ours, stock_loss):
        trainer.train()
    weights = [[p.detach() for p in trainer.model.parameters() if p.requires_grad] for trainer in (ours, stock_loss)]
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    losses = [[metrics["loss"] for _, metrics in logged(t) if "loss" in metrics] for t in (ours, stock_loss)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def _with_stock_loss(trainer: PairTrainer, loss: str) -> PairTrainer:
    from trl import DPOTrainer

    trainer.loss_types = [loss]
    trainer.precompute_ref_logps = False
    trainer.compute_loss = lambda model, inputs, **_: DPOTrainer.compute_loss(  # type: ignore[method-assign]
        trainer, model, {name: value for name, value in inputs.items() if name != "row"}
    )
    return trainer


def test_label_smoothing_changes_the_update(make: Make) -> None:
    plain, smooth = make(), make(parameters={"label_smoothing": 0.2})
    for trainer in (plain, smooth):
        trainer.train()
    last = [[m["loss"] for _, m in logged(t) if "loss" in m][-1] for t in (plain, smooth)]
    assert last[0] != last[1]


def test_two_runs_of_one_seed_end_in_the_same_bits(make: Make) -> None:
    ends = []
    for _ in range(2):
        trainer = make()
        trainer.evaluate()
        trainer.train()
        ends.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad]))
    assert torch.equal(*ends)


def test_evaluation_means_are_over_pairs_and_not_over_batches(make: Make) -> None:
    one, four = make(per_device_eval_batch_size=1), make(per_device_eval_batch_size=4)
    for trainer in (one, four):
        trainer.train()
    first, second = one.evaluate(), four.evaluate()
    for name in ("loss", "rewards/margins", "accuracy", "logps/chosen_per_token"):
        assert first[f"eval_{name}"] == pytest.approx(second[f"eval_{name}"], abs=1e-6)


def test_a_wrong_reference_stops_the_first_step(make: Make) -> None:
    trainer = make(adapter=FullSettings(name="full"))
    with torch.no_grad():
        next(trainer.ref_model.parameters()).add_(0.5)
    with pytest.raises(RunFailed, match="before the first step the policy must equal its reference"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update_and_names_its_rows(make: Make) -> None:
    trainer = make()
    start = copy.deepcopy([p.detach() for p in trainer.model.parameters() if p.requires_grad])
    costs = trainer.objective.costs
    spoilt = torch.tensor([1.0, float("nan"), 1.0, 1.0])
    trainer.objective.costs = lambda logps: {"loss": costs(logps)["loss"] * spoilt}  # type: ignore[method-assign]
    with pytest.raises(
        RunFailed,
        match=r"the loss of step 1 must be finite, got NaN or infinity; nothing was updated\. "
        r"Its rows: pairs.jsonl:\d+\. Lower",
    ):
        trainer.train()
    now = [p for p in trainer.model.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(start, now, strict=True))


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_update(make: Make) -> None:
    trainer = make()
    start = copy.deepcopy([p.detach() for p in trainer.model.parameters() if p.requires_grad])
    next(p for p in trainer.model.parameters() if p.requires_grad).register_hook(lambda g: g * float("inf"))
    with pytest.raises(
        RunFailed, match=r"the gradient of step 1 must be finite.*Its rows: (pairs.jsonl:\d+(, |\. )){8}"
    ):
        trainer.train()
    now = [p for p in trainer.model.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(start, now, strict=True))


def test_a_weight_that_is_not_finite_is_caught_in_evaluation(make: Make) -> None:
    trainer = make()
    with torch.no_grad():
        trainer.model.base_model.model.lm_head.weight[5, 5] = float("nan")
    with pytest.raises(RunFailed, match=r"the loss of the evaluation after step 0 must be finite.* Its rows: pairs"):
        trainer.evaluate()


def test_a_loss_over_the_batch_takes_no_budget_of_tokens(make: Make) -> None:
    with pytest.raises(
        Refusal,
        match="tokens_per_batch must be null for a loss that depends on which pairs share a micro-batch, got 64;",
    ):
        make(loss="aot", parameters={"label_smoothing": 0.0}, tokens_per_batch=64)


def trained_adapter(make: Make, directory: Path) -> str:
    trainer = make(max_steps=4)
    trainer.train()
    return str(save_policy(trainer.model, trainer.processing_class, directory / "earlier"))


def test_an_earlier_adapter_can_be_the_reference(make: Make, tmp_path: Path) -> None:
    trainer = make(adapter=stock.lora(path=trained_adapter(make, tmp_path)), reference="adapter")
    assert trainer.evaluate()["eval_logratio/margin"] == 0.0
    trainer.train()
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=1e-6)
    assert trainer.evaluate()["eval_logratio/margin"] != 0.0


def test_an_earlier_adapter_can_go_on_against_the_base(make: Make, tmp_path: Path) -> None:
    trainer = make(adapter=stock.lora(path=trained_adapter(make, tmp_path)), reference="base")
    assert trainer.starts_at_reference is False
    assert trainer.evaluate()["eval_logratio/margin"] > 0.0
    trainer.train()


def test_the_reference_is_not_moved_by_training(make: Make) -> None:
    trainer = make()
    ids = torch.arange(10)[None]

    def reference() -> torch.Tensor:
        with torch.no_grad(), trainer.acting_as_reference() as model:
            return model(input_ids=ids).logits  # type: ignore[no-any-return]

    before = reference()
    trainer.train()
    assert torch.equal(reference(), before)


def test_autocast_to_bfloat16_works_on_cpu(make: Make) -> None:
    trainer = make(bf16=True)
    trainer.train()
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=1e-3)


def test_what_trl_refuses_on_this_machine_is_a_sentence(make: Make) -> None:
    with pytest.raises(Refusal, match=r"train must hold what trl\.DPOConfig takes on this machine, got: .*[Tt][Ff]32"):
        make(tf32=True)


@pytest.mark.parametrize("logging_steps", [1, 100])
def test_the_last_loss_is_that_of_the_last_step_whether_or_not_it_was_logged(make: Make, logging_steps: int) -> None:
    trainer = make(max_steps=3, logging_steps=logging_steps)
    trainer.train()
    losses = [metrics["loss"] for _, metrics in logged(trainer) if "loss" in metrics]
    assert len(losses) == (3 if logging_steps == 1 else 0)
    assert trainer.totals().loss_last < trainer.totals().loss_first
    if losses:
        assert trainer.totals().loss_last == pytest.approx(losses[-1], abs=1e-6)


@pytest.mark.parametrize(
    "parameters",
    [
        {"use_weighting": True},  # TRL's own has no gradient
        {"losses": {"sigmoid": {"beta": 0.1, "label_smoothing": 0.1}}, "weights": {"sigmoid": 1.0}},  # TRL ignores it
    ],
)
def test_a_loss_that_trl_cannot_check_trains_all_the_same(make: Make, parameters: dict[str, Any]) -> None:
    trainer = make(loss="sum" if "losses" in parameters else "hinge", parameters=parameters)
    trainer.train()
    assert trainer.verified is not None
    assert trainer.verified.trl is None
