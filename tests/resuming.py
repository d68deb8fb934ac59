"""Runs that are stopped or killed and started again, on a two-layer model, with what an undisturbed one comes to."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from preftune.evaluating.points import Points
from preftune.evaluating.settings import EvaluateSettings
from preftune.models.settings import FullSettings, LowRankSettings
from preftune.refusals import Interrupted
from preftune.runs.event_log import EventLog
from preftune.runs.stages import Stages
from preftune.training.checkpoints import Checkpoints
from preftune.training.loss_settings import LossSettings
from preftune.training.methods import Trainer, build_trainer
from preftune.training.preparation import prepare
from preftune.training.settings import TrainSettings
from tests import stock
from tests.logged import events
from tests.point_runs import SIGMOID, TRAIN, guard

IDENTITY = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        train: Keys of `train`, 6 steps where they do not say.
        loss: The loss with its parameters.
        adapter: What trains.
        model: Changes of the model's settings.
        data: Changes of the data's settings.
        engine: As in the configuration.
        points: Evaluations after the start.
        guard: What the run is judged by.
    """

    train: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=lambda: SIGMOID)
    adapter: LowRankSettings | FullSettings = field(default_factory=stock.lora)
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    engine: str = "trl"
    points: int = 2
    guard: Any = field(default_factory=guard)


@dataclass
class Start:
    """One start of a run, which `enter` makes that of a directory.

    Attributes:
        trainer: Trains.
        points: Measures.
        keep: Checkpoints that are kept.
    """

    trainer: Trainer
    points: Points
    keep: int | None
    directory: Path = Path()
    saved: Checkpoints = field(init=False)

    def enter(self, directory: Path) -> "Start":
        """Stand where the run in `directory` stands."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.saved = Checkpoints(directory / "checkpoints", [IDENTITY], self.keep)
        rank = self.trainer.args.process_index
        log = EventLog(directory / ("metrics.jsonl" if rank == 0 else f"metrics-{rank}.jsonl"))
        if self.saved.newest() is None:
            log.path.unlink(missing_ok=True)
        self.trainer.report_to(lambda step, steps: None, log)
        self.trainer.keep_checkpoints(self.saved, {"points": self.points, "log": log, "seconds": Stages()})
        return self

    def go(self) -> "Start":
        """Do what the recipe does."""
        self.trainer.keep_reference()
        self.points.measure_start()
        self.trainer.fit()
        self.points.measure_end()
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        """Return what trains, by name."""
        return {n: p.detach().clone() for n, p in self.trainer.model.named_parameters() if p.requires_grad}

    def events(self) -> list[dict[str, Any]]:
        """Return what was logged, but for what is measured of the machine."""
        return events(self.directory)


def build(model: Path, pairs: Path, case: Case) -> Start:
    """Build what a start of a run needs, in no directory yet."""
    recipe = TrainSettings.model_validate(TRAIN | {"max_steps": 6, "save_steps": 2} | case.train)
    chosen = TypeAdapter(LossSettings).validate_python(case.loss)
    rows = stock.data_settings(pairs, **({"test_size": 6} | case.data))
    prepared = prepare(stock.model_settings(model, **case.model), rows, case.adapter, recipe, chosen, 0)
    trainer = build_trainer(prepared, recipe, chosen, "base", case.engine, "first_batch", 0, pairs.parent)
    settings = EvaluateSettings(points=case.points, prompts=3, max_new_tokens=4, batch_size=2)
    points = Points(trainer, prepared, settings, case.guard, 0, lambda title, text: None)
    return Start(trainer, points, recipe.checkpoints)


def start(model: Path, pairs: Path, directory: Path, case: Case) -> Start:
    """Start a run in `directory`, from where it stands."""
    return build(model, pairs, case).enter(directory)


def stopped_at(start: Start, step: int) -> str:
    """Train until the end of `step`, and return why it stopped."""
    start.trainer.stop_on(lambda: f"stop at {step}" if start.trainer.state.global_step >= step else None)
    try:
        start.go()
    except Interrupted as stopped:
        return str(stopped)
    raise AssertionError("it did not stop")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Refuse weights that differ in a bit or in their type."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def kill_at_each(checkpoints: Path, start: Callable[[int], int]) -> int:
    """Start a run until it is through, each time killed at the next file operation of the save that it has come to.

    Args:
        checkpoints: Where the run saves.
        start: Starts the run where it stands, has it killed at its n-th file operation, and returns its exit code.

    Returns:
        How often it was killed.
    """
    kills, operation, sealed = 0, 1, 0
    while code := start(operation):
        assert code == -signal.SIGKILL
        newest = max((int(path.name[5:]) for path in checkpoints.glob("step-*") if not path.suffix), default=0)
        kills, operation, sealed = kills + 1, operation + 1 if newest == sealed else 1, newest
    return kills
