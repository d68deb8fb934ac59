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
        adapter = prepared.adapter if self.reference == "adapter" else None
        path, dtype = (adapter.path, adapter.dtype) if isinstance(adapter, LowRankSettings) else (None, None)
        key = reference_key(
            prepared.model,
            prepared.source,
            Path(path).expanduser() if path else None,
            computed_in=str(self.precision).removeprefix("torch."),
            adapter_dtype=dtype,
        )
        self._references, self.reference_computed = kept(
            ReferenceStore(cache_directory("reference") / key, self.console),
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
