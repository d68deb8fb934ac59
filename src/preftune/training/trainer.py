"""TRL's DPOTrainer with the loss from outside: with `kto.py` the only file that imports `trl`.

The stock trainer does the forward pass and its own metrics; this one takes the log-probabilities on their way
through, with those of the reference, and lets the run's own objective decide what is trained.
"""

import copy
import time
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from preftune.data.table import PairTable
from preftune.engine.packing import part_of
from preftune.losses.logps import PairLogps
from preftune.losses.objective import Objective
from preftune.training import engines, extras, metrics, scoring, verification
from preftune.training.arguments import trl_arguments
from preftune.training.callbacks import StepEnd
from preftune.training.checked import no_metrics
from preftune.training.loss_settings import PairLossSettings
from preftune.training.objectives import build_objective, trl_fields
from preftune.training.preparation import Prepared
from preftune.training.referenced import ReferencedTraining
from preftune.training.scratch_side import PairSide
from preftune.training.settings import TrainSettings
from preftune.training.sources import Sources


def build_trainer(
    prepared: Prepared,
    train: TrainSettings,
    loss: PairLossSettings,
    reference: str,
    engine: str,
    verify: str,
    seed: int,
    directory: Path,
) -> "PairTrainer":
    """Set up training of what was prepared.

    Args:
        prepared: Pairs, policy, tokenizer, steps.
        train: Batches, epochs, and TRL's own settings.
        loss: Which loss, with its parameters.
        reference: `base` (the model without adapter) or `adapter` (the adapter as it was loaded).
        engine: `trl`, `shared`, or `auto`.
        verify: `first_batch`, `every_<n>` or `off`.
        seed: Of the order of the pairs.
        directory: Where TRL may write.

    Raises:
        Refusal: TRL does not take `train`, or `engine` does not suit model or loss.
    """
    objective = build_objective(loss)
    arguments = trl_arguments(DPOConfig, train, prepared.steps, directory, seed=seed, beta=loss.reward_scale)
    arguments.use_weighting = "collision" in objective.traits.tokens  # then the fused head gives what it reads
    # the loader hands out whole steps, which the trainer parts into micro-batches itself
    arguments.per_device_train_batch_size *= arguments.gradient_accumulation_steps
    arguments.gradient_accumulation_steps = 1
    stock = trl_fields(loss)
    arguments.discopop_tau = (stock or {}).pop("tau", arguments.discopop_tau)
    trainer = PairTrainer(
        prepared,
        arguments,
        objective=objective,
        stock=stock,
        reference=reference,
        verify=verify,
        micro_batch=train.micro_batch,
        tokens_per_batch=train.tokens_per_batch,
        keeps_reference=engine != "trl",
        reads=loss.reads,
    )
    engines.choose(trainer, engine, train.max_length)
    return trainer


_REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class PairTrainer(ReferencedTraining, DPOTrainer):
    """Trains a policy on pairs with any objective.

    Attributes:
        objective: What is minimised.
        engine: What computes the log-probabilities.
    """

    objective: Objective
    engine: engines.Engine

    def __init__(
        self,
        prepared: Prepared,
        arguments: DPOConfig,
        *,
        objective: Objective,
        stock: dict[str, Any] | None,
        reference: str,
        verify: str,
        micro_batch: int,
        tokens_per_batch: int | None = None,
        keeps_reference: bool = False,
        reads: tuple[str, ...] = (),
    ) -> None:
        """Set up the stock trainer; `build_trainer` says what the arguments are, `trl_fields` what `stock` is."""
        policy, chat = prepared.policy, prepared.chat
        trained = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
        super().__init__(
            model=policy,
            ref_model=None if isinstance(policy, PeftModel) else copy.deepcopy(policy).requires_grad_(False),
            args=arguments,
            train_dataset=prepared.stream or prepared.rows.rows,
            eval_dataset=prepared.held_out.rows,
            processing_class=chat.tokenizer,
            data_collator=_Collator(chat.tokenizer.pad_token_id, arguments.max_length),
        )
        self.take_over(trained, reference)
        self.check_every(verify)
        self.objective, self.stock = objective, stock
        self.parts["objective"] = objective
        self.take_reference(prepared, reference, kept=keeps_reference)
        self.micro_batch, self.tokens_per_batch = micro_batch, tokens_per_batch
        self.engine = engines.Stock()
        self.cost, self.scratch_cost = objective, objective.from_scratch
        self.pairs = {"train": prepared.pairs.stream or prepared.pairs.train, "eval": prepared.pairs.held_out}
        self.extras = {split: extras.Extras(pairs.extras(), reads) for split, pairs in self.pairs.items()}
        self.add_callback(StepEnd(objective.advance))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Do the forward and backward passes of a step, micro-batch by micro-batch; return its mean cost.

        The gradient is that of the mean over all of the step's pairs, whatever micro-batches they fall into.
        """
        if self.leaves_out_step():
            return self.nothing_trained()
        batch = self._prepare_inputs(inputs)
        pairs = len(batch["row"])
        parts = self.engine.parts(batch, self.micro_batch, self.tokens_per_batch)
        losses: list[Tensor] = []
        for part in parts:
            self.current_gradient_accumulation_steps = pairs / len(part)  # by which the stock step divides
            is_last = len(losses) == len(parts) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, part_of(batch, part), num_items_in_batch))
        metrics.merge(self._metrics["train"], [len(part) / pairs for part in parts])
        return torch.stack(losses).sum()

    def first_batch(self) -> dict[str, Tensor]:
        """Return the first pairs to train on, as many as a micro-batch holds."""
        rows = self.prepared.rows.rows
        rows = rows.select(range(min(self.micro_batch, len(rows))))
        batch: dict[str, Tensor] = self._prepare_inputs(self.data_collator(list(rows)))
        return batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Return the mean of the objective over a micro-batch, after the stock forward pass and metrics.

        Raises:
            RunFailed: A loss is not finite, the first step does not start at the reference, or the objective cannot
                take these pairs.
        """
        split = "train" if self.model.training else "eval"
        logps, passes = self._score(model, inputs, split)
        with extras.failing_plainly():
            losses = self.objective(logps)
        if split == "train":
            self._before_update(logps.detach(), losses.detach(), inputs)
            stock = self._stock_loss(logps, passes, inputs)
            tokens = passes[0].outputs.log_probs
            self.keep_for_check(logps, losses.mean(), stock, tokens, inputs["completion_mask"])
        else:
            self.keep_evaluated(logps.detach(), inputs["row"])
            self.refuse_not_finite(losses, logps.margin(), inputs, "eval")
        return losses.mean()

    @cached_property
    def sources(self) -> Sources:
        """The sources of the held-out pairs."""
        return Sources.of(self.prepared.pairs.held_out, self.extras["eval"].columns.get("source"))

    def _training_metrics(self, logps: PairLogps) -> dict[str, float]:
        return metrics.pair_metrics(logps)

    def _evaluation_metrics(self, sums: PairLogps, rows: Tensor, own: PairLogps) -> dict[str, float]:
        exact = metrics.pair_metrics(sums) | metrics.reward_metrics(sums, self.beta)
        if self.sources.names:
            exact |= metrics.source_metrics(sums, self.sources.at(rows), self.sources.names)
        return exact | metrics.term_metrics(self.objective, own) | {"loss": self.objective(own).double().mean().item()}

    def _score(
        self, model: nn.Module, inputs: dict[str, Tensor], split: str
    ) -> tuple[PairLogps, tuple[scoring.Scored, scoring.Scored]]:
        """Return the record of a batch, and the forward passes of policy and reference."""
        traits = self.objective.traits
        batch = {name: value for name, value in inputs.items() if name != "row"}
        started = time.perf_counter()
        reference = self._reference_pass(inputs, split)
        sides = self.compute_ref_log_probs(reference, batch)
        if split == "train":
            self.seconds_in_reference += time.perf_counter() - started
        policy = scoring.Recording(self.engine.forward(model, traits.tokens, metrics=True))
        super().compute_loss(policy, batch | dict(zip(_REFERENCE_COLUMNS, sides, strict=True)))
        passes = policy.scored, reference.scored
        carried = self.extras[split].of(inputs["row"])
        heads = self.policy_logps, self.reference_logps
        return scoring.pair_logps(*passes, batch["completion_mask"], carried, traits, heads), passes

    def _score_apart(self, batch: dict[str, Tensor]) -> tuple[PairLogps, Tensor | None]:
        with self._set_for_a_while(_metrics=no_metrics(), _total_train_tokens=self._total_train_tokens):
            logps, passes = self._score(self.model, batch, "train")
        return logps, self._stock_loss(logps, passes, batch)

    def _scratch_side(self, batch: dict[str, Tensor]) -> PairSide:
        kl = "kl" in self.objective.traits.tokens
        pairs = self.pairs["train"]
        rows = [pairs[row] for row in batch["row"].tolist()] if isinstance(pairs, PairTable) else None
        return PairSide(self.policy_logits, self.reference_logits, batch, kl=kl, pairs=rows)

    def _stock_loss(
        self, logps: PairLogps, passes: tuple[scoring.Scored, scoring.Scored], inputs: dict[str, Tensor]
    ) -> Tensor | None:
        """Return TRL's own loss on forward passes that are done, where a check is due and TRL has the loss."""
        weights = logps.extras.get("weight")
        if not self._is_due or self.stock is None or (weights is not None and not bool(weights.isnan().all())):
            return None
        batch = {name: value for name, value in inputs.items() if name != "row"}
        apart = {"_metrics": no_metrics(), "_total_train_tokens": self._total_train_tokens}
        with self._set_for_a_while(**self.stock, **apart):
            policy, reference = (scoring.Replay(each.outputs) for each in passes)
            sides = self.compute_ref_log_probs(reference, batch)
            stock: Tensor = super().compute_loss(policy, batch | dict(zip(_REFERENCE_COLUMNS, sides, strict=True)))
        return stock

    def _before_update(self, logps: PairLogps, losses: Tensor, inputs: dict[str, Tensor]) -> None:
        self.count(losses, logps.margin(), inputs)
        if self.state.global_step == self.rollback.first and self.starts_at_reference:
            verification.check_first_step(logps, self.objective, self.precision)
        self.objective.observe(logps)
        self.pairs_seen += len(losses)
        self.keep_trained(logps)
        for name, value in metrics.term_metrics(self.objective, logps).items():
            self._metrics["train"][name].append(value)


class _Collator:
    """TRL's collator, with the rows' places beside its tensors."""

    def __init__(self, pad_token_id: int, max_length: int | None) -> None:
        self.collate = DataCollatorForPreference(pad_token_id=pad_token_id, max_length=max_length)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {**self.collate(rows), "row": torch.tensor([row["row"] for row in rows])}
