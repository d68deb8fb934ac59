"""A trainer that is stopped, or killed, and goes on to the same bits.

A checkpoint holds, beside what the stock trainer writes (weights, optimizer, scheduler, scaler, random numbers, its
state), all that a later log event reads. It is taken after a step, its log event and its evaluation; where an
evaluation was given up it is taken as of before that, which is then done again first.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from rich.text import Text
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from preftune.refusals import Interrupted
from preftune.training.checkpoints import Checkpoints, Sealed
from preftune.training.measured import MeasuredTraining
from preftune.training.preparation import Prepared
from preftune.training.snapshot import Part, Snapshot
from preftune.training.weights import read_weights, write_weights

# What the configuration says of an optimizer's group of parameters; the rest of it is where the training stands.
_CHOSEN = ("initial_lr", "weight_decay", "betas", "eps")


class _GivenUp(Interrupted):
    """An evaluation was given up, as the run is to stop."""


class ResumableTraining(MeasuredTraining):
    """Checkpoints around the stock training loop; stands before a trainer of TRL among the bases of a class.

    Attributes:
        parts: What goes on beside the trainer, by name.
        training_since: When the training began, in seconds since the epoch, less what it stood still.
    """

    args: Any
    control: Any
    optimizer: Any
    lr_scheduler: Any
    prepared: Prepared
    train: Any
    _save_optimizer_and_scheduler: Any
    _save_scaler: Any
    _save_rng_state: Any
    parts: dict[str, Part]
    training_since: float

    def take_over(self, trained: Mapping[str, Tensor], reference: str) -> None:
        """As of `Sides`; keep no checkpoint yet, and stop for nobody."""
        super().take_over(trained, reference)
        self.parts = {}
        self._checkpoints: Checkpoints | None = None
        self._snapshot: Snapshot | None = None
        self._saved_at = 0
        self.stop_on(lambda: None)

    def stop_on(self, requested: Callable[[], str | None]) -> None:
        """Stop at the next step, batch of an evaluation or of samples, once `requested` gives a reason."""
        self._requested = requested

    def keep_checkpoints(
        self, checkpoints: Checkpoints, parts: Mapping[str, Part], requested: Callable[[], str | None] | None = None
    ) -> None:
        """Save to `checkpoints`, and go on from where they say.

        Args:
            checkpoints: Of this run.
            parts: What goes on beside the trainer, by name; each stands where it stood from now on.
            requested: As `stop_on` takes it.
        """
        if requested is not None:
            self.stop_on(requested)
        self._checkpoints = checkpoints
        self.parts |= {"guard": self.guard, "rollback": self.rollback, **parts}
        if checkpoints.going_on is not None:
            self.stand_at(checkpoints.going_on)

    def fit(self) -> None:
        """Train, from the start or from the checkpoint that there is, until the last checkpoint is sealed.

        Raises:
            Interrupted: The run was asked to stop; a checkpoint of where it stands is sealed.
        """
        going_on = self._checkpoints and self._checkpoints.going_on
        if self.accelerator.num_processes > 1:
            # accelerate 1.15 marks a model that was evaluated as prepared, and then leaves it out of DDP: each process
            # would train alone. Delete once a test with two processes holds without.
            vars(self.model).pop("_is_accelerate_prepared", None)
        try:
            self.train(resume_from_checkpoint=str(going_on.path) if going_on else None)
        finally:
            if self._checkpoints is not None:
                self._checkpoints.wait()

    def stand_at(self, checkpoint: Sealed) -> None:
        """Let the next `fit` go on from a checkpoint, and all parts stand where they stood then."""
        self._snapshot = Snapshot.read(checkpoint.path, self.args.process_index)
        for name, part in self.parts.items():
            part.restore(self._snapshot.parts[name])

    def give_up_if_asked(self) -> None:
        """Raise where the run is to stop: for between the parts of what can be done again.

        Raises:
            Interrupted: With the reason.
        """
        if (reason := self._asked()) is not None:
            raise _GivenUp(reason)

    def prediction_step(self, *args: Any, **keywords: Any) -> Any:
        """Do the stock step of an evaluation, unless the run is to stop."""
        self.give_up_if_asked()
        return super().prediction_step(*args, **keywords)  # type: ignore[misc]

    def _asked(self) -> str | None:
        """Return why the run is to stop; all processes stop together."""
        reason = self._requested()
        if self.accelerator.num_processes == 1:
            return reason
        return next(filter(None, gather_object([reason])), None)

    def _begin(self) -> None:
        """As of `MeasuredTraining`; stand where the checkpoint was taken."""
        super()._begin()
        self.training_since = time.time()
        if self._snapshot is None:
            return
        snapshot, state = self._snapshot, self.state
        self._saved_at = state.global_step
        snapshot.put_back(self)
        if snapshot.facts["engine"] != self.engine.name:
            self.console.print(
                Text(
                    f"warning: engine={self.engine.name} goes on where engine={snapshot.facts['engine']} trained: the "
                    "last digits are not those of an undisturbed run",
                    "yellow",
                )
            )
        state.compute_steps(self.args, state.max_steps)  # those of the configuration, not of the checkpoint
        if snapshot.facts["evaluation_due"]:
            self._evaluate(None, None)
        # where nothing is left to do the stock loop would do one more step
        self.control.should_training_stop |= snapshot.facts["ended"] or state.global_step >= state.max_steps

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        """As the stock trainer; of a stream, whose length it does not know, the pass and the batches of it."""
        passes, batches = super()._init_training_state(max_steps, *args)  # type: ignore[misc]
        if self._snapshot is not None and self._snapshot.facts["pass"] is not None:
            passes, batches = self._snapshot.facts["pass"]
        return passes, batches

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        read_weights(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the state of both; what the configuration says of them is kept, as a change of it may be allowed."""
        if checkpoint is None:
            return
        groups, scheduler = self.optimizer.param_groups, self.lr_scheduler
        chosen = [{name: group[name] for name in _CHOSEN if name in group} for group in groups]
        rates = [group["initial_lr"] for group in groups]
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        groups, before = self.optimizer.param_groups, scheduler.base_lrs
        scheduler.base_lrs = rates
        for place, group in enumerate(groups):
            group.update(chosen[place])
            if isinstance(scheduler, LambdaLR):
                group["lr"] = rates[place] * scheduler.lr_lambdas[place](scheduler.last_epoch)
            elif before[place] != rates[place]:
                group["lr"] *= rates[place] / before[place]
        scheduler._last_lr = [group["lr"] for group in groups]

    def _run_epoch(self, *args: Any, **keywords: Any) -> None:
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **keywords)  # type: ignore[misc]

    def _finalize_training(self, trial: Any, num_train_samples: float, start_time: float) -> Any:
        return super()._finalize_training(trial, num_train_samples, self.training_since)  # type: ignore[misc]

    def _maybe_log_save_evaluate(self, *args: Any, **keywords: Any) -> None:
        """Log, evaluate, save as the stock trainer does; save at the end too, and stop where that is asked for."""
        super()._maybe_log_save_evaluate(*args, **keywords)  # type: ignore[misc]
        reason = self._asked()
        if reason is not None or self.control.should_training_stop:
            self._save()
        if reason is not None:
            raise Interrupted(reason)

    def _evaluate(self, *args: Any, **keywords: Any) -> Any:
        """Evaluate; where that is given up, save where the training stood before."""
        before = self._taken(evaluation_due=True) if self._checkpoints else None
        try:
            return super()._evaluate(*args, **keywords)  # type: ignore[misc]
        except _GivenUp:
            if before is not None:
                self._save(before)
            raise

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._save()

    def _taken(self, *, evaluation_due: bool = False) -> Snapshot:
        state = self.state
        passes = None
        if self.prepared.stream is not None:  # the stock trainer counts a pass as state.max_steps batches
            of_pass = round((state.epoch - int(state.epoch)) * state.max_steps * self.args.gradient_accumulation_steps)
            passes = [int(state.epoch), of_pass]
        ended = bool(self.control.should_training_stop and state.global_step < state.max_steps)
        facts = {"evaluation_due": evaluation_due, "ended": ended, "pass": passes}
        return Snapshot.take(self, self.parts, **facts)

    def _save(self, before: Snapshot | None = None) -> None:
        """Save a checkpoint, of where the training stands or of `before`, unless there is one of this step."""
        step = self.state.global_step
        if self._checkpoints is None or self._saved_at == step:
            return
        self._saved_at, snapshot = step, before or self._taken()
        if self.args.should_save:
            self._checkpoints.save(step, self.state.max_steps, lambda directory: self._write(directory, snapshot))
        else:
            self._write(self._checkpoints.place_of(step), snapshot)

    def _write(self, directory: Path, snapshot: Snapshot) -> None:
        self.accelerator.wait_for_everyone()  # for the directory
        if self.args.should_save:
            write_weights(self.accelerator.unwrap_model(self.model), directory)
            replace(self.state, log_history=[], stateful_callbacks={}).save_to_json(directory / "trainer_state.json")
        self._save_optimizer_and_scheduler(str(directory))
        self._save_scaler(str(directory))
        self._save_rng_state(str(directory))
        snapshot.write(directory, self.args.process_index)
        self.accelerator.wait_for_everyone()  # for all files
