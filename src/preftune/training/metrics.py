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
        engine: What computed the log-probabilities: `trl` or `shared`.
    """

    loss_first: float
    loss_last: float
    steps: int
    pairs: int
    tokens: int
    seconds_in_reference: float
    engine: str


def pair_metrics(logps: PairLogps) -> dict[str, float]:
    """Measure `B` pairs without beta.

    Args:
        logps: Log-probabilities of `B` pairs, with lengths.

    Returns:
        `logratio/margin`: mean margin, in nats. `accuracy`: share of pairs with a positive margin, a tie counting
        one half. `logps/chosen_per_token`, `logps/rejected_per_token`: mean over tokens under the policy, in nats.
    """
    margin = logps.margin().double()
    chosen_lengths, rejected_lengths = logps.lengths()
    return {
        "logratio/margin": margin.mean().item(),
        "accuracy": ((torch.sign(margin) + 1) / 2).mean().item(),
        "logps/chosen_per_token": _per_token(logps.policy_chosen, chosen_lengths),
        "logps/rejected_per_token": _per_token(logps.policy_rejected, rejected_lengths),
    }


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


def answer_metrics(logps: AnswerLogps, beta: float, *, paired: bool) -> dict[str, float]:
    """Measure single answers by the names that pairs are measured by.

    Args:
        logps: Log-probabilities of the answers; where `paired`, chosen and rejected of each pair in turn.
        beta: Reward for a nat of log-ratio.
        paired: Whether there are pairs to measure: accuracies and the margin of log-ratios are of pairs alone.

    Returns:
        As `pair_metrics` and `reward_metrics`; without pairs what is of chosen (desirable) or rejected answers alone,
        as far as there are such, and as `rewards/margins` the difference of their means. `kl`: mean log-ratio of the
        mismatched answers, in nats, at least 0.
    """
    shift = {"kl": logps.mismatched_logratio().mean().clamp(min=0).item()}
    if paired:
        sides = (logps.policy, logps.reference, logps.lengths)
        (policy, reference, lengths) = ((side[0::2], side[1::2]) for side in sides)
        pairs = PairLogps(*policy, *reference, *lengths)
        return pair_metrics(pairs) | reward_metrics(pairs, beta) | shift
    found = shift
    for name, side in (("chosen", logps.desirable), ("rejected", ~logps.desirable)):
        if bool(side.any()):
            found[f"rewards/{name}"] = beta * logps.logratio()[side].mean().item()
            found[f"logps/{name}"] = logps.policy[side].mean().item()
            found[f"logps/{name}_per_token"] = _per_token(logps.policy[side], logps.lengths[side])
    if {"rewards/chosen", "rewards/rejected"} <= found.keys():
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found


def merge(collected: Mapping[str, list[float]], shares: Sequence[float]) -> None:
    """Make what was collected of the last micro-batches, each a mean, one mean by their shares of the step's pairs."""
    for values in collected.values():
        if len(shares) > 1 and len(values) >= len(shares):
            last = values[-len(shares) :]
            values[-len(shares) :] = [sum(value * share for value, share in zip(last, shares, strict=True))]


def _per_token(sums: Tensor, lengths: Tensor) -> float:
    return (sums.double().sum() / lengths.double().sum()).item()
