"""The longest real micro-batch, tried before the first step, so that one that cannot fit fails at the start."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from preftune.models.memory import GIB, capacity, optimizer_bytes, standing
from preftune.refusals import RunFailed
from preftune.training.longest import Longest, longest
from preftune.training.preparation import Prepared
from preftune.training.settings import TrainSettings


class LongestFirst(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Tries the longest micro-batch once everything stands as it will train."""

    def __init__(self, trainer: Any, prepared: Prepared, train: TrainSettings) -> None:
        """Keep what is tried."""
        self.trainer, self.prepared, self.train = trainer, prepared, train

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Try it."""
        try_longest(self.trainer, self.prepared, self.train)


def watch(trainer: Any, prepared: Prepared, train: TrainSettings) -> None:
    """Have the longest micro-batch tried before the first step, where there is a GPU: a CPU pages out instead."""
    if torch.cuda.is_available():
        trainer.add_callback(LongestFirst(trainer, prepared, train))


def try_longest(trainer: Any, prepared: Prepared, train: TrainSettings) -> None:
    """Do a forward and a backward pass of the longest micro-batch beside room for the optimizer, and forget them.

    Random numbers go on as if nothing had been.

    Args:
        trainer: Of pairs or of answers, with its engine.
        prepared: What it trains on.
        train: Its settings, settled.

    Raises:
        RunFailed: The device has not enough memory.
    """
    batch = longest(prepared, train, shared=trainer.engine.name == "shared")
    model = trainer.model
    device = trainer.args.device
    fits = True
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            _pass(trainer, _rows(trainer, prepared, batch), _optimizer_room(model, train, device))
        except torch.OutOfMemoryError:
            fits = False  # what the traceback holds is freed before the sentence is made
    model.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if not fits:
        raise RunFailed(_sentence(prepared, train, batch, device, shared=trainer.engine.name == "shared"))


def _pass(trainer: Any, batch: dict[str, Tensor], room: Tensor) -> None:
    trainer.model.train()
    with trainer.accelerator.autocast():
        logps, _ = trainer._score_apart(trainer._prepare_inputs(batch))
        cost = trainer.cost(logps).mean()
    cost.backward()
    del room


def _optimizer_room(model: nn.Module, train: TrainSettings, device: torch.device) -> Tensor:
    """Return as many bytes as the optimizer will keep on the device; a paged one makes way."""
    optim, parts = train.dpo.get("optim", "adamw_torch"), standing(model)
    size = 0 if optim.startswith("paged") else optimizer_bytes(optim, parts.width) * parts.trained_parameters
    return torch.empty(int(size), dtype=torch.uint8, device=device)


def _rows(trainer: Any, prepared: Prepared, batch: Longest) -> dict[str, Tensor]:
    if not prepared.answers:
        return trainer.data_collator(list(prepared.rows.rows.select(batch.places)))  # type: ignore[no-any-return]
    rows = trainer.train_dataset
    order = np.argsort(np.array(rows.with_format(None)["row"]))  # where in the mixed order each answer stands
    return trainer.data_collator([rows[int(order[place])] for place in batch.places])  # type: ignore[no-any-return]


def _sentence(prepared: Prepared, train: TrainSettings, batch: Longest, device: torch.device, *, shared: bool) -> str:
    unit = "answers" if prepared.answers else "pairs"
    return (
        f"the longest micro-batch must fit into the {capacity(device) / GIB:.1f} GiB of {device}, got "
        f"{len(batch.places)} {unit} of {batch.tokens(shared=shared):,} tokens together, which do not; nothing was "
        f"updated. In order of effect: {'; '.join(_remedies(prepared, train, batch, shared=shared))}"
    )


def _remedies(prepared: Prepared, train: TrainSettings, batch: Longest, *, shared: bool) -> list[str]:
    """Return the settings to change, the one that frees most first; none that is as it should be already."""
    remedies = []
    if len(batch.places) > 1 and shared and train.tokens_per_batch is not None:
        remedies.append(f"lower train.tokens_per_batch={train.tokens_per_batch}")
    elif len(batch.places) > 1:
        remedies.append(f"lower train.per_device_train_batch_size={train.micro_batch}")
    if not train.for_trl.get("gradient_checkpointing", True):
        remedies.append("set train.gradient_checkpointing=true")
    if getattr(prepared.policy.config, "quantization_config", None) is None:
        remedies.append("set model.quantization=nf4 with adapter=lora")
    return [*remedies, f"set train.max_length below {batch.width}"]
