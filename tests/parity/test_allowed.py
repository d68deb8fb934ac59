"""What TRL refuses, what it takes and cannot train, and what of ours it does not have."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from trl import DPOConfig, DPOTrainer

from preftune.losses.catalogue import LOSSES
from preftune.losses.logps import PairLogps
from preftune.refusals import Refusal
from preftune.training.loss_settings import LossSettings
from preftune.training.objectives import build_objective, trl_fields
from tests import stock
from tests.losses import PARAMETERS
from tests.parity import sides
from tests.parity.cells import BROKEN, OF_EACH_ANSWER, OF_THE_MARGIN, REFUSED, SORTED, Cell
from tests.parity.trainers import PAIRS, part, set_to, stock_trainer

OURS_ALONE = sorted(LOSSES.keys() - {*OF_THE_MARGIN, *OF_EACH_ANSWER, *SORTED})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock.save_model(tmp_path_factory.mktemp("allowed"), stock.CHATML, dtype=torch.float32)


@pytest.fixture
def trainer(model: Path) -> DPOTrainer:
    return stock_trainer(model, "lora", precomputed=False, use_weighting=True)


def settings(**fields: Any) -> LossSettings:
    """Return the settings of a loss, with parameters that suit it."""
    name = fields["name"]
    return TypeAdapter(LossSettings).validate_python({**PARAMETERS.get(name, {}), **fields})


def smoothed(beta: float = 0.3) -> dict[str, Any]:
    """Return parameters of `sigmoid`."""
    return {"beta": beta, "label_smoothing": 0.1}


def test_what_trl_refuses_is_refused_by_both(trainer: DPOTrainer, model: Path) -> None:
    assert len(REFUSED) == 7 * 4 + 2 * 2
    for cell in REFUSED:
        arguments = DPOConfig(
            output_dir=str(model / "out"), use_cpu=True, bf16=False, report_to="none", **cell.of_trl()
        )
        made: dict[str, Any] = {
            "model": trainer.model.get_base_model(), "args": arguments,
            "train_dataset": trainer.train_dataset, "processing_class": trainer.processing_class,
        }  # fmt: skip
        if cell.use_weighting:
            with pytest.raises(NotImplementedError, match=r"^WPO-style weighting is not implemented for 'aot'"):
                DPOTrainer(**made)
            with pytest.raises(
                Refusal, match=r"^loss\.use_weighting must be false for a loss whose costs belong to no single pair"
            ):
                build_objective(cell.of_ours())
        else:
            with pytest.raises(ValueError, match=r"^`f_divergence_type='\w+'` is only supported for the following"):
                DPOTrainer(**made)
            with pytest.raises(ValidationError, match=r"f_divergence_type\s+Extra inputs are not permitted"):
                cell.of_ours()


def test_trl_takes_weighting_with_hinge_and_with_sft_and_cannot_train_either(trainer: DPOTrainer) -> None:
    batch = part(trainer, range(PAIRS))
    assert len(BROKEN) == 20
    for cell in BROKEN:
        outputs = sides.at_leaf(sides.forward(trainer.model, batch))
        with set_to(trainer, cell.of_trl()):
            if "sft" in cell.weights:
                with pytest.raises(RuntimeError, match=r"^unsupported operation: more than one element of the written"):
                    trainer.compute_loss(lambda outputs=outputs, **_: outputs, batch)
            else:
                loss = trainer.compute_loss(lambda outputs=outputs, **_: outputs, batch)
                with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
                    loss.backward()


@pytest.mark.parametrize("name", ["hinge", "sft"])
def test_ours_trains_with_weighting_what_trl_cannot_and_asks_trl_for_nothing(name: str) -> None:
    loss = Cell({name: 1.0}, use_weighting=True).of_ours()
    assert build_objective(loss).traits.per_pair
    assert trl_fields(loss) is None


@pytest.mark.parametrize("name", OURS_ALONE)
def test_a_loss_that_maps_to_nothing_of_trl_is_unknown_to_it(trainer: DPOTrainer, name: str) -> None:
    assert len(OURS_ALONE) == 11
    assert trl_fields(settings(name=name)) is None
    trainer.loss_types, trainer.loss_weights = [name], [1.0]
    with pytest.raises(ValueError, match=rf"^Unknown loss type: {name}\. Should be one of \['sigmoid', "):
        trainer.compute_loss(trainer.model, part(trainer, range(2)))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "sigmoid", **smoothed()}, "TRL does not smooth it"),
        ({"name": "sum", "losses": {"sigmoid": smoothed()}, "weights": {"sigmoid": 1.0}}, "nor in a sum"),
        (
            {
                "name": "sum",
                "losses": {"sigmoid": smoothed(), "robust": smoothed()},
                "weights": {"sigmoid": 1, "robust": 1},
            },
            "nor beside a loss that it smooths",
        ),
        ({"name": "ipo", "beta": 0.3, "terms": {"nll": {"weight": 0.1}}}, "it has no terms"),
        (
            {
                "name": "sum",
                "losses": {"hinge": {"beta": 0.1}, "ipo": {"beta": 0.5}},
                "weights": {"hinge": 1.0, "ipo": 1.0},
            },
            "it has one beta",
        ),
    ],
)
def test_what_trl_computes_otherwise_maps_to_nothing(trainer: DPOTrainer, fields: dict[str, Any], why: str) -> None:
    loss = settings(**fields)
    assert trl_fields(loss) is None, why
    batch = part(trainer, range(PAIRS))
    ours = build_objective(loss)(record_of(trainer, batch)).mean().item()
    outputs = sides.forward(trainer.model, batch)
    for beta in (0.1, 0.3, 0.5):
        names = list(loss.weighted())
        nearest = {"loss_type": names, "loss_weights": [1.0] * len(names), "beta": beta, "label_smoothing": 0.1}
        with set_to(trainer, {**nearest, "use_weighting": False}), torch.no_grad():
            assert abs(trainer.compute_loss(lambda **_: outputs, batch).item() - ours) > 1e-3


def record_of(trainer: DPOTrainer, batch: sides.Batch) -> PairLogps:
    """Return the record of a batch, from TRL's own forward passes."""
    with torch.no_grad():
        policy = sides.forward(trainer.model, batch).log_probs.sum(dim=1).chunk(2)
    reference = trainer.compute_ref_log_probs(trainer.model, batch)
    return PairLogps(*policy, *reference, *sides.completion(batch).sum(dim=1).chunk(2))
