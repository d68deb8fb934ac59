"""Stock TRL and ours side by side on the same weights and the same batch, for every way to hold the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer

from preftune.models.policy import load_policy
from preftune.models.settings import FullSettings, LowRankSettings
from preftune.models.source import locate
from preftune.training.loss_settings import LossSettings
from preftune.training.preparation import prepare
from preftune.training.settings import TrainSettings
from preftune.training.trainer import PairTrainer, build_trainer
from tests import stock

KINDS = ("full", "lora", "nf4")
# Prompt, chosen, rejected: ragged, and of one token (the end token alone) on either side and on both.
TEXTS = [
    ("Please write a short", " answer to this", ""),
    ("a question", "", " and the"),
    ("say why", "", ""),
    ("the weather?", " it is right, and lazy", " ask"),
    ("fox", " dog", " the quick brown fox jumps"),
    ("turn header", " Human Assistant", " over"),
    ("think that it", " is", " this question about"),
    ("The", " prompt chosen", " end"),
]
PAIRS = len(TEXTS)
# How the batch falls into micro-batches, by gradient accumulation.
PARTS = {1: [range(PAIRS)], 4: [range(start, start + 2) for start in range(0, PAIRS, 2)]}
# What a trainer keeps of its arguments under another name.
_ATTRIBUTES = {"loss_type": "loss_types"}
_USUAL = {"label_smoothing": 0.0, "f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 1.0}


def adapter(kind: str) -> LowRankSettings | FullSettings:
    """Return the settings of what trains."""
    return FullSettings(name="full") if kind == "full" else stock.lora()


def quantization(kind: str) -> str | None:
    """Return the setting of that name."""
    return "nf4" if kind == "nf4" else None


def policy(path: Path, kind: str) -> PreTrainedModel | PeftModel:
    """Load the model at `path` as a run of ours does."""
    settings = stock.model_settings(path, quantization=quantization(kind))
    return load_policy(settings, adapter(kind), locate(settings), seed=0)


def moved(model: nn.Module) -> None:
    """Move what trains off the reference, in float32 and by the same numbers for all models of a kind.

    An adapter is drawn anew: TRL has rounded that of a quantised model to bfloat16.
    """
    drawn = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            step = torch.randn(parameter.shape, generator=drawn)
            parameter.data = 0.1 * step if ".lora_" in name else parameter.data.float() + 0.01 * step


def stock_trainer(path: Path, kind: str, *, precomputed: bool, **fields: Any) -> DPOTrainer:
    """Build TRL's trainer on the texts; a reference that is precomputed is so before the policy moves."""
    arguments = DPOConfig(
        output_dir=str(path / "out"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        remove_unused_columns=False, precompute_ref_log_probs=precomputed, disable_tqdm=True, **fields,
    )  # fmt: skip
    # the number keeps apart what TRL would take for the same rows: see test_differences
    rows = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected, "number": str(fields)}
        for prompt, chosen, rejected in TEXTS
    ]
    made = DPOTrainer(
        model=policy(path, kind),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=stock.tokenizer(stock.CHATML),
    )
    moved(made.model)
    made.model.train()
    return made


def our_trainer(path: Path, kind: str) -> PairTrainer:
    """Build ours, which reads all that any loss of TRL reads."""
    loss = {"name": "sigmoid", "beta": 0.3, "label_smoothing": 0.0, "ld_alpha": 0.5, "use_weighting": True}
    settings = TypeAdapter(LossSettings).validate_python(loss)
    train = TrainSettings.model_validate(
        {
            "name": "test", "global_batch_size": PAIRS, "per_device_train_batch_size": PAIRS, "max_steps": 1,
            "learning_rate": 1e-3, "gradient_checkpointing": False, "bf16": False, "max_length": 256,
        }
    )  # fmt: skip
    model = stock.model_settings(path, quantization=quantization(kind))
    data = stock.data_settings(stock.write_pairs(path / "pairs.jsonl", stock.pairs(12)))
    prepared = prepare(model, data, adapter(kind), train, settings, 0)
    made = build_trainer(prepared, train, settings, "base", "trl", "off", 0, path / "out")
    moved(made.model)
    made.model.train()
    return made


def part(trainer: DPOTrainer, places: range) -> dict[str, Tensor]:
    """Return the pairs at `places` of TRL's own rows as TRL collates them."""
    batch: dict[str, Tensor] = trainer.data_collator([trainer.train_dataset[place] for place in places])
    return batch


@contextmanager
def set_to(trainer: DPOTrainer, fields: dict[str, Any]) -> Iterator[None]:
    """Let a trainer of TRL have been built with other fields of DPOConfig, those of the loss, for the while."""
    fields = {"discopop_tau": trainer.args.discopop_tau, **_USUAL, **fields}
    tau, trainer.args.discopop_tau = trainer.args.discopop_tau, fields.pop("discopop_tau")
    attributes = {_ATTRIBUTES.get(name, name): value for name, value in fields.items()}
    kept = {name: getattr(trainer, name) for name in attributes}
    vars(trainer).update(attributes)
    try:
        yield
    finally:
        vars(trainer).update(kept)
        trainer.args.discopop_tau = tau
