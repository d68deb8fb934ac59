"""The independent side of an objective: the sum of its losses and terms, from their definitions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from preftune.losses import scratch, scratch_rewards
from preftune.losses.logps import PairLogps

if TYPE_CHECKING:
    from preftune.losses.objective import Formula


def cost(formula: "Formula", multipliers: Mapping[str, float], logps: PairLogps) -> Tensor:
    """Return the cost of each pair, of shape `(B,)`, in float64."""
    total = torch.zeros_like(logps.policy_chosen, dtype=torch.float64)
    for member in formula.members.values():
        record = logps
        if member.ld_alpha is not None:
            record = scratch_rewards.desensitized(record, ld_alpha=member.ld_alpha)
        if member.divergence is not None:
            record = scratch_rewards.divergent(record, **member.divergence)
        total = total + member.weight * member.scratch(record, **member.parameters)
    if formula.use_weighting:
        total = total * scratch_rewards.wpo_weight(logps)
    for name, term in formula.terms.items():
        score = term.scratch(logps, **term.parameters).double()
        if term.limit is not None:
            over = score - term.limit
            score = over if term.rate > 0 else torch.where(over > 0, over, 0.0)
        total = total + multipliers[name] * score
    return scratch.weighted(total, logps)
