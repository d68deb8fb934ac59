"""What the trainers of pairs and of single answers share: who acts as policy and as reference, and what is counted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn

from preftune.refusals import RunFailed
from preftune.training import metrics
from preftune.training.callbacks import OnStep, Reporter, Sink, not_finite


class Origins(Protocol):
    """What knows where each of its rows came from."""

    def origin(self, place: int) -> str:
        """Return where the row at `place` came from."""


class Sides:
    """Part of a trainer of TRL's.

    Attributes:
        pairs: What is trained on and evaluated, by split, to tell where a row came from.
        first_losses: Costs of the first step.
        pairs_seen: Pairs trained on, each as often as it came.
        tokens_seen: Tokens of prompts and answers in those.
        seconds_in_reference: Wall-clock seconds spent on the reference while training.
    """

    model: Any
    ref_model: Any
    accelerator: Any
    state: Any
    add_callback: Any
    pairs: Mapping[str, Origins]
    first_losses: list[Tensor]
    pairs_seen: int
    tokens_seen: int
    seconds_in_reference: float
    _losses_of_step: list[Tensor]

    def report_to(self, on_step: OnStep, *sinks: Sink) -> None:
        """Tell `on_step` after each optimizer step how many are done, of how many; hand each log event to `sinks`."""
        self.add_callback(Reporter(on_step, sinks))

    def totals(self) -> metrics.Totals:
        """Return what was counted; for after training."""
        return metrics.Totals(
            loss_first=torch.cat(self.first_losses).double().mean().item(),
            loss_last=torch.cat(self._losses_of_step).double().mean().item(),
            steps=self.state.global_step,
            pairs=self.pairs_seen,
            tokens=self.tokens_seen,
            seconds_in_reference=self.seconds_in_reference,
        )

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

    def _refuse_not_finite(self, losses: Tensor, inputs: dict[str, Tensor], split: str) -> None:
        bad = ~torch.isfinite(losses)
        if bool(bad.any()):
            rows = self._origins(split, inputs["row"][bad].tolist())
            raise RunFailed(not_finite("loss", self.state.global_step + 1, rows))

    def _origins(self, split: str, places: list[int]) -> list[str]:
        return [self.pairs[split].origin(place) for place in places]


def _next_token(model: nn.Module, hidden: Tensor) -> Tensor:
    head = causal(model).get_output_embeddings()
    return head(hidden).float().log_softmax(dim=-1)  # type: ignore[no-any-return]


def causal(model: Any) -> Any:
    """Return the language model itself, without the adapter around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def adds_nothing(policy: PeftModel) -> bool:
    """True where the adapter adds nothing yet: every lora_B is zero, as in a fresh one."""
    return all(not p.any() for name, p in policy.named_parameters() if ".lora_B.default." in name)


def dropout_is_live(model: nn.Module) -> bool:
    """True where a forward pass in training mode is drawn at random."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
