"""Trainings of a few steps through either engine, on a policy that is not its reference."""

import copy
import dataclasses
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor
from transformers import PreTrainedModel

from preftune.models.settings import FullSettings, LowRankSettings
from preftune.training.loss_settings import LossSettings
from preftune.training.preparation import Prepared, prepare
from preftune.training.settings import TrainSettings
from preftune.training.trainer import PairTrainer, build_trainer
from tests import stock
from tests.engine import model
from tests.parity.trainers import moved

TRAIN: dict[str, Any] = {
    "name": "test",
    "global_batch_size": 8,
    "per_device_train_batch_size": 4,
    "max_steps": 3,
    "learning_rate": 0.01,
    "max_grad_norm": 1e6,  # a gradient that is clipped does not tell its size
    "lr_scheduler_type": "constant",
    "optim": "sgd",  # one that divides by the gradient's size would make rounding of small gradients large
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "bf16": False,
    "max_length": 128,
}
ADAPTERS = {"lora": stock.lora(), "dora": stock.lora(name="dora"), "full": FullSettings(name="full")}


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of a training.

    Attributes:
        trainer: After it.
        losses: Mean cost of each step's pairs.
        movement: What was added to all that trains, in one row.
        events: What was logged of each step.
    """

    trainer: PairTrainer
    losses: list[float]
    movement: Tensor
    events: list[dict[str, float]]


@cache
def _prepared(kind: str, dtype: str, quantization: str | None) -> Prepared:
    directory = Path(tempfile.mkdtemp())
    settings = stock.model_settings(
        stock.save_model(directory / "model", stock.CHATML), dtype=dtype, quantization=quantization
    )
    data = stock.data_settings(stock.write_pairs(directory / "pairs.jsonl", stock.pairs(30)), test_size=6)
    adapter: LowRankSettings | FullSettings = ADAPTERS[kind]
    return prepare(settings, data, adapter, TrainSettings.model_validate(TRAIN), _loss({}), 0)


def _loss(parameters: dict[str, Any]) -> Any:
    fields = {"name": "sigmoid", "beta": 0.3}
    if parameters.get("name", "sigmoid") == "sigmoid":
        fields["label_smoothing"] = 0.0
    return TypeAdapter(LossSettings).validate_python(fields | parameters)


def build(
    engine: str,
    *,
    kind: str = "lora",
    dtype: str = "float32",
    quantization: str | None = None,
    policy: PreTrainedModel | None = None,
    loss: dict[str, Any] | None = None,
    verify: str = "first_batch",
    start: bool = True,
    **train: Any,
) -> PairTrainer:
    """Build a trainer; its policy is moved off its reference where `start`.

    Args:
        engine: As in the settings.
        kind: Of what trains: a key of `ADAPTERS`.
        dtype: Of the weights.
        quantization: Of the weights.
        policy: Another model in its place.
        loss: Changes to the loss's settings.
        verify: As in the settings.
        start: Whether to move it.
        **train: Changes to `TRAIN`.
    """
    ready = _prepared(kind, dtype, quantization)
    recipe = TrainSettings.model_validate(TRAIN | train)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    steps = dataclasses.replace(ready.steps, accumulation=recipe.global_batch_size // recipe.micro_batch // processes)
    ready = dataclasses.replace(ready, policy=copy.deepcopy(policy or ready.policy), steps=steps)
    if start:
        moved(ready.policy)
    directory = Path(tempfile.mkdtemp())
    return build_trainer(ready, recipe, _loss(loss or {}), "base", engine, verify, 0, directory)


def run(engine: str, **settings: Any) -> Run:
    """Build a trainer and train."""
    trainer = build(engine, **settings)
    before = weights(trainer)
    events: list[dict[str, float]] = []
    trainer.report_to(lambda step, steps: None, lambda logs, step: events.append(dict(logs)))
    trainer.train()
    events = [event for event in events if "loss" in event]
    return Run(trainer, [event["loss"] for event in events], weights(trainer) - before, events)


def weights(trainer: PairTrainer) -> Tensor:
    """Return all that trains, in one row."""
    return torch.cat([p.detach().double().flatten() for p in trainer.model.parameters() if p.requires_grad])


def of_family(family: str, **changes: Any) -> PreTrainedModel:
    """Build a model of a family whose vocabulary is that of the pairs' tokenizer."""
    tokenizer = stock.tokenizer(stock.CHATML)
    special = {name: getattr(tokenizer, name) for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
    return model(family, **{"dtype": torch.float32, "vocab_size": len(tokenizer)} | special | changes)
