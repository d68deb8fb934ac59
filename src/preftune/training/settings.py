"""What the training loop can choose."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_serializer, model_validator

from preftune.settings import Settings
from preftune.training import dpo_fields


def _dpo_keys_hold(keys: dict[str, Any]) -> dict[str, Any]:
    faults = dpo_fields.faults(keys)
    if faults:
        raise ValueError("\n".join(faults))
    return keys


class TrainSettings(Settings):
    """How long and how fast to train.

    Attributes:
        global_batch_size: Pairs in one optimizer step, or single answers for `method=kto`, over all devices;
            accumulation follows from it.
        tokens_per_batch: Most tokens of a micro-batch where each prompt is computed once for both answers; None:
            `per_device_train_batch_size` pairs.
        dpo: Every other key, which is `trl.DPOConfig`'s own and passes through. `gradient_checkpointing` may be `auto`,
            which `training.memory` settles.
    """

    name: str
    global_batch_size: Annotated[int, Field(ge=1)]
    tokens_per_batch: Annotated[int, Field(ge=1)] | None = None
    dpo: Annotated[dict[str, Any], AfterValidator(_dpo_keys_hold)]

    @model_validator(mode="before")
    @classmethod
    def _gather_dpo_keys(cls, keys: Any) -> Any:
        own = {key: keys[key] for key in ("name", "global_batch_size", "tokens_per_batch") if key in keys}
        return {**own, "dpo": {key: value for key, value in keys.items() if key not in own}}

    @property
    def max_length(self) -> int | None:
        """Longest prompt and answer together, in tokens; None for no limit. TRL's default is 1024."""
        return self.dpo.get("max_length", 1024)  # type: ignore[no-any-return]

    @property
    def micro_batch(self) -> int:
        """Pairs, or single answers for `method=kto`, held at once on one device. TRL's default is 8."""
        return self.dpo.get("per_device_train_batch_size", 8)  # type: ignore[no-any-return]

    @property
    def checkpoints(self) -> int | None:
        """How many checkpoints are kept while training; None for all."""
        return self.dpo.get("save_total_limit", 2)  # type: ignore[no-any-return]

    @property
    def for_trl(self) -> dict[str, Any]:
        """The keys as DPOConfig takes them; activations are kept where nothing settled `auto`."""
        return {
            key: False if value == "auto" and key == "gradient_checkpointing" else value
            for key, value in self.dpo.items()
        }

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        own = {
            "name": self.name,
            "global_batch_size": self.global_batch_size,
            "tokens_per_batch": self.tokens_per_batch,
        }
        return {**own, **self.dpo}

    @model_validator(mode="after")
    def _accumulates_whole_batches(self) -> "TrainSettings":
        if self.global_batch_size % self.micro_batch:
            raise ValueError(
                f"train.global_batch_size must be a multiple of train.per_device_train_batch_size={self.micro_batch}, "
                f"got {self.global_batch_size}"
            )
        return self
