"""Every loss by the name that `loss.name` gives it."""

from collections.abc import Callable, Mapping

from torch import Tensor

from preftune.losses import (
    graded,
    over_batch,
    pairwise,
    pointwise,
    reference_free,
    regularized,
    scratch,
    scratch_more,
    scratch_over_batch,
    scratch_token_level,
    scratch_variants,
    token_level,
    variants,
)
from preftune.losses.objective import Formula, Member, Objective, PairLoss

LOSSES: dict[str, Callable[..., Tensor]] = {
    "sigmoid": pairwise.sigmoid,
    "ipo": pairwise.ipo,
    "hinge": pairwise.hinge,
    "robust": variants.robust,
    "exo_pair": variants.exo_pair,
    "discopop": variants.discopop,
    "sigmoid_norm": variants.sigmoid_norm,
    "nca_pair": pointwise.nca_pair,
    "bco_pair": pointwise.bco_pair,
    "sppo_hard": pointwise.sppo_hard,
    "apo_zero": pointwise.apo_zero,
    "apo_down": pointwise.apo_down,
    "soft": graded.soft,
    "odpo": graded.odpo,
    "dpop": regularized.dpop,
    "rdpo": regularized.rdpo,
    "cal_dpo": regularized.cal_dpo,
    "ipo_sum": regularized.ipo_sum,
    "simpo": reference_free.simpo,
    "orpo": reference_free.orpo,
    "cpo": reference_free.cpo,
    "aot": over_batch.aot,
    "aot_unpaired": over_batch.aot_unpaired,
    "sft": over_batch.sft,
    "beta_dpo": over_batch.beta_dpo,
    "tdpo": token_level.tdpo,
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
    "bco_pair": scratch_variants.bco_pair,
    "sppo_hard": scratch_variants.sppo_hard,
    "apo_zero": scratch_variants.apo_zero,
    "apo_down": scratch_variants.apo_down,
    "soft": scratch_more.soft,
    "odpo": scratch_more.odpo,
    "dpop": scratch_more.dpop,
    "rdpo": scratch_more.rdpo,
    "cal_dpo": scratch_more.cal_dpo,
    "ipo_sum": scratch_more.ipo_sum,
    "simpo": scratch_more.simpo,
    "orpo": scratch_more.orpo,
    "cpo": scratch_more.cpo,
    "aot": scratch_over_batch.aot,
    "aot_unpaired": scratch_over_batch.aot_unpaired,
    "sft": scratch_over_batch.sft,
    "beta_dpo": scratch_over_batch.beta_dpo,
    "tdpo": scratch_token_level.tdpo,
}


def pair_loss(name: str, parameters: Mapping[str, float]) -> tuple[PairLoss, PairLoss]:
    """Return the loss `name` with its parameters set, and the from-scratch one that checks it; both weigh pairs."""
    objective = Objective(Formula({name: Member(LOSSES[name], SCRATCH[name], parameters)}))
    return objective, objective.from_scratch
