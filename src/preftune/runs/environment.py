"""The process that a run lives in: what the stack beneath may send and print. Called before it is imported."""

import logging
import os
import sys
import warnings

_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # of the hub, and TRL's report of each trainer that is set up
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers names a model without safetensors to a service that converts
    "WANDB_ERROR_REPORTING": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",  # of Trackio's dashboard
}


def settle(*, deterministic: bool = False) -> None:
    """Switch the stack's telemetry off unless it is asked for, its chatter down to errors, and set how it computes.

    Args:
        deterministic: Whether an operation without an algorithm that gives the same bits each time is an error.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Renamed settings that trl 1.16 still passes under their old names to transformers 5.23.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    _compute_alike(deterministic)


def _compute_alike(deterministic: bool) -> None:
    if not deterministic and "torch" not in sys.modules:
        return  # as it is
    import torch

    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read as CUDA starts, which is later
        os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"  # read by transformers at each call
        torch.backends.cudnn.benchmark = False
    # both ways: the jobs of a sweep may share a process
    torch.use_deterministic_algorithms(deterministic)
