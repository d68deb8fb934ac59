"""What a loss and the training loop can choose."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_serializer, model_validator

from preftune.settings import Settings
from preftune.training import dpo_fields

Beta = Annotated[float, Field(gt=0)]
FlipShare = Annotated[float, Field(ge=0, lt=0.5)]
NotNegative = Annotated[float, Field(ge=0)]


class LossRecord(Settings):
    """What the settings of every loss have in common.

    Attributes:
        reads: Numbers of a pair that the loss reads; each also reads `weight`, by which its cost is multiplied.
        method: The `method` of runs that it belongs to.
    """

    method: ClassVar[str] = "dpo"
    reads: ClassVar[tuple[str, ...]] = ("weight",)

    @property
    def reward_scale(self) -> float:
        """Reward for a nat of log-ratio, in TRL's reward metrics: beta; 1 where a loss has none."""
        return getattr(self, "beta", 1.0)


class SigmoidSettings(LossRecord):
    """DPO; conservative DPO when `label_smoothing` is not 0."""

    name: Literal["sigmoid"]
    beta: Beta
    label_smoothing: FlipShare


class MarginSettings(LossRecord):
    """A loss whose only parameter is `beta`."""

    name: Literal["ipo", "ipo_sum", "hinge", "cal_dpo", "nca_pair", "sppo_hard", "apo_zero", "apo_down", "sigmoid_norm"]
    beta: Beta


class SoftSettings(LossRecord):
    """DPO with a probability for each label."""

    reads = ("weight", "probability")
    name: Literal["soft"]
    beta: Beta


class RobustSettings(LossRecord):
    """DPO with the mean effect of flipped labels taken out."""

    name: Literal["robust"]
    beta: Beta
    label_smoothing: FlipShare


class ExoPairSettings(LossRecord):
    """EXO on a pair."""

    name: Literal["exo_pair"]
    beta: Beta
    label_smoothing: Annotated[float, Field(gt=0, lt=0.5)]


class DiscopopSettings(LossRecord):
    """Logistic loss for pairs ranked wrongly, exponential loss for pairs ranked rightly."""

    name: Literal["discopop"]
    beta: Beta
    tau: Annotated[float, Field(gt=0, le=1)]


class OdpoSettings(LossRecord):
    """DPO with an offset that grows with the difference of scores."""

    reads = ("weight", "score", "score_chosen", "score_rejected")
    name: Literal["odpo"]
    beta: Beta
    alpha: NotNegative


class DpopSettings(LossRecord):
    """DPO-Positive."""

    name: Literal["dpop"]
    beta: Beta
    penalty: NotNegative


class RdpoSettings(LossRecord):
    """DPO with length taken out of the reward."""

    name: Literal["rdpo"]
    beta: Beta
    alpha: NotNegative


class SimpoSettings(LossRecord):
    """SimPO: per token, without a reference."""

    name: Literal["simpo"]
    beta: Beta
    gamma: NotNegative


class OrpoSettings(LossRecord):
    """ORPO: likelihood of chosen and the odds, without a reference and without beta."""

    name: Literal["orpo"]
    odds_weight: NotNegative


class CpoSettings(LossRecord):
    """CPO: likelihood of chosen and the contrast, without a reference."""

    name: Literal["cpo"]
    beta: Beta
    nll_weight: NotNegative


class KtoSettings(LossRecord):
    """KTO: single answers, each desirable or not."""

    method = "kto"
    reads = ()
    name: Literal["kto"]
    beta: Beta
    desirable_weight: NotNegative
    undesirable_weight: NotNegative

    @model_validator(mode="after")
    def _something_trains(self) -> "KtoSettings":
        if self.desirable_weight == self.undesirable_weight == 0:
            raise ValueError("loss.desirable_weight must be above 0 where loss.undesirable_weight is 0, got 0.0")
        return self


LossSettings = Annotated[
    SigmoidSettings
    | MarginSettings
    | SoftSettings
    | RobustSettings
    | ExoPairSettings
    | DiscopopSettings
    | OdpoSettings
    | DpopSettings
    | RdpoSettings
    | SimpoSettings
    | OrpoSettings
    | CpoSettings
    | KtoSettings,
    Field(discriminator="name"),
]


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
        dpo: Every other key, which is `trl.DPOConfig`'s own and passes through.
    """

    name: str
    global_batch_size: Annotated[int, Field(ge=1)]
    dpo: Annotated[dict[str, Any], AfterValidator(_dpo_keys_hold)]

    @model_validator(mode="before")
    @classmethod
    def _gather_dpo_keys(cls, keys: Any) -> Any:
        own = {key: keys[key] for key in ("name", "global_batch_size") if key in keys}
        return {**own, "dpo": {key: value for key, value in keys.items() if key not in own}}

    @property
    def max_length(self) -> int | None:
        """Longest prompt and answer together, in tokens; None for no limit. TRL's default is 1024."""
        return self.dpo.get("max_length", 1024)  # type: ignore[no-any-return]

    @property
    def micro_batch(self) -> int:
        """Pairs, or single answers for `method=kto`, held at once on one device. TRL's default is 8."""
        return self.dpo.get("per_device_train_batch_size", 8)  # type: ignore[no-any-return]

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, "global_batch_size": self.global_batch_size, **self.dpo}

    @model_validator(mode="after")
    def _accumulates_whole_batches(self) -> "TrainSettings":
        if self.global_batch_size % self.micro_batch:
            raise ValueError(
                f"train.global_batch_size must be a multiple of train.per_device_train_batch_size={self.micro_batch}, "
                f"got {self.global_batch_size}"
            )
        return self
