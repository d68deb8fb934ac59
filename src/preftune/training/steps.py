"""The steps of a run: how many, how many of them warm up, and what cannot work."""

import math
import os
from dataclasses import dataclass

from preftune.refusals import Refusal
from preftune.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Steps:
    """How the rows become optimizer steps.

    Attributes:
        pairs: Pairs in one epoch; None where they are streamed.
        steps: Optimizer steps in all.
        warmup_steps: Steps over which the learning rate rises.
        accumulation: Micro-batches in one optimizer step, on each device.
        batch: Pairs in one optimizer step.
        unit: What is counted: `pairs`, or single `answers`, two of each pair.
    """

    pairs: int | None
    steps: int
    warmup_steps: int
    accumulation: int
    batch: int
    unit: str = "pairs"


def count_steps(train: TrainSettings, pairs: int | None, *, devices: int | None = None, unit: str = "pairs") -> Steps:
    """Work out the steps of a run over `pairs` pairs, or what else `unit` says.

    Args:
        train: Batch sizes, epochs or steps, warm-up.
        pairs: Pairs in one epoch; None where they are streamed, and `max_steps` counts.
        devices: Processes with one device each; None asks the launcher's environment.
        unit: What is counted.

    Raises:
        Refusal: There is no pair, the batch does not divide, or warm-up takes the whole run.
    """
    devices = devices or int(os.environ.get("WORLD_SIZE", "1"))
    per_device = train.micro_batch
    if pairs == 0:
        raise Refusal("there must be at least one pair to train on, got none; the ledger says what dropped them")
    if train.global_batch_size % (per_device * devices):
        raise Refusal(
            f"train.global_batch_size must be a multiple of train.per_device_train_batch_size={per_device} times "
            f"{devices} devices, got {train.global_batch_size}"
        )
    accumulation = train.global_batch_size // (per_device * devices)
    steps = train.dpo.get("max_steps", -1)
    if pairs is not None and steps <= 0:
        per_epoch = math.ceil(math.ceil(pairs / (per_device * devices)) / accumulation)
        steps = math.ceil(train.dpo.get("num_train_epochs", 3.0) * per_epoch)
    warmup = _warmup(train.dpo.get("warmup_steps", 0), steps)
    return Steps(pairs, steps, warmup, accumulation, train.global_batch_size, unit)


def _warmup(setting: float, steps: int) -> int:
    warmup = math.ceil(steps * setting) if setting < 1 else int(setting)
    if warmup >= steps and warmup > 0 and setting >= 1:
        raise Refusal(
            f"train.warmup_steps must be below the run's {steps} steps, or the learning rate never reaches its "
            f"peak; got {setting:g}. A value below 1 is a share of the steps: 0.1 warms up over a tenth"
        )
    return warmup
