"""A trainer that goes back from a bad step to its newest checkpoint, and on without the batch of that step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from preftune.refusals import Refusal, RunFailed
from preftune.training.bad_steps import BadStep
from preftune.training.resumable import ResumableTraining


class RollbackTraining(ResumableTraining):
    """Going back around the stock training loop; stands before a trainer of TRL among the bases of a class.

    A step whose batch is left out counts as done, so that every other step has the batch and the learning rate that it
    would have had. The class asks `leaves_out_step` first in its training step.
    """

    _globalstep_last_logged: int
    _total_loss_scalar: float
    _tr_loss: Tensor

    def allow_rollbacks(self, limit: int, tell: Callable[[str, str], None]) -> None:
        """Go back from a step that went wrong, instead of ending the run, and on without its batch.

        Args:
            limit: How many batches may be left out; of a run that keeps checkpoints.
            tell: Told the title and the text of each time.

        Raises:
            Refusal: Several processes train: one alone may find its part of a step wrong.
        """
        if limit and self.accelerator.num_processes > 1:
            raise Refusal(f"guard.rollback must be 0 where several processes train, got {limit}")
        self.rollback.limit, self.rollback.tell = limit, tell

    def fit(self) -> None:
        """Train, from the start or from the checkpoint that there is, until the last checkpoint is sealed.

        Raises:
            Interrupted: The run was asked to stop; a checkpoint of where it stands is sealed.
            RunFailed: A step went wrong, and no further batch may be left out.
        """
        while True:
            try:
                super().fit()
                break
            except BadStep as failure:
                self._go_back(failure)
        if 0 < self.state.global_step <= len(self.rollback.left_out):
            raise RunFailed(
                f"training must take at least one optimizer step, got none: all {self.state.global_step} batches were "
                "left out by guard.rollback; look at the first sentence that says why"
            )

    def leaves_out_step(self) -> bool:
        """Whether the batch of the step under way is left out."""
        return self.rollback.leaves_out(self.state.global_step + 1)

    def nothing_trained(self) -> Tensor:
        """Return the loss of a batch that is left out: the optimizer finds no gradient, and moves nothing."""
        if self.accelerator.sync_gradients:  # once a step, which the next event's mean is not taken over
            self._globalstep_last_logged += 1
        return torch.zeros((), device=self.args.device)

    def _go_back(self, failure: BadStep) -> None:
        """Stand at the newest checkpoint, from where the batch that failed is left out; raise where it may not be."""
        newest = self._checkpoints.newest() if self._checkpoints and self.rollback.may_go_back else None
        before = self.rollback.left_out
        if newest is None and before:
            raise RunFailed(f"{str(failure).rstrip('.')}. Batches left out before: {len(before)} (guard.rollback)")
        if newest is None:
            raise failure
        self.bars.stop()
        left_out = [*before, failure.left_out]
        self.stand_at(newest)
        self.rollback.left_out = left_out
        step, of = failure.left_out.step, f"{len(left_out)} of at most {self.rollback.limit}"
        self.rollback.tell(
            f"rollback from step {step}",
            f"{str(failure).rstrip('.')}. Training goes on from step {newest.step} and leaves the batch of step {step} "
            f"out, {of} (guard.rollback).",
        )

    def _begin(self) -> None:
        """As of `ResumableTraining`; have a checkpoint to go back to from the first step on."""
        super()._begin()
        if self.rollback.limit and self._snapshot is None:
            self._saved_at = -1
            self._save()

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **keywords: Any) -> None:
        """As of `ResumableTraining`; a step that is left out had no gradient."""
        norm = None if self.rollback.leaves_out(self.state.global_step) else grad_norm
        super()._maybe_log_save_evaluate(tr_loss, norm, *args, **keywords)

    def _finalize_training(self, *args: Any) -> Any:
        """As of `ResumableTraining`; the mean loss is that of the steps that were trained."""
        steps = self.state.global_step
        if trained := steps - len(self.rollback.left_out):  # the mean is over these
            self._total_loss_scalar *= steps / trained
            self._tr_loss *= steps / trained
        return super()._finalize_training(*args)
