"""The trainers, by the `method` of a run."""

from collections.abc import Callable
from pathlib import Path

from preftune.training import kto, trainer
from preftune.training.preparation import Prepared
from preftune.training.settings import LossSettings, TrainSettings

Trainer = trainer.PairTrainer | kto.AnswerTrainer

_BUILDERS: dict[str, Callable[[Prepared, TrainSettings, LossSettings, str, int, Path], Trainer]] = {
    "dpo": trainer.build_trainer,
    "kto": kto.build_trainer,
}


def build_trainer(
    method: str,
    prepared: Prepared,
    train: TrainSettings,
    loss: LossSettings,
    reference: str,
    seed: int,
    directory: Path,
) -> Trainer:
    """Set up training of what was prepared, by `method`; the trainers' own `build_trainer` say the rest."""
    return _BUILDERS[method](prepared, train, loss, reference, seed, directory)
