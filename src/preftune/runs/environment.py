"""The process that a run lives in: what the stack beneath may send and print. Called before it is imported."""

import logging
import os
import warnings


def settle() -> None:
    """Switch the stack's telemetry off unless it is asked for, and its chatter down to errors."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Renamed settings that trl 1.16 still passes under their old names to transformers 5.23.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
