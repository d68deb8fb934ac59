"""The two models of a training: the policy, and the reference that lies in it or beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn


class PolicyAndReference:
    """What a trainer of TRL can stand for, from its `model`, its `ref_model` and the adapter named `ref`."""

    model: nn.Module
    ref_model: nn.Module | None
    accelerator: Any

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


def _next_token(model: nn.Module, hidden: Tensor) -> Tensor:
    head = causal(model).get_output_embeddings()
    return head(hidden).float().log_softmax(dim=-1)  # type: ignore[no-any-return]


def causal(model: Any) -> Any:
    """Return the language model itself, without the adapter around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def is_zero(policy: PeftModel) -> bool:
    """True where the adapter adds nothing yet: every lora_B is zero, as in a fresh one."""
    return all(not p.any() for name, p in policy.named_parameters() if ".lora_B.default." in name)


def dropout_is_live(model: nn.Module) -> bool:
    """True where a forward pass in training mode is drawn at random."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
