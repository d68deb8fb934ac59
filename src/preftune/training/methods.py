"""The trainers, by the kind of the loss: of pairs, or of single answers."""

from pathlib import Path

from preftune.training import kto, memory_trial, trainer
from preftune.training.loss_settings import KtoSettings, LossSettings
from preftune.training.preparation import Prepared
from preftune.training.settings import TrainSettings

Trainer = trainer.PairTrainer | kto.AnswerTrainer


def build_trainer(
    prepared: Prepared,
    train: TrainSettings,
    loss: LossSettings,
    reference: str,
    engine: str,
    verify: str,
    seed: int,
    directory: Path,
) -> Trainer:
    """Set up training of what was prepared; the trainers' own `build_trainer` say the rest."""
    built: Trainer
    if isinstance(loss, KtoSettings):
        built = kto.build_trainer(prepared, train, loss, reference, verify, seed, directory)
    else:
        built = trainer.build_trainer(prepared, train, loss, reference, engine, verify, seed, directory)
    memory_trial.watch(built, prepared, train)
    return built
