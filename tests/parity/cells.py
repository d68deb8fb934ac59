"""What TRL can be set to: each loss with each change of its rewards and each weighting, by TRL's names and by ours."""

import itertools
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from preftune.training.loss_settings import LossSettings
from tests.losses import PARAMETERS

# TRL's losses; those under an f-divergence first.
OF_THE_MARGIN = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
OF_EACH_ANSWER = ("nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down")
SORTED = ("aot", "aot_unpaired")
DIVERGENCES: tuple[dict[str, Any], ...] = (
    {},
    {"f_divergence_type": "forward_kl"},
    {"f_divergence_type": "js_divergence"},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.5},
)
LD_ALPHAS = (None, 0.5)
SUMS = ({"sigmoid": 1.0, "sft": 0.5}, {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0})


@dataclass(frozen=True)
class Cell:
    """One choice of loss.

    Attributes:
        weights: TRL's loss types, with their weights.
        divergence: TRL's fields of an f-divergence; empty for reverse KL.
        ld_alpha: TRL's, and ours.
        use_weighting: TRL's, and ours.
    """

    weights: dict[str, float]
    divergence: dict[str, Any] = field(default_factory=dict)
    ld_alpha: float | None = None
    use_weighting: bool = False

    def __str__(self) -> str:
        return "-".join(
            [
                "+".join(self.weights),
                *map(str, self.divergence.values()),
                *([] if self.ld_alpha is None else [f"ld{self.ld_alpha}"]),
                *(["wpo"] if self.use_weighting else []),
            ]
        )

    def of_trl(self) -> dict[str, Any]:
        """Return the fields of DPOConfig."""
        own: dict[str, Any] = {}
        for name in self.weights:
            own |= parameters(name)
        if "tau" in own:
            own["discopop_tau"] = own.pop("tau")
        return {
            "loss_type": list(self.weights),
            "loss_weights": list(self.weights.values()),
            "ld_alpha": self.ld_alpha,
            "use_weighting": self.use_weighting,
            **self.divergence,
            **own,
        }

    def of_ours(self) -> LossSettings:
        """Return our settings; `sft`, which reads neither, is told nothing of divergence and `ld_alpha`."""
        named = {name: self._member(name) for name in self.weights}
        if len(named) == 1:
            name, own = next(iter(named.items()))
            fields = {"name": name, **own, "use_weighting": self.use_weighting}
        else:
            fields = {"name": "sum", "losses": named, "weights": self.weights, "use_weighting": self.use_weighting}
        return TypeAdapter(LossSettings).validate_python(fields)

    def breaks_trl(self) -> bool:
        """True where TRL multiplies in place what its own backward pass needs, or what has no memory of its own."""
        return self.use_weighting and not {"hinge", "sft"}.isdisjoint(self.weights)

    def _member(self, name: str) -> dict[str, Any]:
        changes = {} if name == "sft" else {**self.divergence, "ld_alpha": self.ld_alpha}
        return {**parameters(name), **changes}


def parameters(name: str) -> dict[str, float]:
    """Return parameters of a loss that do the same here and in TRL, which does not smooth `sigmoid`."""
    return {**PARAMETERS[name], "label_smoothing": 0.0} if name == "sigmoid" else dict(PARAMETERS[name])


def _every_cell() -> list[Cell]:
    found = [
        Cell({name: 1.0}, *change)
        for name in OF_THE_MARGIN
        for change in itertools.product(DIVERGENCES, LD_ALPHAS, (False, True))
    ]
    found += [
        Cell({name: 1.0}, {}, *change)
        for name in OF_EACH_ANSWER
        for change in itertools.product(LD_ALPHAS, (False, True))
    ]
    found += [Cell({name: 1.0}, {}, ld_alpha) for name in SORTED for ld_alpha in LD_ALPHAS]
    return found + [Cell(dict(weights), {}, ld_alpha) for weights in SUMS for ld_alpha in LD_ALPHAS]


ALLOWED = _every_cell()
CELLS = [cell for cell in ALLOWED if not cell.breaks_trl()]
BROKEN = [cell for cell in ALLOWED if cell.breaks_trl()]
REFUSED = [Cell({name: 1.0}, divergence) for name in (*OF_EACH_ANSWER, *SORTED) for divergence in DIVERGENCES[1:]]
REFUSED += [Cell({name: 1.0}, {}, ld_alpha, True) for name in SORTED for ld_alpha in LD_ALPHAS]
