"""What must hold between the evaluation points of a run and its other settings."""

from collections.abc import Callable

from preftune.evaluating.settings import EvaluateSettings
from preftune.reporting.settings import GuardSettings
from preftune.training.settings import TrainSettings


def _a_guard_has_points_to_stop_at(guard: GuardSettings, evaluate: EvaluateSettings) -> str | None:
    if set(guard.stop_on) - {"spike"} and evaluate.points < 2:
        return (
            "evaluate.points must be at least 2 where guard.stop_on names a state, which is judged at points on the "
            f"way, got {evaluate.points}"
        )
    return None


def _a_spike_is_looked_for(guard: GuardSettings) -> str | None:
    if "spike" in guard.stop_on and guard.spike is None:
        return "guard.spike must be a number of deviations where guard.stop_on names spike, got null"
    return None


def _overflow_is_no_bad_step(guard: GuardSettings, train: TrainSettings) -> str | None:
    if guard.rollback and train.dpo.get("fp16"):
        return (
            f"guard.rollback must be 0 where train.fp16 is true, got {guard.rollback}: there an infinite gradient is "
            "skipped by the scaler; train.bf16=true has no scaler"
        )
    return None


def _evaluation_moves_no_schedule(evaluate: EvaluateSettings, train: TrainSettings) -> str | None:
    schedule = train.dpo.get("lr_scheduler_type")
    if schedule in ("reduce_lr_on_plateau", "greedy") and evaluate.points > 1:
        return (
            f"evaluate.points must be 1 where train.lr_scheduler_type is {schedule}, which moves the learning rate at "
            f"each evaluation, got {evaluate.points}; train.eval_steps says when"
        )
    return None


OF_EVALUATION: tuple[Callable[..., str | None], ...] = (
    _a_guard_has_points_to_stop_at,
    _a_spike_is_looked_for,
    _overflow_is_no_bad_step,
    _evaluation_moves_no_schedule,
)
"""Each takes settings by name and returns what is wrong with them, if anything is."""
