"""What watches the training loop: the metrics' way out, the progress bar."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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
        self.stop()

    def stop(self) -> None:
        """Leave the bar of the steps as it stands, also where the training did not end."""
        if self.training:
            self.training.stop()
            self.training = None


def _bar(console: Console, title: str, total: int) -> Progress:
    columns = (TextColumn(f"{title:<10}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    progress = Progress(*columns, TimeRemainingColumn(), console=console)
    progress.add_task(title, total=total, note="")
    progress.start()
    return progress
