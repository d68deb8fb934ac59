"""Our KTO beside that of stock TRL: value, gradient to each answer's log-probability, and the mismatched answers.

Of docs/trl_differences.md the entries of `kto` are pinned here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaForCausalLM
from trl import KTOConfig, KTOTrainer

from preftune.losses.answers import AnswerLogps
from preftune.losses.kto import kto
from preftune.tokens.answers import mismatched
from preftune.training import dpo_keys
from tests import stock
from tests.parity.stock_loss import nats

# Tokens of prompt and answer: ragged, with answers of one token; and whether it is desirable.
ANSWERS = [(3, 7, True), (1, 1, False), (6, 4, True), (2, 1, True), (4, 9, False), (2, 12, True)]
ROWS = [
    {
        "prompt_ids": list(range(20 + place, 20 + place + prompt)),
        "completion_ids": list(range(50 + place, 50 + place + answer)),
        "label": label,
    }
    for place, (prompt, answer, label) in enumerate(ANSWERS)
]
TEXTS = [{"prompt": f"Ask {n}", "completion": f" say {n}", "label": n % 2 == 0} for n in range(6)]
LOGRATIOS = nats(0.0, 1.5, -4.0, 9.0, -0.3, 25.0)
Build = Callable[..., KTOTrainer]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build TRL's trainer on a two-layer model in float32, for the rows above, or with text that it tokenises."""
    path = stock.save_model(tmp_path_factory.mktemp("model"), stock.CHATML, dtype=torch.float32)

    def make(rows: list[dict[str, Any]] = TEXTS, batch: int = 6, **fields: float) -> KTOTrainer:
        arguments = KTOConfig(
            output_dir=str(path / "out"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            remove_unused_columns=False, per_device_train_batch_size=batch, **fields,
        )  # fmt: skip
        return KTOTrainer(
            model=LlamaForCausalLM.from_pretrained(path),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=stock.tokenizer(stock.CHATML),
        )

    return make


def rotated() -> list[dict[str, Any]]:
    answers = [row["completion_ids"] for row in ROWS]
    return [{**row, "KL_completion_ids": other} for row, other in zip(ROWS, [answers[-1], *answers[:-1]], strict=True)]


def stock_loss(trainer: KTOTrainer, moved: Tensor) -> tuple[float, Tensor, AnswerLogps]:
    """Return mean loss, gradient of shape (B,) and the record, for a reference that makes the log-ratios above."""
    trainer.precompute_ref_logps = True  # the reference is read from the batch, where we choose it
    batch = trainer.data_collator(rotated())
    outputs: list[Any] = []

    def recorded(**inputs: Any) -> Any:
        outputs.append(trainer.model(**inputs))
        if outputs[-1].log_probs.requires_grad:
            outputs[-1].log_probs.retain_grad()
        return outputs[-1]

    trainer.ref_model = trainer.model
    policy, apart = trainer.compute_ref_log_probs(trainer.model, batch)
    reference, reference_apart = policy - LOGRATIOS, apart - moved
    batch |= {"ref_logps": reference, "ref_KL_logps": reference_apart}
    loss = trainer.compute_loss(recorded, batch)
    loss.backward()
    tokens = [batch[f"{name}completion_mask"][:, 1:] for name in ("", "KL_")]
    # each token of an answer has the gradient of the sum; the mean is over answers
    per_token = outputs[1].log_probs.grad
    gradient = (per_token * tokens[0]).sum(dim=1) / tokens[0].sum(dim=1) * len(ROWS)
    lengths = [each.sum(dim=1) for each in tokens]
    return loss.item(), gradient, AnswerLogps(batch["label"], policy, reference, apart, reference_apart, *lengths)


@pytest.mark.parametrize(
    ("parameters", "moved"),
    [
        ({"beta": 0.1}, nats(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
        ({"beta": 0.1}, nats(4.0, 1.0, -1.0, 2.0, 8.0, 4.0)),
        ({"beta": 0.5, "desirable_weight": 1.3, "undesirable_weight": 0.7}, nats(4.0, 1.0, -1.0, 2.0, 8.0, 4.0)),
        ({"beta": 0.5, "desirable_weight": 0.5}, nats(-4.0, -1.0, -1.0, -2.0, -8.0, 1.0)),
    ],
)
def test_value_and_gradient_equal_those_of_stock_trl(build: Build, parameters: dict[str, float], moved: Tensor) -> None:
    value, gradient, record = stock_loss(build(**parameters), moved)
    policy = record.policy.clone().requires_grad_()
    costs = kto(dataclasses.replace(record, policy=policy), **parameters)
    (ours,) = torch.autograd.grad(costs.sum(), policy)
    assert record.lengths.tolist() == [answer for _, answer, _ in ANSWERS]
    assert costs.mean().item() == pytest.approx(value, rel=1e-6, abs=1e-6)
    torch.testing.assert_close(ours, gradient, rtol=1e-6, atol=1e-6)
    assert int((gradient.abs() > 1e-6).sum()) >= 5


@pytest.mark.parametrize("batch", [2, 4, 6])
def test_answers_to_different_prompts_stand_in_for_each_other_as_in_stock_trl(build: Build, batch: int) -> None:
    rows = build(batch=batch).train_dataset
    answers = rows["completion_ids"][:]
    assert rows["KL_completion_ids"][:] == [answers[place] for place in mismatched(np.arange(6), batch)]


def test_trl_sets_an_answer_that_is_alone_in_its_batch_against_itself(build: Build) -> None:
    last = build(batch=5).train_dataset[5]
    assert last["KL_completion_ids"] == last["completion_ids"]
    assert mismatched(np.arange(6), 5)[5] == 0


def test_trl_trains_on_the_chosen_answers_first_and_then_on_the_rejected(build: Build) -> None:
    pairs = [{"prompt": f"Ask {n}", "chosen": f" say {n}", "rejected": f" no {n}"} for n in range(8)]
    trainer = build(rows=pairs, batch=4)
    batches = [batch["label"].tolist() for batch in trainer.get_train_dataloader()]
    assert batches == [[True] * 4, [True] * 4, [False] * 4, [False] * 4]


def test_every_key_of_train_that_passes_to_dpo_passes_to_kto() -> None:
    fields = KTOConfig.__dataclass_fields__
    assert [key for key in dpo_keys.PASSED if key not in fields] == []
    assert {"beta", "desirable_weight", "undesirable_weight"} <= fields.keys()
