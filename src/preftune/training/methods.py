"""The trainers, by the kind of the loss: of pairs, or of single answers."""

from pathlib import Path

from preftune.training import kto, trainer
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
    if isinstance(loss, KtoSettings):
        return kto.build_trainer(prepared, train, loss, reference, verify, seed, directory)
    return trainer.build_trainer(prepared, train, loss, reference, engine, verify, seed, directory)
