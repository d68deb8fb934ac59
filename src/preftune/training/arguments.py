"""The settings of TRL's trainers."""

import os
from pathlib import Path
from typing import Any

import torch

from preftune.refusals import Refusal
from preftune.training.settings import TrainSettings
from preftune.training.steps import Steps


def trl_arguments(
    config: type[Any], train: TrainSettings, steps: Steps, directory: Path, *, seed: int, **parameters: float
) -> Any:
    """Return TRL's own settings: a `config` of what `train` passes through, the loss's `parameters`, and ours.

    Raises:
        Refusal: TRL does not take them on this machine.
    """
    has_cuda = torch.cuda.is_available()
    try:
        arguments = config(
            **{"dataloader_pin_memory": has_cuda, **train.for_trl},
            **parameters,
            output_dir=str(directory),
            use_cpu=not has_cuda,
            seed=seed,
            data_seed=seed,
            gradient_accumulation_steps=steps.accumulation,
            report_to="none",
            save_strategy="steps",
            remove_unused_columns=False,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
        )
    except (ValueError, ImportError) as error:
        raise Refusal(f"train must hold what trl.{config.__name__} takes on this machine, got: {error}") from error
    if "LOCAL_RANK" not in os.environ and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process drives one device; more would wrap the model in DataParallel
    return arguments
