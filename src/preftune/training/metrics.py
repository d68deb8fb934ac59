"""What is measured on pairs. The beta-free metrics can be compared across a sweep of beta; rewards cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preftune.losses.answers import AnswerLogps
from preftune.losses.logps import PairLogps
from preftune.losses.objective import Objective


@dataclass(frozen=True, slots=True)
class Totals:
    """What a training counted.

    Attributes:
        loss_first: Mean loss of the first step's pairs, before any update.
        loss_last: Mean loss of the last step's pairs, before its update.
        steps: Optimizer steps done.
        pairs: Pairs seen, each as often as it came.
        tokens: Tokens of prompts and answers in those pairs; a prompt counts once for each answer.
        seconds_in_reference: Wall-clock seconds spent on the reference while training.
        seconds_in_evaluation: Wall-clock seconds spent on evaluation while training.
        reference_computed: Pairs whose reference was computed before training; those of earlier runs are not.
        engine: What computed the log-probabilities: `trl` or `shared`.
        overflowed: Steps that moved nothing, as their scaled gradients overflowed float16.
    """

    loss_first: float
    loss_last: float
    steps: int
    pairs: int
    tokens: int
    seconds_in_reference: float
    seconds_in_evaluation: float
    reference_computed: int
    engine: str
    overflowed: int = 0


# Spread of a margin, in nats, up to which it is constant: float32 rounds sums of log-probabilities as far.
_ROUNDING = 1e-4


def pair_metrics(logps: PairLogps) -> dict[str, float]:
    """Measure `B` pairs without beta.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths.

    Returns:
        `logratio/margin`: mean margin, and `_p05`, `_p50`, `_p95`: its quantiles over the pairs, between neighbours by
        a line, in nats. `logratio/length_correlation`: Pearson's, of the margin with how many tokens the chosen answer
        is longer, in [-1, 1]; left out where either is constant. `accuracy`: share of pairs with a positive margin, a
        tie counting one half. Of the chosen and the rejected answers what `side_metrics` returns.
    """
    margin = logps.margin().double().cpu()
    chosen_lengths, rejected_lengths = logps.lengths()
    quantiles = margin.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    correlation = _correlation(margin, (chosen_lengths - rejected_lengths).double().cpu())
    return {
        "logratio/margin": margin.mean().item(),
        **dict(zip(("logratio/margin_p05", "logratio/margin_p50", "logratio/margin_p95"), quantiles, strict=True)),
        **({} if correlation is None else {"logratio/length_correlation": correlation}),
        "accuracy": _accuracy(margin),
        **side_metrics("chosen", logps.policy_chosen, logps.reference_chosen, chosen_lengths),
        **side_metrics("rejected", logps.policy_rejected, logps.reference_rejected, rejected_lengths),
    }


def side_metrics(side: str, policy: Tensor, reference: Tensor, lengths: Tensor) -> dict[str, float]:
    """Measure the answers of one side without beta.

    Args:
        side: `chosen` or `rejected`.
        policy: Their log-probabilities under the policy, of shape `(B,)`, in nats.
        reference: The same under the reference.
        lengths: Their tokens, of shape `(B,)`.

    Returns:
        `logps/<side>_per_token`: mean over tokens under the policy, and `_change`, by how much that differs from the
        reference's, in nats. `length/<side>`: mean, in tokens. Of the chosen also `kl/chosen`, the mean log-ratio in
        nats an answer, and `logratio/chosen_falls`, the share of answers less likely than under the reference.
    """
    policy, reference, lengths = (each.double().cpu() for each in (policy, reference, lengths))
    change = policy - reference
    found = {
        f"logps/{side}_per_token": (policy.sum() / lengths.sum()).item(),
        f"logps/{side}_per_token_change": (change.sum() / lengths.sum()).item(),
        f"length/{side}": lengths.mean().item(),
    }
    if side == "chosen":
        found |= {"kl/chosen": change.mean().item(), "logratio/chosen_falls": (change < 0).double().mean().item()}
    return found


def source_metrics(logps: PairLogps, numbers: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Measure the pairs of each source apart.

    Args:
        logps: Log-probabilities of `B` pairs.
        numbers: The place of each pair's source in `names`, of shape `(B,)`.
        names: What the sources are called.

    Returns:
        `sources/<name>/accuracy`, `/margin` (mean, in nats) and `/pairs`, of each source that has pairs.
    """
    margin = logps.margin().double().cpu()
    found = {}
    for number, name in enumerate(names):
        its = margin[numbers.cpu() == number]
        if len(its):
            found[f"sources/{name}/accuracy"] = _accuracy(its)
            found[f"sources/{name}/margin"] = its.mean().item()
            found[f"sources/{name}/pairs"] = float(len(its))
    return found


