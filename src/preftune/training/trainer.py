"""TRL's DPOTrainer with the loss from outside: with `kto.py` the only file that imports `trl`.

The stock trainer does the forward pass and its own metrics; this one takes the log-probabilities on their way
through, with those of the reference, and lets the run's own loss decide what is trained.
"""

import copy
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from torch import Tensor, nn
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from preftune.losses.catalogue import PairLoss
from preftune.losses.catalogue import pair_loss as losses
from preftune.losses.logps import PairLogps
from preftune.refusals import Refusal
from preftune.training import extras, metrics, verification
from preftune.training.callbacks import GradientGuard, ProgressBars
from preftune.training.preparation import Prepared
from preftune.training.settings import LossSettings, TrainSettings
from preftune.training.sides import Sides
from preftune.training.steps import Steps


def build_trainer(
    prepared: Prepared,
    train: TrainSettings,
    loss: LossSettings,
    reference: str,
    seed: int,
    directory: Path,
) -> "PairTrainer":
    """Set up training of what was prepared.

    Args:
        prepared: Pairs, policy, tokenizer, steps.
        train: Batches, epochs, and TRL's own settings.
        loss: Which loss, with its parameters.
        reference: `base` (the model without adapter) or `adapter` (the adapter as it was loaded).
        seed: Of the order of the pairs.
        directory: Where TRL may write.

    Raises:
        Refusal: The pairs do not carry what the loss reads, or TRL does not take `train`.
    """
    pair_loss, from_scratch = losses(loss.name, loss.model_dump(exclude={"name"}))
    extras.refuse_unfit(prepared, loss, pair_loss)
    return PairTrainer(
        prepared,
        trl_arguments(DPOConfig, train, prepared.steps, directory, beta=loss.reward_scale, seed=seed),
        pair_loss=extras.failing_plainly(pair_loss),
        from_scratch=from_scratch,
        reference=reference,
        reads=loss.reads,
    )


def trl_arguments(
    config: type[Any], train: TrainSettings, steps: Steps, directory: Path, *, seed: int, **parameters: float
) -> Any:
    """Return TRL's own settings: a `config` of what `train` passes through, the loss's `parameters`, and ours.

    Raises:
        Refusal: TRL does not take them on this machine.
    """
    has_cuda = torch.cuda.is_available()
    try:
        arguments = config(
            **{"dataloader_pin_memory": has_cuda, **train.dpo},
            **parameters,
            output_dir=str(directory),
            use_cpu=not has_cuda,
            seed=seed,
            data_seed=seed,
            gradient_accumulation_steps=steps.accumulation,
            report_to="none",
            save_strategy="no",
            remove_unused_columns=False,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
        )
    except (ValueError, ImportError) as error:
        raise Refusal(f"train must hold what trl.{config.__name__} takes on this machine, got: {error}") from error
    if "LOCAL_RANK" not in os.environ and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process drives one device; more would wrap the model in DataParallel
    return arguments


