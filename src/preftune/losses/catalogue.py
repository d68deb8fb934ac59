"""Every loss by the name that `loss.name` gives it."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from preftune.losses import pairwise, pointwise, scratch, scratch_variants, variants
from preftune.losses.logps import PairLogps

PairLoss = Callable[[PairLogps], Tensor]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "sigmoid": pairwise.sigmoid,
    "ipo": pairwise.ipo,
    "hinge": pairwise.hinge,
    "robust": variants.robust,
    "exo_pair": variants.exo_pair,
    "discopop": variants.discopop,
    "sigmoid_norm": variants.sigmoid_norm,
    "nca_pair": pointwise.nca_pair,
    "sppo_hard": pointwise.sppo_hard,
    "apo_zero": pointwise.apo_zero,
    "apo_down": pointwise.apo_down,
}
SCRATCH: dict[str, Callable[..., Tensor]] = {
    "sigmoid": scratch.sigmoid,
    "ipo": scratch.ipo,
    "hinge": scratch.hinge,
    "robust": scratch_variants.robust,
    "exo_pair": scratch_variants.exo_pair,
    "discopop": scratch_variants.discopop,
    "sigmoid_norm": scratch_variants.sigmoid_norm,
    "nca_pair": scratch_variants.nca_pair,
    "sppo_hard": scratch_variants.sppo_hard,
    "apo_zero": scratch_variants.apo_zero,
    "apo_down": scratch_variants.apo_down,
}


def pair_loss(name: str, parameters: Mapping[str, float]) -> tuple[PairLoss, PairLoss]:
    """Return the loss `name` with its parameters set, and the from-scratch one that checks it."""
    return partial(LOSSES[name], **parameters), partial(SCRATCH[name], **parameters)
