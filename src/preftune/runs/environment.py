"""The process that a run lives in: what the stack beneath may send and print. Called before it is imported."""

import logging
import os
import warnings

_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # of the hub, and TRL's report of each trainer that is set up
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers names a model without safetensors to a service that converts
    "WANDB_ERROR_REPORTING": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",  # of Trackio's dashboard
}


def settle() -> None:
    """Switch the stack's telemetry off unless it is asked for, and its chatter down to errors."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Renamed settings that trl 1.16 still passes under their old names to transformers 5.23.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
