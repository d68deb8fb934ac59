"""summary.json: what a run came to, by the names that a sweep and a script read."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from preftune.evaluating.points import Points
from preftune.models.memory import peak_memory_bytes
from preftune.reporting.held_out import sources_map
from preftune.training.metrics import Totals
from preftune.training.verification import Verified


def summarise(
    totals: Totals, seconds: Mapping[str, float], points: Points, verified: Verified | None
) -> dict[str, Any]:
    """Return what summary.json holds.

    Args:
        totals: What the trainer counted.
        seconds: Wall-clock seconds by stage.
        points: What the evaluations before, in and after the training came to.
        verified: What the run-time check compared; None where it was off.
    """
    answers = points.last.answers
    kl, wins, rewards = answers.kl_to_reference, answers.win_rate, answers.true_reward
    training = seconds["train"] - totals.seconds_in_evaluation
    return {
        "loss_first": totals.loss_first,
        "loss_last": totals.loss_last,
        "steps": totals.steps,
        "steps_overflowed": totals.overflowed,
        "pairs_per_second": totals.pairs / training,
        "tokens_per_second": totals.tokens / training,
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": _stages(totals, seconds),
        "eval_start": points.start.eval_map(),
        "eval": points.last.eval_map(),
        "kl_to_reference": None if kl is None else kl.to_json(),
        "true_reward": None if rewards is None else {side: estimate.to_json() for side, estimate in rewards.items()},
        "win_rate": None if wins is None else wins.to_json(),
        "length_sampled": answers.length,
        "length_sampled_reference": answers.length_reference,
        "adapter_moved": points.last.moved,
        "sources": sources_map(points.last.logged),
        "reference_computed": totals.reference_computed,
        "engine": totals.engine,
        "verified": None if verified is None else _with_cost(verified, training, totals.steps),
        "verdict": points.watch.final(points.trainer.state.max_steps).to_json(),
        "left_out": [asdict(left) for left in points.trainer.rollback.left_out],
        "spikes": [spike.to_json() for spike in points.spikes.found],
        "verdicts": [entered.to_json() for entered in points.watch.entered],
    }


def _stages(totals: Totals, seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds by stage; what the training spent on the reference and on evaluation is theirs."""
    reference, evaluation = totals.seconds_in_reference, totals.seconds_in_evaluation
    return {
        **seconds,
        "train": seconds["train"] - reference - evaluation,
        "reference": seconds["reference"] + reference,
        "evaluate": seconds["evaluate"] + evaluation,
    }


def _with_cost(verified: Verified, seconds: float, steps: int) -> dict[str, float | int | None]:
    """Return what was compared, with what one check cost in training steps without one."""
    step = (seconds - verified.seconds * verified.checks) / steps
    return {**verified.to_json(), "cost_in_steps": verified.seconds / step}
