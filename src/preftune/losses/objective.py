"""What is minimised: losses with their weights, penalty terms, and the few numbers that move between steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from preftune.losses import rewards, scratch_objective
from preftune.losses.logps import PairLogps
from preftune.losses.traits import Traits, traits_of

PairLoss = Callable[[PairLogps], Tensor]

# Share of the old average that a step leaves in a running one: beta-DPO, arXiv:2407.08639, Sec. 4.2.
_MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Member:
    """One loss of an objective.

    Attributes:
        loss: The function.
        scratch: The one that checks it.
        parameters: Given to both.
        weight: Of its cost in the sum.
        ld_alpha: Weight of the tokens beyond the shorter answer's length; None: 1.
        divergence: Arguments of `rewards.divergent`; None: reverse KL.
    """

    loss: Callable[..., Tensor]
    scratch: Callable[..., Tensor]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    ld_alpha: float | None = None
    divergence: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Term:
    """A penalty on each pair.

    Attributes:
        score: The function, which gives a number for each pair, of shape `(B,)`.
        scratch: The one that checks it.
        parameters: Given to both.
        weight: Of the term; where `rate` is above 0, where its multiplier starts.
        limit: Scores up to it cost nothing; None: the score itself is the cost.
        rate: Step of the multiplier, for each unit by which a step's mean score is above `limit`; 0: it stays.
    """

    score: Callable[..., Tensor]
    scratch: Callable[..., Tensor]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    limit: float | None = None
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Formula:
    """What an objective is made of: losses and terms by name, and whether WPO weighs the losses."""

    members: Mapping[str, Member]
    terms: Mapping[str, Term] = field(default_factory=dict)
    use_weighting: bool = False

    def traits(self) -> Traits:
        """Return what holds of all of it."""
        found = [traits_of(each.loss) for each in self.members.values()]
        found += [traits_of(each.score) for each in self.terms.values()]
        tokens = {name for traits in found for name in traits.tokens}
        tokens |= {"logps", "collision"} if self.use_weighting else set()
        tokens |= {"logps"} if any(each.ld_alpha is not None for each in self.members.values()) else set()
        return Traits(
            per_pair=all(traits.per_pair for traits in found),
            accumulates=all(traits.accumulates for traits in found),
            tokens=tuple(sorted(tokens)),
            running=tuple(sorted({name for traits in found for name in traits.running})),
        )


class Objective:
    r"""The cost of pairs under a formula, and from scratch.

    .. math:: w_i \Big(v_i \sum_k a_k l_k(i) + \sum_j c_j(i)\Big)

    with :math:`w_i` the pair's extra `weight` (1 where it has none), :math:`v_i` the weight of WPO where it is on,
    :math:`a_k` the weights of the losses, and :math:`c_j` the terms: :math:`\lambda_j s_j(i)`, or with a limit
    :math:`\lambda_j \max(0, s_j(i) - L_j)`, or with a rate :math:`\lambda_j (s_j(i) - L_j)`, whose multiplier
    :math:`\lambda_j \ge 0` rises by the rate times the step's mean of :math:`s_j - L_j` after every step.

    The mean over a batch is :math:`\sum_i w_i l_i / B`, and not :math:`\sum_i w_i l_i / \sum_i w_i`: the latter divides
    each micro-batch by weights of its own, so that the gradient of a step depends on how its pairs fall into
    micro-batches (weights 1 and 3 in two micro-batches of one pair train both pairs alike), and has no value where all
    weights are 0. Doubling every weight therefore doubles the loss.

    Attributes:
        multipliers: The weight of each term as it stands.
        running: Averages over the steps so far, as `PairLogps.running` gives them to a loss.
    """

    def __init__(self, formula: Formula) -> None:
        """Start with the multipliers of the formula and nothing seen."""
        self.formula = formula
        self.traits = formula.traits()
        self.multipliers = {name: term.weight for name, term in formula.terms.items()}
        self.running: dict[str, float] = {}
        self._seen: list[PairLogps] = []

    def __call__(self, logps: PairLogps) -> Tensor:
        """Return the cost of each pair, of shape `(B,)`.

        Raises:
            ValueError: By a loss or a term, or where a pair's weight is below 0.
        """
        return torch.stack(list(self.costs(logps).values())).sum(dim=0)

    def costs(self, logps: PairLogps) -> dict[str, Tensor]:
        """Return the parts of that cost, each of shape `(B,)`: `loss`, and each term by its name."""
        logps = replace(logps, running={**logps.running, **self.running})
        loss = torch.stack([m.weight * m.loss(_seen_by(m, logps), **m.parameters) for m in self._members()]).sum(dim=0)
        parts = {"loss": loss * rewards.wpo_weight(logps).to(loss) if self.formula.use_weighting else loss}
        for name, term in self.formula.terms.items():
            parts[name] = _charged(term, term.score(logps, **term.parameters), self.multipliers[name])
        weights = self._pair_weights(logps)
        return parts if weights is None else {name: weights.to(part) * part for name, part in parts.items()}

    def from_scratch(self, logps: PairLogps) -> Tensor:
        """Return the cost of each pair by the independent losses, of shape `(B,)`, in float64."""
        return scratch_objective.cost(
            self.formula, self.multipliers, replace(logps, running={**logps.running, **self.running})
        )

    def scores(self, logps: PairLogps) -> dict[str, Tensor]:
        """Return what each term measures, before weight and limit, of shape `(B,)`."""
        return {name: term.score(logps, **term.parameters) for name, term in self.formula.terms.items()}

    def observe(self, logps: PairLogps) -> None:
        """Take note of the pairs of a micro-batch that trains, where something moves by them."""
        if self.traits.running or any(term.rate for term in self.formula.terms.values()):
            self._seen.append(logps)

    def advance(self) -> None:
        """Move multipliers and running averages by the pairs observed since the last step."""
        if not self._seen:
            return
        seen, self._seen = PairLogps.concatenate(self._seen), []
        margin = seen.margin().double().mean().item()
        self.running = {"margin": _MOMENTUM * self.running.get("margin", margin) + (1 - _MOMENTUM) * margin}
        means = {name: score.double().mean().item() for name, score in self.scores(seen).items()}
        for name, term in self.formula.terms.items():
            if term.limit is not None:
                self.multipliers[name] = max(0.0, self.multipliers[name] + term.rate * (means[name] - term.limit))

    def state(self) -> dict[str, dict[str, float]]:
        """Return what moved so far; for between two steps."""
        return {"multipliers": dict(self.multipliers), "running": dict(self.running)}

    def restore(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from what `state` returned."""
        self.multipliers, self.running = dict(state["multipliers"]), dict(state["running"])

    def _pair_weights(self, logps: PairLogps) -> Tensor | None:
        if "weight" not in logps.extras or bool(logps.extras["weight"].isnan().all()):
            return None
        weights = logps.extras["weight"]
        if bool((weights < 0).any()):
            raise ValueError(f"weight must be at least 0, got {weights[weights < 0][0].item():g}")
        if not self.traits.per_pair:
            raise ValueError("weight must be left out for a loss whose costs belong to no single pair, got one")
        return torch.where(weights.isnan(), 1.0, weights)

    def _members(self) -> list[Member]:
        return list(self.formula.members.values())


def _seen_by(member: Member, logps: PairLogps) -> PairLogps:
    if member.ld_alpha is not None:
        logps = rewards.desensitized(logps, ld_alpha=member.ld_alpha)
    if member.divergence is not None:
        logps = rewards.divergent(logps, **member.divergence)
    return logps


def _charged(term: Term, score: Tensor, multiplier: float) -> Tensor:
    if term.limit is None:
        return multiplier * score
    excess = score - term.limit
    return multiplier * (excess if term.rate else torch.relu(excess))
