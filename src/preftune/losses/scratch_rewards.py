"""The from-scratch side of `rewards`: as in `scratch`, each from its paper, in float64."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps

# An exponent above this counts as this: part of what the scores are, since they would be infinite without.
_BOUND = 80.0


def divergent(logps: PairLogps, *, f_divergence_type: str, f_alpha_divergence_coef: float = 0.5) -> PairLogps:
    """f-DPO, arXiv:2309.16240, Table 1: f'(t) of the ratio t of policy to reference, less f'(1)."""
    u_chosen = logps.policy_chosen.double() - logps.reference_chosen.double()
    u_rejected = logps.policy_rejected.double() - logps.reference_rejected.double()
    chosen, rejected = (_derivative(u, f_divergence_type, f_alpha_divergence_coef) for u in (u_chosen, u_rejected))
    return PairLogps(
        chosen,
        rejected,
        torch.zeros_like(chosen),
        torch.zeros_like(rejected),
        logps.chosen_lengths,
        logps.rejected_lengths,
        extras=logps.extras,
        chosen_tokens=logps.chosen_tokens,
        rejected_tokens=logps.rejected_tokens,
        running=logps.running,
    )


def desensitized(logps: PairLogps, *, ld_alpha: float) -> PairLogps:
    """LD-DPO, arXiv:2409.06411: log-probability of the length both answers have, and alpha of that of the excess."""
    totals: dict[str, list[Tensor]] = {}
    counts = [[int(count) for count in side] for side in logps.lengths()]
    for name, tokens in zip(("chosen", "rejected"), logps.tokens(), strict=True):
        for model in ("policy", "reference"):
            rows = getattr(tokens, model).double()
            both = zip(rows, *counts, strict=True)
            totals[f"{model}_{name}"] = [
                row[: min(w, y)].sum() + ld_alpha * row[min(w, y) :].sum() for row, w, y in both
            ]
    return replace(logps, **{name: torch.stack(rows) for name, rows in totals.items()})  # type: ignore[arg-type]


def wpo_weight(logps: PairLogps) -> Tensor:
    """WPO, arXiv:2406.11827, Eq. 2: geometric means over tokens of pi(y_t) / sum of pi(v)^2, of both answers."""
    weights = torch.ones(len(logps.policy_chosen), dtype=torch.float64, device=logps.policy_chosen.device)
    for tokens, counts in zip(logps.tokens(), logps.lengths(), strict=True):
        if tokens.collision is None:
            raise ValueError("WPO needs the collision at each token, got none")
        for place, count in enumerate(counts.tolist()):
            own = tokens.policy[place, :count].detach().double() - tokens.collision[place, :count].double()
            weights[place] *= own.mean().exp()
    return weights


def _derivative(u: Tensor, kind: str, coefficient: float) -> Tensor:
    """Return f'(e^u) - f'(1)."""
    if kind == "js_divergence":
        return math.log(2.0) - torch.logaddexp(torch.zeros_like(u), -u)
    if kind == "forward_kl":
        return 1.0 - torch.exp(torch.minimum(-u, torch.full_like(u, _BOUND)))
    alpha = 1.0 - coefficient  # the paper's
    if kind == "reverse_kl" or abs(alpha) < 1e-6:
        return u
    return (1.0 - torch.exp(torch.minimum(-alpha * u, torch.full_like(u, _BOUND)))) / alpha
