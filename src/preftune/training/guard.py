"""What stops a run on numbers that are no longer finite, before they go further, and says where they came from."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from preftune.models.finite import listed, not_finite
from preftune.refusals import RunFailed
from preftune.training.bad_steps import BadStep

_ROWS = 8  # that a sentence names
_SEALING = 60.0  # s that a thread is given to seal the checkpoint of the step before


class FiniteGuard(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Stops the run before the optimizer moves on a gradient that is not finite, and after it made a weight so.

    A loss in float16 is scaled so that small gradients do not round to zero. A scale above 1 may overflow gradients
    that are finite themselves: the scaler then skips the step and halves the scale. From a scale of 1 on it is the
    gradient.

    Attributes:
        skipped: Steps that the scaler skipped.
    """

    def __init__(self, rows_of_step: Callable[[], list[str]], scale: Callable[[], float]) -> None:
        """Keep the way to the rows of the step under way, and to what its loss was multiplied by."""
        self.rows_of_step, self.scale = rows_of_step, scale
        self.skipped = 0

    def state(self) -> dict[str, int]:
        """Return what a run goes on from."""
        return {"skipped": self.skipped}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from what `state` returned."""
        self.skipped = state["skipped"]

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check every gradient of the model.

        Raises:
            BadStep: One is NaN or infinite.
        """
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        if bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            return
        if self.scale() <= 1:
            rows, step = self.rows_of_step(), state.global_step
            sentence = not_finite_sentence("gradient", step, rows, str(args.output_dir), training=True)
            raise BadStep(sentence, step + 1, "gradient", rows)
        self.skipped += 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check every weight that trains.

        Raises:
            BadStep: One is NaN or infinite.
        """
        weights = [(name, p) for name, p in kwargs["model"].named_parameters() if p.requires_grad]
        if bool(torch.isfinite(torch.nn.utils.get_total_norm([weight for _, weight in weights]))):
            return
        if found := not_finite(weights):  # a norm may outgrow its type where no weight does
            tensors = listed(f"{name} ({count})" for name, count in found.items())
            rows, step = self.rows_of_step(), state.global_step
            sentence = (
                f"the weights after step {step} must be finite, got NaN or infinity in {tensors}; they are not saved. "
                f"{rows_of(rows)}. Lower train.learning_rate{last_good(str(args.output_dir))}"
            )
            raise BadStep(sentence, step, "weights", rows)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that there was a step.

        Raises:
            RunFailed: There was none.
        """
        if state.global_step == 0:
            raise RunFailed(
                "training must take at least one optimizer step, got none: the data gave no batch; look at ledger.json "
                "for what became of the rows"
            )
        if state.global_step == self.skipped:
            raise RunFailed(
                f"training must take at least one optimizer step, got none: the gradients of all {self.skipped} "
                "overflowed float16; set train.bf16=true train.fp16=false, or train for more steps"
            )


def not_finite_sentence(what: str, step: int, rows: Sequence[str], directory: str, *, training: bool) -> str:
    """Return the sentence for a number of rows that is NaN or infinite.

    Args:
        what: Which: `loss`, `log-ratio`, `gradient`.
        step: Optimizer steps done.
        rows: The rows that made it.
        directory: The run's directory.
        training: Whether they were trained on; else evaluated.
    """
    if training:
        return (
            f"the {what} of step {step + 1} must be finite, got NaN or infinity; nothing was updated. {rows_of(rows)}. "
            f"Lower train.learning_rate, or look at those rows{last_good(directory)}"
        )
    return (
        f"the {what} of the evaluation after step {step} must be finite, got NaN or infinity. {rows_of(rows)}. "
        f"Look at those rows, or lower train.learning_rate{last_good(directory)}"
    )


def rows_of(rows: Sequence[str]) -> str:
    """Return the sentence that names the first of `rows`, without its full stop."""
    more = f" and {len(rows) - _ROWS} more" if len(rows) > _ROWS else ""
    return f"Its rows: {', '.join(rows[:_ROWS])}{more}"


def last_good(directory: str) -> str:
    """Return where the newest sealed checkpoint of a run stands; nothing where it has none."""
    until = time.monotonic() + _SEALING
    while list(Path(directory).glob("checkpoints/step-*.partial")) and time.monotonic() < until:
        time.sleep(0.05)
    found = [path for path in Path(directory).glob("checkpoints/step-*") if path.name[5:].isdigit()]
    if not found:
        return ""
    newest = max(found, key=lambda path: int(path.name[5:]))
    return f". The last good state is kept in {newest}"
