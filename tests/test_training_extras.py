"""What a loss reads of a pair reaches it, or the run is refused; losses without a reference or beta train."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from preftune.refusals import Refusal, RunFailed
from preftune.training.extras import Extras, failing_plainly
from preftune.training.loss_settings import LossSettings
from preftune.training.preparation import prepare
from preftune.training.settings import TrainSettings
from preftune.training.trainer import PairTrainer, build_trainer
from tests import stock
from tests.losses import PARAMETERS
from tests.test_trainer import TRAIN

Make = Callable[..., PairTrainer]


@pytest.fixture
def make(chatml_model: Path, tmp_path: Path) -> Make:
    def build(loss: str, numbers: dict[str, float], **data: Any) -> PairTrainer:
        rows = [{"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": f"no, not {n}"} | numbers for n in range(24)]
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        recipe = TrainSettings.model_validate(TRAIN)
        settings = stock.data_settings(file, test_size=8, **data)
        chosen = TypeAdapter(LossSettings).validate_python({"name": loss} | PARAMETERS[loss])
        prepared = prepare(stock.model_settings(chatml_model), settings, stock.lora(), recipe, chosen, 0)
        return build_trainer(prepared, recipe, chosen, "base", "auto", "first_batch", 0, tmp_path / "run")

    return build


# `sigmoid` smooths labels here, which TRL's does not.
NOT_IN_TRL = {
    "sigmoid",
    "soft",
    "odpo",
    "dpop",
    "rdpo",
    "cal_dpo",
    "ipo_sum",
    "simpo",
    "orpo",
    "cpo",
    "beta_dpo",
    "tdpo",
}


@pytest.mark.parametrize("loss", [name for name in PARAMETERS if name not in ("soft", "odpo")])
def test_every_loss_is_verified_and_trains(make: Make, loss: str) -> None:
    trainer = make(loss, {})
    before = trainer.evaluate()
    trainer.train()
    assert trainer.starts_at_reference  # so that the first step was checked
    assert trainer.verified is not None
    assert trainer.verified.loss == pytest.approx(trainer.verified.scratch, abs=1e-4)
    assert trainer.verified.gradient_norm == pytest.approx(trainer.verified.gradient_norm_scratch, rel=1e-4)
    assert (trainer.verified.trl is None) == (loss in NOT_IN_TRL)
    assert trainer.first_losses[0].mean().item() == pytest.approx(trainer.verified.loss, abs=1e-5)
    assert trainer.evaluate()["eval_loss"] < before["eval_loss"]


def test_without_a_beta_rewards_are_log_ratios(make: Make) -> None:
    trainer = make("orpo", {})
    trainer.train()
    measured = trainer.evaluate()
    assert measured["eval_rewards/margins"] == pytest.approx(measured["eval_logratio/margin"], rel=1e-6)
    assert measured["eval_rewards/margins"] != 0


def test_a_reward_is_beta_times_a_log_ratio(make: Make) -> None:
    trainer = make("simpo", {})
    trainer.train()
    measured = trainer.evaluate()
    assert measured["eval_rewards/margins"] == pytest.approx(2.5 * measured["eval_logratio/margin"], rel=1e-6)


def test_a_soft_pair_pulls_the_other_way_where_its_label_is_probably_wrong(make: Make) -> None:
    margins = []
    for probability in (0.9, 0.1):
        trainer = make("soft", {"p": probability}, extras={"probability": "p"})
        trainer.train()
        margins.append(trainer.evaluate()["eval_logratio/margin"])
        assert trainer.totals().loss_first == pytest.approx(math.log(2), abs=1e-5)
    assert margins[0] > 0 > margins[1]


def test_a_weight_multiplies_the_loss_of_a_run(make: Make) -> None:
    trainer = make("sigmoid", {"w": 3.0}, extras={"weight": "w"})
    assert trainer.evaluate()["eval_loss"] == pytest.approx(3 * math.log(2), abs=1e-5)
    trainer.train()
    assert trainer.verified is not None
    assert trainer.verified.loss == pytest.approx(3 * math.log(2), abs=1e-5)
    assert trainer.verified.trl is None  # TRL weighs no pairs


@pytest.mark.parametrize(
    ("loss", "numbers", "data", "fault"),
    [
        (
            "soft",
            {},
            {},
            "loss.name must suit the train pairs, got soft: pairs must carry a probability for this loss, got none; "
            "set data.extras.probability, or the votes that give it",
        ),
        (
            "odpo",
            {"s": 0.0},
            {"score": "s"},
            "loss.name must suit the train pairs, got odpo: the score of chosen less that of rejected must be above 0 "
            "for odpo, got 0; data.ties=drop leaves out those of 0, data.min_margin those below it",
        ),
    ],
)
def test_pairs_that_do_not_suit_the_loss_are_refused_before_the_first_step(
    make: Make, loss: str, numbers: dict[str, float], data: dict[str, Any], fault: str
) -> None:
    with pytest.raises(Refusal) as refused:
        make(loss, numbers, **data)
    assert str(refused.value) == fault


def test_a_split_that_carries_no_number_gives_nothing_by_the_names_that_are_read() -> None:
    extras = Extras({"score": np.array([1.0, 2.0, 3.0])}, ("weight", "score"))
    found = extras.of(torch.tensor([2, 0]))
    assert found["score"].tolist() == [3.0, 1.0]
    assert found["weight"].isnan().all()
    assert found["weight"].shape == (2,)


def test_a_number_that_comes_with_a_streamed_pair_ends_the_run_by_a_sentence() -> None:
    with pytest.raises(RunFailed) as failed, failing_plainly():
        raise ValueError("probability must be from 0 to 1, got 2")
    assert str(failed.value) == "the loss cannot take these pairs: probability must be from 0 to 1, got 2"
