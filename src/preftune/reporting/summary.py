"""summary.json: what a run came to, by the names that a sweep and a script read."""

import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch

# TRL's name of a held-out metric, and ours in the `eval` map. Names that stand in neither are not kept.
EVAL_NAMES = {
    "eval_loss": "loss",
    "eval_rewards/chosen": "rewards/chosen",
    "eval_rewards/rejected": "rewards/rejected",
    "eval_rewards/accuracies": "rewards/accuracies",
    "eval_rewards/margins": "rewards/margins",
    "eval_logratio/margin": "logratio_margin",
    "eval_accuracy": "accuracy",
    "eval_logps/chosen_per_token": "chosen_logp_per_token",
    "eval_logps/rejected_per_token": "rejected_logp_per_token",
}


def eval_map(logged: Mapping[str, float], kl_to_reference: float | None) -> dict[str, Any]:
    """Return the `eval` map from what an evaluation logged."""
    named: dict[str, Any] = {ours: logged[theirs] for theirs, ours in EVAL_NAMES.items()}
    return {**named, "kl_to_reference": kl_to_reference}


def peak_memory_bytes() -> int:
    """Return the most memory that this process held: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
