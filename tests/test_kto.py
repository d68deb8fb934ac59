"""Single answers in training: TRL's KTO trainer on a two-layer model, and the checks around it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from trl import KTOTrainer

from preftune.models.policy import save_policy
from preftune.models.settings import FullSettings, LowRankSettings
from preftune.refusals import Refusal, RunFailed
from preftune.training.kto import AnswerTrainer
from preftune.training.loss_settings import LossSettings
from preftune.training.methods import build_trainer
from preftune.training.preparation import prepare
from preftune.training.settings import TrainSettings
from preftune.training.trainer import PairTrainer
from tests import stock

TRAIN = {
    "name": "test",
    "global_batch_size": 16,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "max_steps": 2,
    "learning_rate": 1e-2,
    "max_length": 512,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 1,
}
LOSS = {"name": "kto", "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
Make = Callable[..., AnswerTrainer]
LOGS: dict[int, list[dict[str, float]]] = {}


@pytest.fixture
def make(chatml_model: Path, pair_file: Path, tmp_path: Path) -> Make:
    """Build a trainer of single answers on the pairs that the other tests train on."""

    def build(
        *,
        adapter: LowRankSettings | FullSettings | None = None,
        loss: dict[str, Any] = LOSS,
        reference: str = "base",
        verify: str = "first_batch",
        model: dict[str, Any] | None = None,
        **train: Any,
    ) -> Any:
        settings = stock.model_settings(chatml_model, **(model or {}))
        recipe = TrainSettings.model_validate(TRAIN | train)
        data = stock.data_settings(pair_file, test_size=6)
        parsed = TypeAdapter(LossSettings).validate_python(loss)
        prepared = prepare(settings, data, adapter or stock.lora(), recipe, parsed, 0)
        trainer = build_trainer(prepared, recipe, parsed, reference, "auto", verify, 0, tmp_path)
        LOGS[id(trainer)] = []
        trainer.report_to(lambda step, steps: None, lambda metrics, step: LOGS[id(trainer)].append(dict(metrics)))
        return trainer

    return build


def losses(trainer: AnswerTrainer) -> list[float]:
    return [metrics["loss"] for metrics in LOGS[id(trainer)] if "loss" in metrics]


def moving(trainer: AnswerTrainer) -> list[torch.Tensor]:
    return [p.detach() for p in trainer.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("adapter", [stock.lora(), FullSettings(name="full")])
@pytest.mark.parametrize("model", [{}, {"dtype": "bfloat16"}])
def test_the_first_loss_is_one_half_and_training_lowers_it(
    make: Make, adapter: LowRankSettings | FullSettings, model: dict[str, Any]
) -> None:
    trainer = make(adapter=adapter, model=model, max_steps=6)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert trainer.totals().loss_first == pytest.approx(0.5, abs=1e-6)
    assert before["eval_loss"] == pytest.approx(0.5, abs=1e-6)
    assert before["eval_logratio/margin"] == pytest.approx(0.0, abs=1e-4)
    assert after["eval_loss"] < before["eval_loss"] - 1e-3
    assert after["eval_logratio/margin"] > 0
    assert after["eval_accuracy"] > 0.5
    assert after["eval_kl"] >= 0


def test_the_first_loss_is_half_of_the_mean_weight(make: Make) -> None:
    trainer = make(loss=LOSS | {"desirable_weight": 3.0, "undesirable_weight": 0.5}, global_batch_size=8, max_steps=1)
    trainer.train()
    labels = trainer.train_dataset[:8]["label"]
    assert trainer.totals().loss_first == pytest.approx(sum(1.5 if one else 0.25 for one in labels) / 8, abs=1e-6)


def test_held_out_answers_are_measured_as_pairs_are(make: Make) -> None:
    answers, pairs = make(), make(loss={"name": "sigmoid", "beta": 0.1, "label_smoothing": 0.0})
    assert isinstance(pairs, PairTrainer)
    torch.manual_seed(1)
    for ours, theirs in zip(moving(answers), moving(pairs), strict=True):
        ours += 0.05 * torch.randn_like(ours)
        theirs.copy_(ours)
    got, expected = answers.evaluate(), pairs.evaluate()
    names = [f"eval_{name}" for name in ("logratio/margin", "accuracy", "rewards/chosen", "rewards/rejected")]
    names += [f"eval_logps/{side}_per_token" for side in ("chosen", "rejected")]
    assert abs(expected["eval_logratio/margin"]) > 1e-3
    for name in [*names, "eval_rewards/accuracies", "eval_rewards/margins", "eval_logps/chosen"]:
        assert got[name] == pytest.approx(expected[name], abs=1e-4)


def test_evaluation_is_over_answers_whatever_the_batches(make: Make) -> None:
    one, four = make(per_device_eval_batch_size=1), make(per_device_eval_batch_size=5)
    for trainer in (one, four):
        trainer.train()
    first, second = one.evaluate(), four.evaluate()
    assert first["eval_kl"] > 0 or first["eval_loss"] != 0.5
    for name in ("loss", "kl", "rewards/margins", "accuracy", "logps/chosen_per_token"):
        assert first[f"eval_{name}"] == pytest.approx(second[f"eval_{name}"], abs=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.5)])
def test_the_loss_and_its_gradient_equal_those_of_stock_trl(
    make: Make, accumulation: int, weights: tuple[float, float]
) -> None:
    loss = LOSS | {"desirable_weight": weights[0], "undesirable_weight": weights[1]}
    fields = {"per_device_train_batch_size": 16 // accumulation, "learning_rate": 1e-3}
    ours, stock_loss = (make(loss=loss, verify="off", **fields) for _ in range(2))
    stock_loss.precompute_ref_logps = False
    stock_loss.compute_loss = lambda model, inputs, **_: KTOTrainer.compute_loss(  # type: ignore[method-assign]
        stock_loss, model, {name: value for name, value in inputs.items() if name != "row"}
    )
    for trainer in (ours, stock_loss):
        trainer.train()
    for one, other in zip(moving(ours), moving(stock_loss), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert losses(ours) == pytest.approx(losses(stock_loss), abs=1e-6)
    assert losses(ours)[0] != losses(ours)[1]


def test_every_epoch_keeps_answers_and_their_stand_ins_together(make: Make) -> None:
    trainer = make(per_device_train_batch_size=4, max_steps=-1, num_train_epochs=2.0, learning_rate=0.0)
    seen: list[tuple[list[int], str]] = []
    score = trainer._score

    def watched(model: Any, inputs: dict[str, Any], split: str) -> Any:
        seen.append((inputs["row"].tolist(), str(inputs["KL_input_ids"].tolist())))
        return score(model, inputs, split)

    trainer._score = watched  # type: ignore[method-assign]
    trainer.train()
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    assert sorted(row for rows, _ in seen[:half] for row in rows) == list(range(len(trainer.answers["train"])))
    assert trainer.pairs_seen == len(trainer.answers["train"])


def test_the_first_batch_is_verified_from_scratch(make: Make) -> None:
    trainer = make()
    trainer.train()
    verified = trainer.verified
    assert verified is not None
    assert verified.loss == verified.scratch == verified.trl == pytest.approx(0.5, abs=1e-6)
    assert verified.gradient_norm == pytest.approx(verified.gradient_norm_scratch, rel=1e-4)
    assert verified.gradient_norm > 1e-3
    assert verified.largest_difference < 1e-3
    assert verified.sequences == 32


@pytest.mark.parametrize(("asked", "name"), [(0, "policy's mismatched"), (1, "policy's")])
def test_verification_stops_a_run_whose_head_is_wrong(make: Make, asked: int, name: str) -> None:
    trainer = make()
    forward, calls = trainer.model.base_model.model.forward, []

    def shifted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if kwargs.get("fused_lm_head"):
            calls.append(None)
            if len(calls) == 3 + asked:  # the reference's two passes come first
                output.log_probs = output.log_probs * torch.tensor([0.9, *[1.0] * 7])[:, None]  # one answer of eight
        return output

    trainer.model.base_model.model.forward = shifted
    trainer.starts_at_reference = False  # else the first step's own check stops it
    with pytest.raises(RunFailed, match=f"the log-probability of the {name} completion must equal the one computed"):
        trainer.train()


def test_verification_stops_a_run_whose_loss_is_another(make: Make) -> None:
    trainer = make()
    cost = trainer.cost
    trainer.cost = lambda logps: 0.5 * cost(logps)
    with pytest.raises(RunFailed, match=r"preftune's own loss disagrees with the other two"):
        trainer.train()


def test_a_wrong_reference_stops_the_first_step(make: Make) -> None:
    trainer = make(adapter=FullSettings(name="full"))
    with torch.no_grad():
        next(trainer.ref_model.parameters()).add_(0.5)
    with pytest.raises(RunFailed, match=r"rewards are 0 and the loss is 0\.500000, half of the mean weight; got a log"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update_and_names_its_answers(make: Make) -> None:
    trainer = make()
    start = copy.deepcopy(moving(trainer))
    answer_loss = trainer.cost
    trainer.cost = lambda logps: answer_loss(logps) * torch.tensor([1.0, float("nan"), *[1.0] * 6])
    with pytest.raises(
        RunFailed, match=r"the loss of step 1 must be finite.* Its rows: pairs.jsonl:\d+ \((chosen|rejected)\)\. Lower"
    ):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(start, moving(trainer), strict=True))


def test_nf4_trains_its_adapter_in_float32(make: Make) -> None:
    trainer = make(model={"quantization": "nf4", "dtype": "bfloat16"}, max_steps=6)
    start = copy.deepcopy(moving(trainer))
    trainer.train()
    assert {p.dtype for p in moving(trainer)} == {torch.float32}
    assert trainer.totals().loss_first == pytest.approx(0.5, abs=1e-6)
    assert all(bool((a != b).all()) for a, b in zip(start, moving(trainer), strict=True))


def test_an_earlier_adapter_can_be_the_reference(make: Make, tmp_path: Path) -> None:
    earlier = make(max_steps=4)
    earlier.train()
    path = str(save_policy(earlier.model, earlier.processing_class, tmp_path / "earlier"))
    against_itself = make(adapter=stock.lora(path=path), reference="adapter")
    against_the_base = make(adapter=stock.lora(path=path), reference="base")
    assert against_itself.evaluate()["eval_logratio/margin"] == 0.0
    assert against_the_base.evaluate()["eval_logratio/margin"] > 0.0
    assert against_the_base.starts_at_reference is False
    for trainer in (against_itself, against_the_base):
        trainer.train()
    assert against_itself.totals().loss_first == pytest.approx(0.5, abs=1e-6)


def test_what_trl_refuses_on_this_machine_is_a_sentence(make: Make) -> None:
    with pytest.raises(Refusal, match=r"train must hold what trl\.KTOConfig takes on this machine, got: .*[Tt][Ff]32"):
        make(tf32=True)
