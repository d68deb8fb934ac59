"""A trainer of pairs whose reference is computed before training, where it can be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preftune.caches import cache_directory
from preftune.losses.objective import Objective
from preftune.models.settings import LowRankSettings
from preftune.training import scoring
from preftune.training.checked import CheckedTraining
from preftune.training.preparation import Prepared
from preftune.training.reference import KeptReference, kept
from preftune.training.reference_keys import reference_key
from preftune.training.reference_store import ReferenceStore
from preftune.training.verification import TOLERANCE


class ReferencedTraining(CheckedTraining):
    """The reference beside the stock training step; stands before a trainer of TRL among the bases of a class.

    Attributes:
        micro_batch: Pairs held at once.
    """

    objective: Objective
    micro_batch: int
    data_collator: Any
    _prepare_inputs: Any

    def take_reference(self, prepared: Prepared, reference: str, *, kept: bool) -> None:
        """Set what the reference is.

        Args:
            prepared: What it is computed of.
            reference: `base` or `adapter`.
            kept: Whether to compute it once, before training.
        """
        self.prepared, self.reference = prepared, reference
        # divergences read the reference's distributions, which are not kept
        self._keeps_reference = kept and not prepared.stream and "kl" not in self.objective.traits.tokens
        self._references: dict[str, KeptReference] = {}

    def keep_reference(self) -> None:
        """Compute the reference's log-probabilities of all pairs, but for those kept of earlier runs."""
        if not self._keeps_reference:
            return
        prepared = self.prepared
        self._references, self.reference_computed = kept(
            ReferenceStore(
                reference_place(prepared, self.reference, self.precision),
                self.console,
                _described(prepared, self.reference),
            ),
            {"train": prepared.rows.rows, "eval": prepared.held_out.rows},
            self._reference_of,
            at_once=self.micro_batch,
            tolerance=TOLERANCE[self.precision],
            console=self.console,
        )

    @torch.no_grad()
    def _reference_of(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of rows under the reference, of shape `(2 B, T - 1)`, and their mask."""
        batch = self._prepare_inputs(self.data_collator(list(rows)))
        mask = batch["completion_mask"].bool()
        forward = self.engine.forward(self.ref_model or self.model, (), metrics=False)
        was_training = self.model.training
        self.model.eval()
        with self.acting_as_reference(), self.accelerator.autocast():
            outputs = forward(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                labels=batch["input_ids"].masked_fill(~mask, -100),
                use_cache=False,
                fused_lm_head=True,
            )
        self.model.train(was_training)
        return outputs.log_probs, mask[:, 1:]

    def _reference_pass(self, inputs: dict[str, Tensor], split: str) -> scoring.Recording | scoring.Replay:
        if split in self._references:
            log_probs = self._references[split].of(inputs["row"], inputs["completion_mask"][:, 1:].bool())
            return scoring.Replay(scoring.Kept(log_probs))
        forward = self.engine.forward(self.ref_model or self.model, self.objective.traits.tokens, metrics=False)
        return scoring.Recording(forward)


def reference_place(prepared: Prepared, reference: str, precision: torch.dtype) -> Path:
    """Return the directory where log-probabilities of a reference are kept, computed in `precision`."""
    adapter = _adapter_of(prepared, reference)
    key = reference_key(
        prepared.model,
        prepared.source,
        Path(adapter.path).expanduser() if adapter and adapter.path else None,
        computed_in=str(precision).removeprefix("torch."),
        adapter_dtype=adapter.dtype if adapter else None,
    )
    return cache_directory("reference") / key


def _adapter_of(prepared: Prepared, reference: str) -> LowRankSettings | None:
    adapter = prepared.adapter
    return adapter if reference == "adapter" and isinstance(adapter, LowRankSettings) else None


def _described(prepared: Prepared, reference: str) -> str:
    model, adapter = prepared.model, _adapter_of(prepared, reference)
    parts = [prepared.source.location, model.dtype, model.quantization, adapter and f"with {adapter.path}"]
    return ", ".join(part for part in parts if part)
