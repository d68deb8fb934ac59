"""The from-scratch side of `terms`: as in `scratch`, each from its definition, in float64."""

from collections.abc import Callable

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps


def nll(logps: PairLogps) -> Tensor:
    """Likelihood of chosen, arXiv:2404.19733, as the mean surprise of a token."""
    surprises, counts = logps.policy_chosen.double().neg(), logps.lengths()[0].double()
    return torch.mul(surprises, counts.reciprocal())


def length(logps: PairLogps) -> Tensor:
    """The margin, where it is above 0 and chosen is the longer, in proportion to the tokens it is longer by."""
    scores = []
    for place, (longer, shorter) in enumerate(zip(*(count.tolist() for count in logps.lengths()), strict=True)):
        gained = logps.policy_chosen[place].double() - logps.reference_chosen[place].double()
        gained = gained - logps.policy_rejected[place].double() + logps.reference_rejected[place].double()
        earns = bool(gained > 0) and longer > shorter
        scores.append(gained * ((longer - shorter) / (longer + shorter)) if earns else 0.0 * gained)
    return torch.stack(scores)


def kl(logps: PairLogps) -> Tensor:
    """The sequential divergence, arXiv:2404.11999, of the mean answer."""
    of_answers = [tokens.kl.double().sum(dim=-1) for tokens in logps.tokens() if tokens.kl is not None]
    return torch.stack(of_answers).mean(dim=0)


SCRATCH_TERMS: dict[str, Callable[..., Tensor]] = {"nll": nll, "length": length, "kl": kl}
