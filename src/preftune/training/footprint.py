"""What a run will write: checkpoints, what it trained, and the reference's log-probabilities."""

import math
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel

from preftune.models.memory import standing
from preftune.space import Need, refuse_short
from preftune.training.loss_settings import KtoSettings, LossSettings
from preftune.training.objectives import build_objective
from preftune.training.preparation import Prepared
from preftune.training.reference_keys import DIGEST
from preftune.training.referenced import reference_place
from preftune.training.settings import TrainSettings

_BESIDE = 1 << 21  # bytes: states of random numbers, schedule, manifest; tokenizer and configuration
_A_PAIR = 2 * DIGEST  # bytes of a pair in the reference's store beside its values


def plan_space(
    prepared: Prepared,
    train: TrainSettings,
    loss: LossSettings,
    reference: str,
    engine: str,
    directory: Path,
    dry: bool,
) -> list[Need]:
    """Return what the run will write beyond what is there.

    Args:
        prepared: The policy where it will train, and the pairs.
        train: Optimizer, precision, `save_total_limit`.
        loss: Tells whether the reference is kept.
        reference: `base` or `adapter`.
        engine: That of TRL keeps no reference.
        directory: The run's.
        dry: Whether nothing will be trained; room is not looked for then, as `directory` is another one.

    Raises:
        Refusal: There is not enough room.
    """
    counted = standing(prepared.policy)
    is_adapter = isinstance(prepared.policy, PeftModel)
    optimizer = counted.parts(train.dpo.get("optim", "adamw_torch"), reference=False, adapter=is_adapter)["optimizer"]
    kept = train.checkpoints or _saves(train, prepared.steps.steps)
    checkpoints = (kept + 1) * (counted.trained + optimizer + _BESIDE)  # one is written before one is removed
    final = counted.trained if is_adapter else counted.trained + counted.frozen
    needs = [
        Need(f"{kept + 1} checkpoints", directory, max(0, checkpoints - _size(directory / "checkpoints"))),
        Need("adapter" if is_adapter else "model", directory, final + _BESIDE),
        *(_reference(prepared, train, loss, reference) if engine != "trl" else []),
    ]
    if not dry:
        refuse_short(needs)
    return needs


def _reference(prepared: Prepared, train: TrainSettings, loss: LossSettings, reference: str) -> list[Need]:
    """Return what is to be kept of the reference, less what is there under its key, be it of these pairs or others."""
    if isinstance(loss, KtoSettings) or prepared.stream or "kl" in build_objective(loss).traits.tokens:
        return []
    half = torch.bfloat16 if train.dpo.get("bf16") else torch.float16 if train.dpo.get("fp16") else None
    place = reference_place(prepared, reference, half or prepared.policy.dtype)
    total = sum(_bytes_of_pairs(split.rows) for split in (prepared.rows, prepared.held_out))
    return [Need("reference", place, max(0, total - _size(place)))]


def _bytes_of_pairs(rows: Dataset) -> int:
    columns = (rows.data.column(f"{name}_ids").combine_chunks() for name in ("chosen", "rejected"))
    return _A_PAIR * len(rows) + 4 * sum(int(np.diff(column.offsets.to_numpy()).sum()) for column in columns)


def _saves(train: TrainSettings, steps: int) -> int:
    every: float = train.dpo.get("save_steps", 500)  # DPOConfig's own
    return math.ceil(steps / max(1, every if every >= 1 else math.ceil(every * steps)))


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
