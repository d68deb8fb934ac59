"""summary.json: what a run came to, by the names that a sweep and a script read."""

import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch

from preftune.evaluating.answers import MeasuredAnswers
from preftune.reporting.verdict import judge
from preftune.training.metrics import Totals
from preftune.training.verification import Verified

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
    """Return the `eval` map from what an evaluation logged; None where there were no pairs to measure it on."""
    named: dict[str, Any] = {ours: logged.get(theirs) for theirs, ours in EVAL_NAMES.items()}
    return {**named, "kl_to_reference": kl_to_reference}


def peak_memory_bytes() -> int:
    """Return the most memory that this process held: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def summarise(
    totals: Totals,
    seconds: Mapping[str, float],
    start: Mapping[str, float],
    end: Mapping[str, float],
    measured: MeasuredAnswers,
    verified: Verified | None,
) -> dict[str, Any]:
    """Return what summary.json holds.

    Args:
        totals: What the trainer counted.
        seconds: Wall-clock seconds by stage.
        start: What the evaluation before training logged.
        end: What the evaluation after training logged.
        measured: What sampled answers showed.
        verified: What the run-time check compared; None where it was off.
    """
    kl = measured.kl_to_reference
    before = eval_map(start, None if kl is None else 0.0)
    after = eval_map(end, None if kl is None else kl.mean)
    spent = totals.seconds_in_reference
    return {
        "loss_first": totals.loss_first,
        "loss_last": totals.loss_last,
        "steps": totals.steps,
        "pairs_per_second": totals.pairs / seconds["train"],
        "tokens_per_second": totals.tokens / seconds["train"],
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": {**seconds, "train": seconds["train"] - spent, "reference": seconds["reference"] + spent},
        "eval_start": before,
        "eval": after,
        "kl_to_reference": None if kl is None else kl.to_json(),
        "true_reward": measured.true_reward,
        "engine": totals.engine,
        "verified": None if verified is None else _with_cost(verified, seconds["train"], totals.steps),
        "verdict": judge(before, after).to_json(),
    }


def _with_cost(verified: Verified, seconds: float, steps: int) -> dict[str, float | int | None]:
    """Return what was compared, with what one check cost in training steps without one."""
    step = (seconds - verified.seconds * verified.checks) / steps
    return {**verified.to_json(), "cost_in_steps": verified.seconds / step}
