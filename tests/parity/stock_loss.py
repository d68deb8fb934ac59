"""The loss of stock TRL and its gradient, through its real trainer on a two-layer model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaForCausalLM
from trl import DPOConfig, DPOTrainer

from preftune.losses import catalogue
from preftune.losses.logps import PairLogps
from tests import stock

# Tokens of prompt, chosen and rejected: ragged, with answers of one token on either side and on both.
LENGTHS = [(3, 7, 2), (1, 1, 5), (6, 4, 1), (2, 1, 1), (4, 3, 9), (2, 12, 6)]
ROWS = [
    {
        "prompt_ids": list(range(20, 20 + prompt)),
        "chosen_ids": list(range(50, 50 + chosen)),
        "rejected_ids": list(range(80, 80 + rejected)),
    }
    for prompt, chosen, rejected in LENGTHS
]
# The fields of DPOConfig that stand for parameters of another name.
FIELDS = {"tau": "discopop_tau"}
Stock = Callable[..., "StockLoss"]


class StockLoss:
    """TRL's loss of a batch, with its gradient to each answer's log-probability under the policy."""

    def __init__(self, trainer: DPOTrainer) -> None:
        self.trainer = trainer
        trainer.precompute_ref_logps = True  # the reference is read from the batch, where we choose it
        self.batch = trainer.data_collator(ROWS)

    def __call__(self, chosen: Tensor, rejected: Tensor) -> tuple[float, Tensor, PairLogps]:
        """Return mean loss, gradient of shape (2, B) and the record, for a reference that makes these log-ratios."""
        outputs: list[Any] = []

        def recorded(**inputs: Any) -> Any:
            outputs.append(self.trainer.model(**inputs))
            outputs[-1].log_probs.retain_grad()
            return outputs[-1]

        with torch.no_grad():
            first = self.trainer.model(
                input_ids=self.batch["input_ids"],
                attention_mask=self.batch["attention_mask"],
                labels=self.batch["input_ids"].masked_fill(self.batch["completion_mask"] == 0, -100),
                fused_lm_head=True,
            )
        policy = first.log_probs.sum(dim=1).chunk(2)
        reference = policy[0] - chosen, policy[1] - rejected
        batch = {**self.batch, "ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1]}
        loss = self.trainer.compute_loss(recorded, batch)
        loss.backward()
        # each token of an answer has the gradient of the sum; the mean is over pairs
        answers = self.batch["completion_mask"][:, 1:]
        per_token = outputs[0].log_probs.grad
        gradient = (per_token * answers).sum(dim=1) / answers.sum(dim=1) * len(LENGTHS)
        return loss.item(), torch.stack(gradient.chunk(2)), PairLogps(*policy, *reference, *answers.sum(dim=1).chunk(2))


def stock_losses(path: Path) -> Stock:
    """Return what builds TRL's trainer with a loss and its parameters, on the model at `path`."""
    rows = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}])  # the trainer asks for some

    def build(name: str, **fields: float | str) -> StockLoss:
        settings = {FIELDS.get(field, field): number for field, number in fields.items()}
        arguments = DPOConfig(
            output_dir=str(path / "out"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            remove_unused_columns=False, loss_type=[name], **settings,
        )  # fmt: skip
        return StockLoss(
            DPOTrainer(
                model=LlamaForCausalLM.from_pretrained(path),
                args=arguments,
                train_dataset=rows,
                processing_class=stock.tokenizer(stock.CHATML),
            )
        )

    return build


def ours_at(
    name: str,
    parameters: dict[str, float],
    record: PairLogps,
    rewards: Callable[[PairLogps], PairLogps] = lambda record: record,
) -> tuple[Tensor, Tensor]:
    """Return our costs of shape (B,) and their gradient of shape (2, B), in the type of the record.

    `rewards` is what changes the record before the loss.
    """
    policy = [side.clone().requires_grad_() for side in (record.policy_chosen, record.policy_rejected)]
    reference = record.reference_chosen, record.reference_rejected
    pair_loss, _ = catalogue.pair_loss(name, parameters)
    costs = pair_loss(rewards(PairLogps(*policy, *reference, *record.lengths())))
    return costs.detach(), torch.stack(torch.autograd.grad(costs.sum(), policy, materialize_grads=True))


def nats(*values: float) -> Tensor:
    """Return log-ratios in float32."""
    return torch.tensor(values, dtype=torch.float32)
