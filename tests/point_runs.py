"""Short trainings with their evaluation points, on a two-layer model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from preftune.evaluating.points import Points
from preftune.evaluating.settings import EvaluateSettings
from preftune.models.settings import LowRankSettings
from preftune.reporting.settings import GuardSettings
from preftune.training.loss_settings import LossSettings
from preftune.training.methods import Trainer, build_trainer
from preftune.training.preparation import prepare
from preftune.training.settings import TrainSettings
from tests import stock

TRAIN: dict[str, Any] = {
    "name": "test",
    "global_batch_size": 8,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "max_steps": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "bf16": False,
    "max_length": 256,
}
SIGMOID = {"name": "sigmoid", "beta": 0.1, "label_smoothing": 0.0}


def guard(*stop_on: str, **changes: float) -> GuardSettings:
    """Return the settings of conf/run.yaml, with `changes`."""
    fields: dict[str, Any] = {
        "displaced": 0.5,
        "collapsed": 3.0,
        "saturated_accuracy": 0.99,
        "saturated_loss": 0.05,
        "learned": 0.02,
        "spike": 10.0,
        "rollback": 0,
        "stop_on": list(stop_on),
    }
    return GuardSettings.model_validate(fields | changes)


@dataclass
class Run:
    """A training with its points.

    Attributes:
        trainer: Its trainer.
        points: Its points.
        events: What was logged, each event with its step.
        alerts: Titles and texts.
    """

    trainer: Trainer
    points: Points
    events: list[tuple[int, dict[str, float]]]
    alerts: list[tuple[str, str]]

    def go(self) -> "Run":
        """Measure, train, measure."""
        self.points.measure_start()
        self.trainer.train()
        self.points.measure_end()
        return self

    def having(self, name: str) -> dict[int, float]:
        """Return a metric by step."""
        return {step: event[name] for step, event in self.events if name in event}

    def weights(self) -> torch.Tensor:
        """Return all that trains, in one row."""
        return torch.cat([p.detach().flatten() for p in self.trainer.model.parameters() if p.requires_grad])


def build(
    model: Path,
    pairs: Path,
    directory: Path,
    *,
    points: int = 4,
    prompts: int = 3,
    judged_by: GuardSettings | None = None,
    loss: dict[str, Any] = SIGMOID,
    adapter: LowRankSettings | None = None,
    reference: str = "base",
    data: Sequence[tuple[str, Any]] = (("test_size", 6),),
    **train: Any,
) -> Run:
    """Build a run on the pairs of a file."""
    recipe = TrainSettings.model_validate(TRAIN | train)
    chosen = TypeAdapter(LossSettings).validate_python(loss)
    rows = stock.data_settings(pairs, **dict(data))
    prepared = prepare(stock.model_settings(model), rows, adapter or stock.lora(), recipe, chosen, 0)
    trainer = build_trainer(prepared, recipe, chosen, reference, "auto", "first_batch", 0, directory)
    events: list[tuple[int, dict[str, float]]] = []
    alerts: list[tuple[str, str]] = []
    trainer.report_to(lambda step, steps: None, lambda metrics, step: events.append((step, dict(metrics))))
    settings = EvaluateSettings(points=points, prompts=prompts, max_new_tokens=8, batch_size=2)
    measured = Points(
        trainer, prepared, settings, judged_by or guard(), 0, lambda title, text: alerts.append((title, text))
    )
    return Run(trainer, measured, events, alerts)
