"""What watches the training loop: the metrics' way out, the guard against bad gradients, the progress bar."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from preftune.refusals import RunFailed

Sink = Callable[[Mapping[str, float], int], None]


class MetricsCallback(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Hands each log event to every sink, with its step."""

    def __init__(self, sinks: list[Sink]) -> None:
        """Keep `sinks`."""
        self.sinks = sinks

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


class StepProgress(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """One bar over the optimizer steps, with the last loss beside it."""

    def __init__(self, console: Console) -> None:
        """Make the bar on `console`."""
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.progress.add_task("training", loss="")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar."""
        self.progress.update(self.task, total=state.max_steps)
        self.progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        self.progress.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the last loss."""
        if logs and "loss" in logs:
            self.progress.update(self.task, loss=f"loss {logs['loss']:.4f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the bar as it stands."""
        self.progress.stop()


def not_finite(what: str, step: int, rows: list[str]) -> str:
    """Return the sentence for a `what` that is NaN or infinite at `step`, naming the first rows."""
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return (
        f"the {what} of step {step} must be finite, got NaN or infinity; nothing was updated. Its rows: "
        f"{', '.join(rows[:8])}{more}. Lower train.learning_rate, or look at those rows"
    )
