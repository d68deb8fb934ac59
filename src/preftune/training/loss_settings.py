"""What a loss can choose: a record for each."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from preftune.training.loss_records import (
    Beta,
    FlipShare,
    LossRecord,
    MarginLoss,
    NotNegative,
    PairLossRecord,
    Parameters,
    ReferenceLoss,
)


class SigmoidSettings(MarginLoss):
    """DPO; conservative DPO when `label_smoothing` is not 0."""

    name: Literal["sigmoid"]
    beta: Beta
    label_smoothing: FlipShare


class MarginSettings(MarginLoss):
    """A loss of the margin whose only parameter is `beta`."""

    name: Literal["ipo", "ipo_sum", "hinge", "sigmoid_norm"]
    beta: Beta


class LogratioSettings(ReferenceLoss):
    """A loss of each answer's own log-ratio whose only parameter is `beta`."""

    name: Literal["cal_dpo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down"]
    beta: Beta


class AotSettings(ReferenceLoss):
    """A loss of the sorted margins of a micro-batch."""

    name: Literal["aot", "aot_unpaired"]
    beta: Beta
    label_smoothing: FlipShare


class BetaDpoSettings(ReferenceLoss):
    """DPO whose beta follows the margins of the micro-batch."""

    name: Literal["beta_dpo"]
    beta: Beta
    alpha: NotNegative


class TdpoSettings(PairLossRecord):
    """DPO with the divergence of each token's distribution in its margin."""

    name: Literal["tdpo"]
    beta: Beta
    alpha: NotNegative


class SftSettings(PairLossRecord):
    """The likelihood of chosen, over the tokens of a micro-batch."""

    name: Literal["sft"]


class SoftSettings(MarginLoss):
    """DPO with a probability for each label."""

    own_reads: ClassVar = ("probability",)
    name: Literal["soft"]
    beta: Beta


class RobustSettings(MarginLoss):
    """DPO with the mean effect of flipped labels taken out."""

    name: Literal["robust"]
    beta: Beta
    label_smoothing: FlipShare


class ExoPairSettings(MarginLoss):
    """EXO on a pair."""

    name: Literal["exo_pair"]
    beta: Beta
    label_smoothing: Annotated[float, Field(gt=0, lt=0.5)]


class DiscopopSettings(MarginLoss):
    """Logistic loss for pairs ranked wrongly, exponential loss for pairs ranked rightly."""

    name: Literal["discopop"]
    beta: Beta
    tau: Annotated[float, Field(gt=0, le=1)]


class OdpoSettings(MarginLoss):
    """DPO with an offset that grows with the difference of scores."""

    own_reads: ClassVar = ("score", "score_chosen", "score_rejected")
    name: Literal["odpo"]
    beta: Beta
    alpha: NotNegative


class DpopSettings(ReferenceLoss):
    """DPO-Positive."""

    name: Literal["dpop"]
    beta: Beta
    penalty: NotNegative


class RdpoSettings(MarginLoss):
    """DPO with length taken out of the reward."""

    name: Literal["rdpo"]
    beta: Beta
    alpha: NotNegative


class SimpoSettings(PairLossRecord):
    """SimPO: per token, without a reference."""

    name: Literal["simpo"]
    beta: Beta
    gamma: NotNegative


class OrpoSettings(PairLossRecord):
    """ORPO: likelihood of chosen and the odds, without a reference and without beta."""

    name: Literal["orpo"]
    odds_weight: NotNegative


class CpoSettings(PairLossRecord):
    """CPO: likelihood of chosen and the contrast, without a reference."""

    name: Literal["cpo"]
    beta: Beta
    nll_weight: NotNegative


class KtoSettings(LossRecord):
    """KTO: single answers, each desirable or not."""

    method: ClassVar[str] = "kto"
    name: Literal["kto"]
    beta: Beta
    desirable_weight: NotNegative
    undesirable_weight: NotNegative

    @model_validator(mode="after")
    def _something_trains(self) -> "KtoSettings":
        if self.desirable_weight == self.undesirable_weight == 0:
            raise ValueError("loss.desirable_weight must be above 0 where loss.undesirable_weight is 0, got 0.0")
        return self


class CustomSettings(MarginLoss):
    """A loss of the user's own; `loss.name` is the dotted path that `function` holds."""

    name: Literal["custom"]
    function: str
    params: Parameters = Field({})

    @property
    def label(self) -> str:
        """What a person calls the loss."""
        return self.function

    @property
    def reward_scale(self) -> float:
        """Its parameter `beta`, where it has one."""
        beta = self.params.get("beta", 1.0)
        return float(beta) if isinstance(beta, int | float) else 1.0

    def parameters(self) -> dict[str, Any]:
        """Return the loss's own parameters."""
        return dict(self.params)


_Plain = (
    SigmoidSettings
    | MarginSettings
    | LogratioSettings
    | SoftSettings
    | RobustSettings
    | ExoPairSettings
    | DiscopopSettings
    | OdpoSettings
    | DpopSettings
    | RdpoSettings
    | AotSettings
    | BetaDpoSettings
    | TdpoSettings
    | SftSettings
    | SimpoSettings
    | OrpoSettings
    | CpoSettings
)


class SumSettings(PairLossRecord):
    """Several losses, each with a weight.

    Attributes:
        losses: The settings of each loss, by its name.
        weights: The weight of each, by its name.
    """

    name: Literal["sum"]
    losses: dict[str, Annotated[_Plain, Field(discriminator="name")]]
    weights: dict[str, NotNegative]

    @model_validator(mode="before")
    @classmethod
    def _name_the_losses(cls, fields: Any) -> Any:
        losses = fields.get("losses")
        if not isinstance(losses, Mapping):
            return fields
        named = {name: {**own, "name": name} if isinstance(own, Mapping) else own for name, own in losses.items()}
        return {**fields, "losses": named}

    @model_validator(mode="after")
    def _each_loss_has_a_weight(self) -> "SumSettings":
        if not self.losses or self.losses.keys() != self.weights.keys():
            raise ValueError(
                f"loss.weights must hold a weight for each of loss.losses, {', '.join(self.losses) or 'of which one '}"
                f"{'' if self.losses else 'is needed'}, got {', '.join(self.weights) or 'none'}"
            )
        outer = [name for name, loss in self.losses.items() if loss.terms or loss.use_weighting]
        if outer:
            raise ValueError(
                f"loss.losses.{outer[0]} must hold parameters of the loss alone, got terms or use_weighting: "
                "they stand once, in loss.terms and loss.use_weighting"
            )
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers of a pair that the losses read."""
        return tuple(dict.fromkeys(name for loss in self.losses.values() for name in loss.reads))

    def weighted(self) -> dict[str, tuple[LossRecord, float]]:
        """Return the losses that are summed, each with its weight, by name."""
        return {name: (loss, self.weights[name]) for name, loss in self.losses.items()}

    @property
    def reward_scale(self) -> float:
        """That of the first loss."""
        return next(iter(self.losses.values())).reward_scale


_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def _custom(loss: Any) -> Any:
    """Read a dotted path at `name` as a loss of the user's own."""
    if isinstance(loss, Mapping) and isinstance(name := loss.get("name"), str) and _DOTTED.fullmatch(name):
        return {**loss, "name": "custom", "function": name}
    return loss


PairLossSettings = _Plain | SumSettings | CustomSettings
LossSettings = Annotated[PairLossSettings | KtoSettings, Field(discriminator="name"), BeforeValidator(_custom)]
