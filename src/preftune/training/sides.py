"""What the trainers of pairs and of single answers share: who acts as policy and as reference, and what is counted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from peft import PeftModel
from rich.console import Console
from torch import Tensor, nn
from transformers import PrinterCallback

from preftune.engine.shared import causal_model, logits_of
from preftune.refusals import RunFailed
from preftune.training import metrics
from preftune.training.bad_steps import BadStep, Rollback
from preftune.training.callbacks import OnStep, ProgressBars, Reporter, Sink
from preftune.training.engines import Engine
from preftune.training.guard import FiniteGuard, not_finite_sentence


class Origins(Protocol):
    """What knows where each of its rows came from."""

    def origin(self, place: int) -> str:
        """Return where the row at `place` came from."""


class Sides:
    """Part of a trainer of TRL's.

    Attributes:
        engine: What computes the log-probabilities.
        guard: Stops the training on numbers that are not finite.
        rollback: How often the training may go back from such a step.
        bars: Show how far it is.
        pairs: What is trained on and evaluated, by split, to tell where a row came from.
        first_losses: Costs of the first step.
        pairs_seen: Pairs trained on, each as often as it came.
        tokens_seen: Tokens of prompts and answers in those.
        seconds_in_reference: Wall-clock seconds spent on the reference while training.
        seconds_in_evaluation: Wall-clock seconds spent on evaluation while training.
        reference_computed: Pairs whose reference was computed before training.
        starts_at_reference: Whether the policy is its reference before the first update.
        console: Where the bars are drawn.
    """

    model: Any
    ref_model: Any
    accelerator: Any
    args: Any
    state: Any
    add_callback: Any
    remove_callback: Any
    engine: Engine
    pairs: Mapping[str, Origins]
    first_losses: list[Tensor]
    pairs_seen: int
    tokens_seen: int
    seconds_in_reference: float
    seconds_in_evaluation: float
    reference_computed: int

    def take_over(self, trained: Mapping[str, Tensor], reference: str) -> None:
        """Mend what TRL's own set-up did to the models, and begin to count.

        Args:
            trained: What trains, by name, as it was before.
            reference: `base` or `adapter`.
        """
        # TRL casts a quantised model's adapters to bfloat16, in which small updates round to zero.
        for name, parameter in self.model.named_parameters():
            if name in trained:
                parameter.data = trained[name]
        is_adapter = isinstance(self.model, PeftModel)
        if is_adapter and reference == "base":
            self.model.delete_adapter("ref")
        self.precompute_ref_logps = True  # the stock loss reads the reference from the batch: _score puts it there
        self.starts_at_reference = not is_adapter or reference == "adapter" or _adds_nothing(self.model)
        self.seconds_in_reference = self.seconds_in_evaluation = 0.0
        self._sinks: tuple[Sink, ...] = ()
        self.pairs_seen = self.tokens_seen = self.reference_computed = 0
        self.first_losses = []
        self._rows_of_step: list[int] = []
        self._losses_of_step: list[Tensor] = []
        self._step_of_losses = 0
        self.console = Console()
        self.remove_callback(PrinterCallback)
        self.guard = FiniteGuard(lambda: self._origins("train", self._rows_of_step), self.loss_scale)
        self.add_callback(self.guard)
        self.rollback = Rollback()
        self.bars = ProgressBars(self.console)
        self.add_callback(self.bars)

    def count(self, losses: Tensor, log_ratios: Tensor, inputs: dict[str, Tensor]) -> None:
        """Take note of a micro-batch before its update.

        Args:
            losses: Costs of its pairs or answers, of shape `(B,)`.
            log_ratios: What they come from, of shape `(B,)`, in nats.
            inputs: The micro-batch.

        Raises:
            BadStep: A loss or a log-ratio is not finite.
        """
        step = self.state.global_step
        if step != self._step_of_losses:
            self._step_of_losses, self._rows_of_step, self._losses_of_step = step, [], []
        self._rows_of_step += inputs["row"].tolist()
        self.refuse_not_finite(losses, log_ratios, inputs, "train")
        self._losses_of_step.append(losses)
        if step == self.rollback.first:
            self.first_losses.append(losses)
        self.tokens_seen += int(inputs["attention_mask"].sum())

    def report_to(self, on_step: OnStep, *sinks: Sink) -> None:
        """Tell `on_step` after each optimizer step how many are done, of how many; hand each log event to `sinks`."""
        self._sinks = sinks
        self.add_callback(Reporter(on_step, sinks))

    def report(self, measured: Mapping[str, float]) -> None:
        """Hand what was measured beside the trainer's own events to the sinks, at the step that is done."""
        for sink in self._sinks:
            sink(measured, self.state.global_step)

    def totals(self) -> metrics.Totals:
        """Return what was counted; for after training."""
        return metrics.Totals(
            loss_first=torch.cat(self.first_losses).double().mean().item(),
            loss_last=torch.cat(self._losses_of_step).double().mean().item(),
            steps=self.state.global_step,
            pairs=self.pairs_seen,
            tokens=self.tokens_seen,
            seconds_in_reference=self.seconds_in_reference,
            seconds_in_evaluation=self.seconds_in_evaluation,
            reference_computed=self.reference_computed,
            engine=self.engine.name,
            overflowed=self.guard.skipped,
        )

    def keep_reference(self) -> None:
        """Compute what is wanted of the reference before training, where that can be."""

    @contextmanager
    def acting_as_policy(self) -> Iterator[nn.Module]:
        """Yield the model that stands for the policy."""
        yield self.accelerator.unwrap_model(self.model)

    @contextmanager
    def acting_as_reference(self) -> Iterator[nn.Module]:
        """Yield the model that stands for the reference, with its adapter state set for the while."""
        policy = self.accelerator.unwrap_model(self.model)
        if self.ref_model is not None:
            yield self.ref_model
        elif "ref" in policy.peft_config:
            policy.set_adapter("ref")
            try:
                yield policy
            finally:
                policy.set_adapter("default")
        else:
            with policy.disable_adapter():
                yield policy

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # the rows are token ids already, each of them checked

    def policy_logps(self, hidden: Tensor) -> Tensor:
        """Return the policy's log-probabilities of the next token, of shape `(N, V)`, from its last hidden states."""
        return _next_token(self.accelerator.unwrap_model(self.model), hidden)

    def reference_logps(self, hidden: Tensor) -> Tensor:
        """Return the reference's log-probabilities of the next token, of shape `(N, V)`, from its hidden states."""
        with torch.no_grad(), self.acting_as_reference() as reference:
            return _next_token(reference, hidden)

    def policy_logits(self, ids: Tensor) -> Tensor:
        """Return the policy's logits, of shape `(1, T, V)`, for ids of shape `(1, T)`."""
        return self.model(input_ids=ids, use_cache=False).logits  # type: ignore[no-any-return]

    def reference_logits(self, ids: Tensor) -> Tensor:
        """Return the reference's logits, of shape `(1, T, V)`, for ids of shape `(1, T)`."""
        with self.acting_as_reference() as reference:
            return reference(input_ids=ids, use_cache=False).logits  # type: ignore[no-any-return]

    def loss_scale(self) -> float:
        """Return what the loss is multiplied by for its backward pass: 1 but in float16."""
        scaler = self.accelerator.scaler
        return 1.0 if scaler is None else float(scaler.get_scale())

    def loss_of_step(self) -> float:
        """Return the mean cost of the last step, over all processes."""
        costs = torch.cat(self._losses_of_step).double()
        ours = torch.stack([costs.sum(), torch.full_like(costs[0], len(costs))])
        total, count = self.accelerator.gather(ours[None]).sum(dim=0).tolist()
        return float(total / count)

    def costs_of_step(self) -> list[tuple[float, str]]:
        """Return the costs of the last step's rows here, with where they came from, the costliest first."""
        costs = torch.cat(self._losses_of_step).tolist()
        return sorted(zip(costs, self._origins("train", self._rows_of_step), strict=True), key=lambda row: -row[0])

    def refuse_not_finite(self, losses: Tensor, log_ratios: Tensor, inputs: dict[str, Tensor], split: str) -> None:
        """Refuse a loss that is not finite, or what it comes from: a log-ratio of -inf may cost 0.

        Raises:
            BadStep: One is not, of a step.
            RunFailed: One is not, of an evaluation.
        """
        for what, values in (("loss", losses), ("log-ratio", log_ratios)):
            bad = ~torch.isfinite(values)
            if bool(bad.any()):
                rows = self._origins(split, inputs["row"][bad].tolist())
                step, training = self.state.global_step, split == "train"
                sentence = not_finite_sentence(what, step, rows, self.args.output_dir, training=training)
                raise BadStep(sentence, step + 1, what, rows) if training else RunFailed(sentence)

    def _origins(self, split: str, places: list[int]) -> list[str]:
        return [self.pairs[split].origin(place) for place in places]


def _next_token(model: nn.Module, hidden: Tensor) -> Tensor:
    return logits_of(causal_model(model), hidden).float().log_softmax(dim=-1)


def _adds_nothing(policy: PeftModel) -> bool:
    """True where the adapter adds nothing yet: every lora_B is zero, as in a fresh one."""
    return all(not p.any() for name, p in policy.named_parameters() if ".lora_B.default." in name)


def dropout_is_live(model: nn.Module) -> bool:
    """True where a forward pass in training mode is drawn at random."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
