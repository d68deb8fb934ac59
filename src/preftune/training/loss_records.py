"""What the settings of every loss have in common."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from preftune.settings import Settings

Beta = Annotated[float, Field(gt=0)]
FlipShare = Annotated[float, Field(ge=0, lt=0.5)]
NotNegative = Annotated[float, Field(ge=0)]
Parameters = dict[str, bool | int | float | str]


class TermSettings(Settings):
    """A penalty that is added to the cost of each pair, logged as `terms/<its key>`.

    Attributes:
        function: A term of preftune, or one of the user's own by dotted path; null: the one that the key names.
        weight: Of the term in the cost, at least 0; where `rate` is above 0, where the weight starts.
        limit: Scores up to it cost nothing, `relu(score - limit)`; null: the score itself is added.
        rate: Above 0 the weight is a Lagrange multiplier, moved after each step by `rate` times the step's mean
            score less `limit`, and never below 0.
        params: The function's own parameters.
    """

    function: str | None = None
    weight: NotNegative = 1.0
    limit: float | None = None
    rate: NotNegative = 0.0
    params: Parameters = Field({})

    @model_validator(mode="after")
    def _a_multiplier_has_a_limit(self) -> "TermSettings":
        if self.rate and self.limit is None:
            raise ValueError(f"loss.terms must set limit where rate is above 0, got a rate of {self.rate:g} alone")
        return self


class LossRecord(Settings):
    """What the settings of every loss have in common.

    Attributes:
        method: The `method` of runs that it belongs to.
    """

    method: ClassVar[str] = "dpo"

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers of a pair that the loss reads."""
        return ()

    @property
    def reward_scale(self) -> float:
        """Reward for a nat of log-ratio, in TRL's reward metrics: beta; 1 where a loss has none."""
        return getattr(self, "beta", 1.0)

    @property
    def label(self) -> str:
        """What a person calls the loss."""
        return str(getattr(self, "name"))  # noqa: B009  every record has a name, of a type of its own

    def parameters(self) -> dict[str, Any]:
        """Return the loss's own parameters."""
        return self.model_dump(exclude={"name", *MarginLoss.model_fields})

    def changed(self) -> dict[str, Any]:
        """Return what changes the rewards before the loss sees them, where it is set: `ld_alpha`, the divergence."""
        shared = self.model_dump(include={"ld_alpha", "f_divergence_type", "f_alpha_divergence_coef"})
        return {key: value for key, value in shared.items() if value not in (None, "reverse_kl")}

    def weighted(self) -> "dict[str, tuple[LossRecord, float]]":
        """Return the losses that are summed, each with its weight, by name: this one alone."""
        return {self.label: (self, 1.0)}


class PairLossRecord(LossRecord):
    """What the settings of every loss of pairs have in common.

    Attributes:
        own_reads: Numbers of a pair that the loss reads beside `weight`, by which every cost is multiplied.
        use_weighting: Multiply the cost by how likely the policy is to give both answers: WPO.
        terms: Penalties that are added, by the name under which they are logged.
    """

    own_reads: ClassVar[tuple[str, ...]] = ()

    use_weighting: bool = False
    terms: dict[str, TermSettings] = Field({})

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers of a pair that the loss reads."""
        return ("weight", *self.own_reads)


class ReferenceLoss(PairLossRecord):
    """A loss that reads the reference.

    Attributes:
        ld_alpha: Weight of the tokens of the longer answer beyond the length of the shorter: LD-DPO; null: 1.
    """

    ld_alpha: Annotated[float, Field(ge=0, le=1)] | None = None


class MarginLoss(ReferenceLoss):
    """A loss of the rewards of the two answers, of which each is beta times a function of its log-ratio.

    Attributes:
        f_divergence_type: Divergence from the reference that the rewards belong to: f-DPO.
        f_alpha_divergence_coef: Its alpha, where it is the alpha-divergence; 0 and 1 are forward and reverse KL.
    """

    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    f_alpha_divergence_coef: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _the_coefficient_belongs_to_its_divergence(self) -> "MarginLoss":
        coefficient = self.f_alpha_divergence_coef
        if self.f_divergence_type == "alpha_divergence" and coefficient in (None, 1.0):
            raise ValueError(
                "loss.f_alpha_divergence_coef must be above 0 and other than 1 where loss.f_divergence_type is "
                f"alpha_divergence, got {'null' if coefficient is None else '1: that is reverse_kl'}"
            )
        if self.f_divergence_type != "alpha_divergence" and coefficient is not None:
            raise ValueError(
                "loss.f_alpha_divergence_coef must be null where loss.f_divergence_type is "
                f"{self.f_divergence_type}, got {coefficient:g}"
            )
        return self