def term_metrics(objective: Objective, logps: PairLogps) -> dict[str, float]:
    """Measure the penalty terms over `B` pairs.

    Returns:
        Of each term by its name: `terms/<name>`, the mean that it adds to the loss; `terms/<name>_score`, the mean of
        what it measures; and `terms/<name>_weight`, where the weight moves.
    """
    scores = objective.scores(logps)
    found = {}
    for name, cost in objective.costs(logps).items() if scores else ():
        if name in scores:
            found[f"terms/{name}"] = cost.mean().item()
            found[f"terms/{name}_score"] = scores[name].mean().item()
    moving = {name for name, term in objective.formula.terms.items() if term.rate}
    return found | {f"terms/{name}_weight": objective.multipliers[name] for name in moving}


def reward_metrics(logps: PairLogps, beta: float) -> dict[str, float]:
    """Measure `B` pairs as TRL does, by TRL's names: rewards are `beta` times a log-ratio, in nats."""
    chosen = beta * logps.chosen_logratio()
    rejected = beta * logps.rejected_logratio()
    return {
        "rewards/chosen": chosen.mean().item(),
        "rewards/rejected": rejected.mean().item(),
        "rewards/accuracies": (chosen > rejected).float().mean().item(),
        "rewards/margins": (chosen - rejected).mean().item(),
        "logps/chosen": logps.policy_chosen.mean().item(),
        "logps/rejected": logps.policy_rejected.mean().item(),
    }


def answer_metrics(logps: AnswerLogps) -> dict[str, float]:
    """Measure single answers without beta: of the desirable ones as of chosen, of the others as of rejected.

    Returns:
        Of each side that has answers what `side_metrics` returns.
    """
    found: dict[str, float] = {}
    for name, side in (("chosen", logps.desirable), ("rejected", ~logps.desirable)):
        if bool(side.any()):
            found |= side_metrics(name, logps.policy[side], logps.reference[side], logps.lengths[side])
    return found


def answer_reward_metrics(logps: AnswerLogps, beta: float) -> dict[str, float]:
    """Measure single answers as TRL does, by TRL's names.

    Returns:
        As `reward_metrics` of each side that has answers, and as `rewards/margins` the difference of their means.
        `kl`: mean log-ratio of the mismatched answers, in nats, at least 0.
    """
    found = {"kl": logps.mismatched_logratio().mean().clamp(min=0).item()}
    for name, side in (("chosen", logps.desirable), ("rejected", ~logps.desirable)):
        if bool(side.any()):
            found[f"rewards/{name}"] = beta * logps.logratio()[side].mean().item()
            found[f"logps/{name}"] = logps.policy[side].mean().item()
    if {"rewards/chosen", "rewards/rejected"} <= found.keys():
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found


def pairs_of(logps: AnswerLogps) -> PairLogps:
    """Return the record of the pairs whose chosen and rejected answers stand in turn."""
    sides = (logps.policy, logps.reference, logps.lengths)
    (policy, reference, lengths) = ((side[0::2], side[1::2]) for side in sides)
    return PairLogps(*policy, *reference, *lengths)


def merge(collected: Mapping[str, list[float]], shares: Sequence[float]) -> None:
    """Make what was collected of the last micro-batches, each a mean, one mean by their shares of the step's pairs."""
    for values in collected.values():
        if len(shares) > 1 and len(values) >= len(shares):
            last = values[-len(shares) :]
            values[-len(shares) :] = [sum(value * share for value, share in zip(last, shares, strict=True))]


def _accuracy(margin: Tensor) -> float:
    return ((torch.sign(margin) + 1) / 2).mean().item()


def _correlation(margin: Tensor, longer: Tensor) -> float | None:
    if len(margin) < 2 or margin.std() < _ROUNDING or not bool(longer.std()):
        return None
    return torch.corrcoef(torch.stack([margin, longer]))[0, 1].item()
