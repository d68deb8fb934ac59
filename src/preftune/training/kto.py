"""TRL's KTOTrainer with the loss from outside: single answers, each desirable or not.

The stock trainer does the forward passes and its own metrics. Which answers stand behind the prompts of others is
settled with the rows, in `preftune.tokens.answers`, and so holds for every epoch: the order is mixed once.
"""

import copy
import time
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from trl import KTOConfig, KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from preftune.losses import kto, scratch_kto
from preftune.losses.answers import AnswerLogps
from preftune.training import kto_verification, metrics
from preftune.training.arguments import trl_arguments
from preftune.training.checked import CheckedTraining, no_metrics
from preftune.training.engines import Stock
from preftune.training.kto_verification import AnswerLoss, AnswerSide
from preftune.training.loss_settings import KtoSettings
from preftune.training.preparation import Prepared
from preftune.training.settings import TrainSettings
from preftune.training.sources import Sources


def build_trainer(
    prepared: Prepared,
    train: TrainSettings,
    loss: KtoSettings,
    reference: str,
    verify: str,
    seed: int,
    directory: Path,
) -> "AnswerTrainer":
    """Set up training of the answers that were prepared, each alone.

    Args:
        prepared: Answers, policy, tokenizer, steps.
        train: Batches, epochs, and TRL's own settings.
        loss: The loss of single answers, with its parameters.
        reference: `base` (the model without adapter) or `adapter` (the adapter as it was loaded).
        verify: `first_batch`, `every_<n>` or `off`.
        seed: Of the order of the answers.
        directory: Where TRL may write.

    Raises:
        Refusal: All answers are to one prompt, or TRL does not take `train`.
    """
    parameters = loss.parameters()
    return AnswerTrainer(
        prepared,
        trl_arguments(KTOConfig, train, prepared.steps, directory, seed=seed, **parameters),
        answer_loss=partial(kto.kto, **parameters),
        from_scratch=partial(scratch_kto.kto, **parameters),
        reference=reference,
        verify=verify,
    )


class AnswerTrainer(CheckedTraining, KTOTrainer):
    """Trains a policy on single answers."""

    engine = Stock()

    def __init__(
        self,
        prepared: Prepared,
        arguments: KTOConfig,
        *,
        answer_loss: AnswerLoss,
        from_scratch: AnswerLoss,
        reference: str,
        verify: str,
    ) -> None:
        """Set up the stock trainer; `build_trainer` says what the arguments are."""
        policy, chat, answers = prepared.policy, prepared.chat, prepared.answers
        trained = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
        super().__init__(
            model=policy,
            ref_model=None if isinstance(policy, PeftModel) else copy.deepcopy(policy).requires_grad_(False),
            args=arguments,
            train_dataset=answers["train"].batches(arguments.per_device_train_batch_size, arguments.seed),
            eval_dataset=answers["eval"].batches(len(answers["eval"]), seed=None),
            processing_class=chat.tokenizer,
            data_collator=_Collator(chat.tokenizer.pad_token_id, arguments.max_length),
        )
        self.take_over(trained, reference)
        self.check_every(verify)
        self.pairs = self.answers = answers
        self.prepared = prepared
        self.cost, self.scratch_cost = answer_loss, from_scratch
        self.answers_seen = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Return the mean of the loss over a micro-batch, after the stock forward passes and metrics.

        Raises:
            RunFailed: A loss is not finite, or the first step does not start at the reference.
        """
        split = "train" if self.model.training else "eval"
        logps, stock, tokens = self._score(model, inputs, split)
        losses = self.cost(logps)
        if split == "train":
            self._before_update(logps.detach(), losses.detach(), inputs)
            self.keep_for_check(logps, losses.mean(), stock, tokens, inputs["completion_mask"])
        else:
            self.keep_evaluated(logps.detach(), inputs["row"])
            self.refuse_not_finite(losses, logps.logratio(), inputs, "eval")
        return losses.mean()

    @cached_property
    def sources(self) -> Sources:
        """The sources of the held-out pairs."""
        return Sources.of(self.prepared.pairs.held_out)

    def _training_metrics(self, logps: AnswerLogps) -> dict[str, float]:
        return metrics.answer_metrics(logps)

    def _evaluation_metrics(self, sums: AnswerLogps, rows: Tensor, own: AnswerLogps) -> dict[str, float]:
        """Of pairs where there are such; the shift is that of the whole."""
        exact = {**metrics.answer_reward_metrics(sums, self.beta), "loss": self.cost(own).double().mean().item()}
        if not self.answers["eval"].paired:
            return exact | metrics.answer_metrics(sums)
        pairs = metrics.pairs_of(sums)
        if self.sources.names:
            places = torch.from_numpy(self.answers["eval"].places)[rows.cpu()[0::2]]
            exact |= metrics.source_metrics(pairs, self.sources.at(places), self.sources.names)
        return exact | metrics.pair_metrics(pairs) | metrics.reward_metrics(pairs, self.beta)

    def _score(self, model: nn.Module, inputs: dict[str, Tensor], split: str) -> tuple[AnswerLogps, Tensor, Tensor]:
        """Return the record of a batch, TRL's own loss of it, and the log-probabilities of tokens behind both."""
        inputs = {name: value for name, value in inputs.items() if name != "row"}
        started = time.perf_counter()
        reference, reference_mismatched = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        if split == "train":
            self.seconds_in_reference += time.perf_counter() - started
        inputs["ref_logps"], inputs["ref_KL_logps"] = reference, reference_mismatched
        outputs: list[Tensor] = []

        def recorded(**asked: Any) -> Any:
            output = model(**asked)
            outputs.append(output.log_probs)
            return output

        stock = super().compute_loss(recorded, inputs)
        mismatched, matched = outputs  # the stock loss asks for the mismatched answers first
        sums = matched.sum(dim=1), reference, mismatched.sum(dim=1), reference_mismatched
        lengths = (inputs[f"{name}completion_mask"][:, 1:].sum(dim=1) for name in ("", "KL_"))
        return AnswerLogps(inputs["label"], *sums, *lengths), stock, matched

    def _score_apart(self, batch: dict[str, Tensor]) -> tuple[AnswerLogps, Tensor]:
        with self._set_for_a_while(_metrics=no_metrics(), _total_train_tokens=self._total_train_tokens):
            logps, stock, _ = self._score(self.model, batch, "train")
        return logps, stock

    def _scratch_side(self, batch: dict[str, Tensor]) -> AnswerSide:
        return AnswerSide(self.policy_logits, self.reference_logits, batch)

    def _before_update(self, logps: AnswerLogps, losses: Tensor, inputs: dict[str, Tensor]) -> None:
        self.count(losses, logps.logratio(), inputs)
        if self.state.global_step == self.rollback.first and self.starts_at_reference:
            kto_verification.check_first_step(logps, self.cost, self.precision)
        self.keep_trained(logps)
        self.answers_seen += len(losses)
        self.pairs_seen = self.answers_seen // 2  # two answers count as a pair


class _Collator:
    """TRL's collator, with the answers' places beside its tensors."""

    def __init__(self, pad_token_id: int, max_length: int | None) -> None:
        self.collate = DataCollatorForUnpairedPreference(pad_token_id=pad_token_id, max_length=max_length)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {**self.collate(rows), "row": torch.tensor([row["row"] for row in rows])}