class PairTrainer(Sides, DPOTrainer):
    """Trains a policy on pairs with any `PairLoss`."""

    def __init__(
        self,
        prepared: Prepared,
        arguments: DPOConfig,
        *,
        pair_loss: PairLoss,
        from_scratch: PairLoss,
        reference: str,
        reads: tuple[str, ...] = (),
    ) -> None:
        """Set up the stock trainer; `build_trainer` says what the arguments are."""
        policy, chat = prepared.policy, prepared.chat
        trained = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
        is_adapter = isinstance(policy, PeftModel)
        super().__init__(
            model=policy,
            ref_model=None if is_adapter else copy.deepcopy(policy).requires_grad_(False),
            args=arguments,
            train_dataset=prepared.stream or prepared.rows.rows,
            eval_dataset=prepared.held_out.rows,
            processing_class=chat.tokenizer,
            data_collator=_Collator(chat.tokenizer.pad_token_id, arguments.max_length),
        )
        # TRL casts a quantised model's adapters to bfloat16, in which small updates round to zero.
        for name, parameter in policy.named_parameters():
            if name in trained:
                parameter.data = trained[name]
        if is_adapter and reference == "base":
            policy.delete_adapter("ref")
        self.precompute_ref_logps = True  # the stock loss reads the reference from the batch: compute_loss puts it
        self.pair_loss, self.from_scratch = pair_loss, from_scratch
        self.starts_at_reference = not is_adapter or reference == "adapter" or adds_nothing(policy)
        self.pairs = {"train": prepared.pairs.stream or prepared.pairs.train, "eval": prepared.pairs.held_out}
        self.extras = {split: extras.Extras(pairs.extras(), reads) for split, pairs in self.pairs.items()}
        self.seconds_in_reference = 0.0
        self.pairs_seen = 0
        self.tokens_seen = 0
        self.first_losses: list[Tensor] = []
        self._rows_of_step: list[int] = []
        self._losses_of_step: list[Tensor] = []
        self._step_under_way = 0
        self._evaluated: list[PairLogps] = []
        self.remove_callback(PrinterCallback)
        self.add_callback(GradientGuard(lambda: self._origins("train", self._rows_of_step)))
        self.add_callback(ProgressBars(Console()))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Return the mean of `pair_loss` over a micro-batch, after the stock forward pass and metrics.

        Raises:
            RunFailed: A loss is not finite, or the first step does not start at the reference.
        """
        logps = self._score(model, inputs)
        losses = self.pair_loss(logps)
        if self.model.training:
            self._before_update(logps, losses, inputs)
        else:
            self._evaluated.append(logps.detach())
            self._refuse_not_finite(losses, inputs, "eval")
        return losses.mean()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the beta-free metrics; over an evaluation every mean is taken over pairs, not over batches."""
        if not self.model.training and self._evaluated:
            logps = PairLogps.concatenate(self._evaluated)
            exact = metrics.pair_metrics(logps) | metrics.reward_metrics(logps, self.beta)
            exact["loss"] = self.pair_loss(logps).double().mean().item()
            self._metrics["eval"].update({name: [value] for name, value in exact.items()})
            self._evaluated = []
        super().log(logs, start_time)

    def verify_first_batch(self) -> verification.Verified:
        """Compare the first batch with the from-scratch reference, before anything is updated.

        Raises:
            RunFailed: They differ by more than the tolerance of the model's type.
        """
        inputs = self._prepare_inputs(next(iter(self.get_train_dataloader())))
        self.model.train()
        with torch.no_grad():
            trained = self._score(self.model, inputs)
            ours = verification.scratch_logps(self._policy_logits, self._reference_logits, inputs)
        self._metrics["train"].clear()
        self._total_train_tokens = 0
        self.seconds_in_reference = 0.0
        return verification.compare(trained, ours, self.pair_loss, self.from_scratch, self.model.dtype)

    def _score(self, model: nn.Module, inputs: dict[str, Tensor]) -> PairLogps:
        carried = self.extras["train" if self.model.training else "eval"].of(inputs["row"])
        inputs = {name: value for name, value in inputs.items() if name != "row"}
        started = time.perf_counter()
        reference = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        if self.model.training:
            self.seconds_in_reference += time.perf_counter() - started
        inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = reference
        outputs: list[Any] = []
        super().compute_loss(_recording(model, outputs), inputs)
        chosen, rejected = outputs[0].log_probs.sum(dim=1).chunk(2)
        lengths = inputs["completion_mask"][:, 1:].sum(dim=1).chunk(2)
        return PairLogps(chosen, rejected, *reference, *lengths, extras=carried)

    def _before_update(self, logps: PairLogps, losses: Tensor, inputs: dict[str, Tensor]) -> None:
        step = self.state.global_step
        if step != self._step_under_way:
            self._step_under_way, self._rows_of_step, self._losses_of_step = step, [], []
        self._rows_of_step += inputs["row"].tolist()
        self._refuse_not_finite(losses, inputs, "train")
        self._losses_of_step.append(losses.detach())
        if step == 0:
            self.first_losses.append(losses.detach())
            if self.starts_at_reference:
                verification.check_first_step(logps.detach(), self.pair_loss, self.model.dtype)
        self.pairs_seen += len(losses)
        self.tokens_seen += int(inputs["attention_mask"].sum())
        for name, value in metrics.pair_metrics(logps.detach()).items():
            self._metrics["train"][name].append(value)


class _Collator:
    """TRL's collator, with the rows' places beside its tensors."""

    def __init__(self, pad_token_id: int, max_length: int | None) -> None:
        self.collate = DataCollatorForPreference(pad_token_id=pad_token_id, max_length=max_length)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {**self.collate(rows), "row": torch.tensor([row["row"] for row in rows])}


def _recording(model: nn.Module, outputs: list[Any]) -> Callable[..., Any]:
    def forward(**inputs: Any) -> Any:
        outputs.append(model(**inputs))
        return outputs[-1]

    return forward


def adds_nothing(policy: PeftModel) -> bool:
    """True where the adapter adds nothing yet: every lora_B is zero, as in a fresh one."""
    return all(not p.any() for name, p in policy.named_parameters() if ".lora_B.default." in name)
