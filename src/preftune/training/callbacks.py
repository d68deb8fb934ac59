"""What watches the training loop: the metrics' way out, the guard against bad gradients, the progress bar."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from preftune.refusals import RunFailed

Sink = Callable[[Mapping[str, float], int], None]
OnStep = Callable[[int, int], None]


class Reporter(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Hands each log event to every sink with its step, and each step to `on_step`."""

    def __init__(self, on_step: OnStep, sinks: Sequence[Sink]) -> None:
        """Keep where to report to."""
        self.sinks = sinks
        self.report_step = on_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass the numbers on."""
        for sink in self.sinks:
            sink(dict(logs or {}), state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Pass the step on."""
        self.report_step(state.global_step, state.max_steps)


class StepEnd(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Calls something after each optimizer step."""

    def __init__(self, act: Callable[[], None]) -> None:
        """Keep what to call."""
        self.act = act

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Call it."""
        self.act()


class TrainBegin(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Calls something before the first step."""

    def __init__(self, act: Callable[[], None]) -> None:
        """Keep what to call."""
        self.act = act

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Call it."""
        self.act()


class GradientGuard(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Stops the run before the optimizer moves on a gradient that is not finite."""

    def __init__(self, rows_of_step: Callable[[], list[str]]) -> None:
        """Keep the way to the rows of the step under way."""
        self.rows_of_step = rows_of_step

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check every gradient of the model.

        Raises:
            RunFailed: One is NaN or infinite.
        """
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        if not bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            raise RunFailed(not_finite("gradient", state.global_step + 1, self.rows_of_step()))


class ProgressBars(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """One bar over the optimizer steps, with the last loss beside it, and one over each evaluation."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`."""
        self.console = console
        self.training: Progress | None = None
        self.evaluation: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar of the steps."""
        self.training = _bar(self.console, "training", state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move it."""
        if self.training:
            self.training.update(TaskID(0), completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the last loss."""
        if self.training and logs and "loss" in logs:
            self.training.update(TaskID(0), note=f"loss {logs['loss']:.4f}")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar of the evaluation; inside training its own bar stays alone."""
        if self.training:
            return
        if self.evaluation is None:
            self.evaluation = _bar(self.console, "evaluating", len(kwargs["eval_dataloader"]))
        self.evaluation.advance(TaskID(0))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leave the bar of the evaluation as it stands."""
        if self.evaluation:
            self.evaluation.stop()
            self.evaluation = None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the bar of the steps as it stands."""
        if self.training:
            self.training.stop()
            self.training = None


def _bar(console: Console, title: str, total: int) -> Progress:
    columns = (TextColumn(f"{title:<10}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    progress = Progress(*columns, TimeRemainingColumn(), console=console)
    progress.add_task(title, total=total, note="")
    progress.start()
    return progress


def not_finite(what: str, step: int, rows: list[str]) -> str:
    """Return the sentence for a `what` that is NaN or infinite at `step`, naming the first rows."""
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return (
        f"the {what} of step {step} must be finite, got NaN or infinity; nothing was updated. Its rows: "
        f"{', '.join(rows[:8])}{more}. Lower train.learning_rate, or look at those rows"
    )
