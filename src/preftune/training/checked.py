"""A trainer whose micro-batches are compared, as they train, with the from-scratch reference and TRL's own loss."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor, nn

from preftune.training import verification
from preftune.training.rollback import RollbackTraining
from preftune.training.sides import dropout_is_live


class CheckedTraining(RollbackTraining):
    """The check around the stock training step; stands before a trainer of TRL among the bases of a class.

    The class gives `_score_apart`, which scores a batch without a trace in its counts, and `_scratch_side`; it calls
    `keep_for_check` between the forward and the backward pass.

    Attributes:
        cost: Gives the cost of each pair or answer of a record, of shape `(B,)`.
        scratch_cost: The same from scratch.
        verified: What the last check compared; None before the first.
        console: Where a check prints its line.
    """

    cost: verification.Cost
    scratch_cost: verification.Cost
    console: Console
    args: Any
    current_gradient_accumulation_steps: float

    def check_every(self, verify: str) -> None:
        """Set when to check: `first_batch`, `every_<n>` steps, or `off`."""
        self.verified: verification.Verified | None = None
        self._verify = verify
        self._step_under_way = -1
        self._is_due = False
        self._kept: verification.Trained | None = None

    @property
    def precision(self) -> torch.dtype:
        """The type that the policy computes in."""
        if self.args.bf16:
            return torch.bfloat16
        return torch.float16 if self.args.fp16 else self.model.dtype

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Do the stock forward and backward pass of a micro-batch; where a check is due, compare what it gave.

        Raises:
            RunFailed: The check found a difference.
        """
        if self.leaves_out_step():
            return self.nothing_trained()
        step = self.state.global_step
        is_first = step != self._step_under_way
        self._step_under_way = step
        self._is_due = is_first and verification.is_due(self._verify, step, self.verified)
        if not self._is_due:
            return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc, no-any-return]
        batch = self._prepare_inputs(inputs)  # type: ignore[attr-defined]
        seconds = 0.0
        if dropout_is_live(self.model):
            started = time.perf_counter()
            logps, stock = self._without_dropout(batch)
            own = self.cost(logps).mean().item()
            self._kept = verification.Trained(logps, own, None if stock is None else stock.item())
            seconds = time.perf_counter() - started
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        started = time.perf_counter()
        verified = self._compared(batch)
        seconds += time.perf_counter() - started
        checks = self.verified.checks + 1 if self.verified else 1
        self.verified = replace(verified, seconds=seconds, checks=checks)
        self.console.print(Text(self.verified.describe()))
        return loss

    def keep_for_check(
        self, logps: Any, loss: Tensor, stock: Tensor | None, tokens: Tensor, completion_mask: Tensor
    ) -> None:
        """Keep what a micro-batch came to, before its backward pass, where its check is due.

        Args:
            logps: The record.
            loss: Its mean cost.
            stock: The same by TRL on the same forward pass; None where TRL has no such loss.
            tokens: The log-probabilities of tokens from which both were computed, of shape `(sequences, T - 1)`.
            completion_mask: 1 where a token belongs to the completion, of shape `(sequences, T)`.
        """
        if not self._is_due or self._kept is not None:
            return
        self._kept = verification.Trained(logps.detach(), loss.item())
        if stock is not None:
            ours, theirs = (torch.autograd.grad(each, tokens, retain_graph=True)[0] for each in (loss, stock))
            largest = ours.abs().max().clamp(min=1e-12)
            apart = (((ours - theirs) * completion_mask[:, 1:]).abs().max() / largest).item()
            self._kept = replace(self._kept, trl=stock.item(), trl_slopes=apart)

    def _compared(self, batch: dict[str, Tensor]) -> verification.Verified:
        trained: verification.Trained = self._kept  # type: ignore[assignment]  # kept by the step before
        self._kept = None
        moving = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        side = self._scratch_side(batch)
        random = dropout_is_live(self.model)
        # reentrant checkpointing gives torch.autograd.grad nothing; where nothing is random eval() computes the same
        self.model.train(not random and not (self.args.activation_checkpointing_kwargs or {}).get("use_reentrant"))
        ours = side.logps(trained.logps)
        norm = None
        if not random and self.accelerator.num_processes == 1:
            expected = side.gradient(self.scratch_cost, ours, moving)
            norm = torch.nn.utils.get_total_norm(expected).item()
            got = self._gradient_norm(moving)
            if math.isfinite(got):  # else the guard says what it is before the optimizer moves
                trained = replace(trained, gradient_norm=got, gradient_cosine=_cosine(moving, expected))
        self.model.train()
        return verification.compare(trained, ours, side, self.scratch_cost, norm, self.precision)

    def _gradient_norm(self, moving: list[nn.Parameter]) -> float:
        """Return the norm of the gradient of the micro-batch's mean, from what its backward pass left."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in moving if p.grad is not None]).item()
        return norm * self.current_gradient_accumulation_steps / self.loss_scale()

    @torch.no_grad()
    def _without_dropout(self, batch: dict[str, Tensor]) -> tuple[Any, Tensor | None]:
        self.model.eval()
        found = self._score_apart(batch)
        self.model.train()
        return found

    def _score_apart(self, batch: dict[str, Tensor]) -> tuple[Any, Tensor | None]:
        """Return the record of a batch and TRL's loss of it, None where it has none, without a trace in any count."""
        raise NotImplementedError

    def _scratch_side(self, batch: dict[str, Tensor]) -> verification.Side:
        raise NotImplementedError

    @contextmanager
    def _set_for_a_while(self, **attributes: Any) -> Iterator[None]:
        kept = {name: getattr(self, name) for name in attributes}
        vars(self).update(attributes)
        try:
            yield
        finally:
            vars(self).update(kept)


def _cosine(moving: list[nn.Parameter], expected: list[Tensor]) -> float:
    """Return the cosine of the angle between what a backward pass left and the expected gradient."""
    both = [(p.grad.float(), other) for p, other in zip(moving, expected, strict=True) if p.grad is not None]
    product = torch.stack([(left * other).sum() for left, other in both]).sum()
    norms = torch.nn.utils.get_total_norm([left for left, _ in both]) * torch.nn.utils.get_total_norm(expected)
    return (product / norms).item()


def no_metrics() -> dict[str, dict[str, list[float]]]:
    """Return what TRL's trainers collect their metrics in, empty."""
    return {"train": defaultdict(list), "eval": defaultdict(list)}
