"""Every loss by the name that `loss.name` gives it."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from preftune.losses import pairwise, scratch
from preftune.losses.logps import PairLogps

PairLoss = Callable[[PairLogps], Tensor]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "sigmoid": pairwise.sigmoid,
    "ipo": pairwise.ipo,
    "hinge": pairwise.hinge,
}
SCRATCH: dict[str, Callable[..., Tensor]] = {
    "sigmoid": scratch.sigmoid,
    "ipo": scratch.ipo,
    "hinge": scratch.hinge,
}


def pair_loss(name: str, parameters: Mapping[str, float]) -> tuple[PairLoss, PairLoss]:
    """Return the loss `name` with its parameters set, and the from-scratch one that checks it."""
    return partial(LOSSES[name], **parameters), partial(SCRATCH[name], **parameters)
