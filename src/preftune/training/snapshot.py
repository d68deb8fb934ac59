"""Where a training stands beside its weights and optimizer: every number that a later step or log event reads.

Numbers are kept as JSON, which holds a float64 exactly, and tensors as safetensors.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from preftune.losses.answers import AnswerLogps
from preftune.losses.logps import PairLogps
from preftune.training.verification import Verified

# Attributes of the trainers, ours and those of the stack, that are plain numbers or lists of them.
_NUMBERS = (
    "pairs_seen",
    "tokens_seen",
    "reference_computed",
    "seconds_in_reference",
    "seconds_in_evaluation",
    "current_flos",
    "_counted",
    "_rows_of_step",
    "_step_of_losses",
    "_total_train_tokens",
    "_total_loss_scalar",
    "_globalstep_last_logged",
    "_initial_global_step",
)
_VERIFIED = TypeAdapter(Verified | None)
_TRAINED = "trained/"


class Part(Protocol):
    """Something beside the trainer that goes on where it was."""

    def state(self) -> Mapping[str, Any]:
        """Return where it stands, as JSON can hold it."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand there again."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a training of one process stands after a step.

    Attributes:
        facts: Numbers by name.
        tensors: Tensors by name.
        parts: The states of what goes on beside the trainer, by name.
    """

    facts: dict[str, Any]
    tensors: dict[str, Tensor]
    parts: dict[str, Any]

    @classmethod
    def take(cls, trainer: Any, parts: Mapping[str, Part], **facts: Any) -> Self:
        """Take down where `trainer` and `parts` stand, with further `facts`."""
        tensors = {"tr_loss": trainer._tr_loss.clone(), "losses_of_step": _joined(trainer._losses_of_step)}
        tensors["first_losses"] = _joined(trainer.first_losses)
        if trainer._trained:
            record = type(trainer._trained[0]).concatenate(trainer._trained)
            fields = {name: getattr(record, name) for name in record.__slots__}
            tensors |= {f"{_TRAINED}{name}": value for name, value in fields.items() if isinstance(value, Tensor)}
        numbers = {name: getattr(trainer, name) for name in _NUMBERS}
        facts |= {
            "numbers": numbers | {"answers_seen": getattr(trainer, "answers_seen", 0)},
            "metrics": {name: list(values) for name, values in trainer._metrics["train"].items()},
            "seconds_since_event": trainer._clock() - trainer._running_since,
            "seconds_trained": time.time() - trainer.training_since,
            "verified": _VERIFIED.dump_python(trainer.verified),
            "engine": trainer.engine.name,
        }
        return cls(facts, tensors, {name: dict(part.state()) for name, part in parts.items()})

    def put_back(self, trainer: Any) -> None:
        """Make `trainer` stand where it stood; the parts are put back by themselves."""
        device = trainer.args.device
        tensors = {name: value.to(device) for name, value in self.tensors.items()}
        computed = trainer.reference_computed  # in this process; nothing, where it found what an earlier one kept
        vars(trainer).update(self.facts["numbers"])
        trainer.reference_computed = max(trainer.reference_computed, computed)
        trainer._tr_loss = tensors["tr_loss"]
        trainer._losses_of_step, trainer.first_losses = [tensors["losses_of_step"]], [tensors["first_losses"]]
        fields = {name.removeprefix(_TRAINED): value for name, value in tensors.items() if name.startswith(_TRAINED)}
        record: Any = AnswerLogps if "desirable" in fields else PairLogps
        trainer._trained = [record(**fields)] if fields else []
        trainer._metrics["train"].clear()
        trainer._metrics["train"].update(self.facts["metrics"])
        trainer._running_since = trainer._clock() - self.facts["seconds_since_event"]
        trainer.training_since = time.time() - self.facts["seconds_trained"]
        trainer.verified = _VERIFIED.validate_python(self.facts["verified"])

    def write(self, directory: Path, rank: int) -> None:
        """Write the files of the process of `rank`."""
        content = json.dumps({"facts": self.facts, "parts": self.parts}, ensure_ascii=False)
        (directory / f"standing-{rank}.json").write_bytes(content.encode("utf-8", "surrogatepass"))
        save_file(
            {name: t.contiguous() for name, t in self.tensors.items()}, directory / f"standing-{rank}.safetensors"
        )

    @classmethod
    def read(cls, directory: Path, rank: int) -> Self:
        """Read what `write` wrote."""
        numbers, tensors = _files(directory, rank)
        return cls(tensors=load_file(tensors), **json.loads(numbers.read_text(encoding="utf-8")))


def _joined(losses: list[Tensor]) -> Tensor:
    return torch.cat(losses) if losses else torch.empty(0)  # nothing was trained on yet


def _files(directory: Path, rank: int) -> tuple[Path, Path]:
    return directory / f"standing-{rank}.json", directory / f"standing-{rank}.safetensors"
