"""The from-scratch side of `token_level`: as in `scratch`, from the paper, in float64."""

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps


def tdpo(logps: PairLogps, *, beta: float, alpha: float) -> Tensor:
    """TDPO2, arXiv:2404.11999, Sec. 4: u - alpha delta, u DPO's gap and delta that of the sequential divergences."""
    u = beta * (logps.policy_chosen.double() - logps.reference_chosen.double())
    u = u - beta * (logps.policy_rejected.double() - logps.reference_rejected.double())
    along_chosen, along_rejected = (_sequential_kl(tokens.kl) for tokens in logps.tokens())
    delta = beta * along_rejected - beta * along_chosen.detach()
    return torch.logaddexp(torch.zeros_like(u), alpha * delta - u)


def _sequential_kl(kl: Tensor | None) -> Tensor:
    """Add up the divergences of each row."""
    if kl is None:
        raise ValueError("TDPO needs the divergence at each token, got none")
    return torch.einsum("bt->b", kl.double())
