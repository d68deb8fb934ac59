"""What a person reads of a run's summary, by key, name and unit; a summary without a key has no such number."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from preftune.reporting.run_files import RunFiles, number_at

# Rows of a table of start and end: the key of the `eval` map, what a person calls it, and its unit.
ROWS = (
    ("loss", "loss", ""),
    ("accuracy", "accuracy", ""),
    ("logratio_margin", "margin of log-ratios", "nats"),
    ("rewards/margins", "margin of rewards", "nats"),
    ("chosen_logp_per_token", "log p per token, chosen", "nats"),
    ("rejected_logp_per_token", "log p per token, rejected", "nats"),
    ("kl_to_reference", "KL to the reference", "nats"),
)

# What a sweep can be ranked by, larger being better, and the measure that holds it.
OBJECTIVES = {
    "true_reward.policy.mean": "true_reward",
    "win_rate": "win_rate",
    "eval.accuracy": "accuracy",
    "eval.logratio_margin": "margin",
}


class Measured(NamedTuple):
    """A number of one run: its standard error where the run knows it, and over how many of what."""

    value: float
    stderr: float | None = None
    over: str = ""


class Measure(NamedTuple):
    """A column of a comparison: its key in the files, its names, its format, its meaning, and where it stands."""

    key: str
    name: str
    short: str
    form: str
    means: str
    of: Callable[[RunFiles], Measured | None]


def accuracy(run: RunFiles) -> Measured | None:
    """Return held-out accuracy with its binomial standard error.

    Two successes and two failures are added, so that an accuracy of 1 is not without error.

    Source:
        Agresti and Coull 1998, Approximate is better than exact, The American Statistician 52(2).
    """
    share, pairs = number_at(run.summary, "eval", "accuracy"), number_at(run.ledger, "held_out", "kept")
    if share is None or not pairs or pairs < 0:
        return None if share is None else Measured(share)
    middle = (share * pairs + 2) / (pairs + 4)
    spread = max(0.0, middle * (1 - middle)) / (pairs + 4)
    return Measured(share, math.sqrt(spread), f"{pairs:,.0f} held-out pairs")


def true_reward(run: RunFiles) -> Measured | None:
    """Return the true reward of the policy's sampled answers."""
    return _sampled(run, "true_reward", "policy")


def settled(objective: str, runs: Sequence[RunFiles]) -> str:
    """Return the key of `OBJECTIVES` that `auto` stands for: the true reward where all runs know it, else accuracy."""
    if objective != "auto":
        return objective
    known = bool(runs) and all(true_reward(run) for run in runs)
    return "true_reward.policy.mean" if known else "eval.accuracy"


def win_rate(run: RunFiles) -> Measured | None:
    """Return the share of prompts at which the policy's answer has the higher true reward."""
    return _sampled(run, "win_rate")


def kl(run: RunFiles) -> Measured | None:
    """Return the KL divergence to the reference, estimated from the policy's own answers."""
    return _sampled(run, "kl_to_reference") or _plain(run, "eval", "kl_to_reference")


def change(column: str) -> Callable[[RunFiles], Measured | None]:
    """Return what reads the change of `column` from the start; what the summary says, else end less start."""

    def of(run: RunFiles) -> Measured | None:
        said = number_at(run.summary, "eval", f"{column}_change")
        start, end = number_at(run.summary, "eval_start", column), number_at(run.summary, "eval", column)
        if said is not None:
            return Measured(said)
        return None if start is None or end is None else Measured(end - start)

    return of


def at(*names: str) -> Callable[[RunFiles], Measured | None]:
    """Return what reads the number below `names` in the summary."""
    return lambda run: _plain(run, *names)


def length_change(run: RunFiles) -> Measured | None:
    """Return by how many tokens the policy's sampled answers are longer than the reference's."""
    policy = number_at(run.summary, "length_sampled")
    reference = number_at(run.summary, "length_sampled_reference")
    return None if policy is None or reference is None else Measured(policy - reference)


def _plain(run: RunFiles, *names: str) -> Measured | None:
    value = number_at(run.summary, *names)
    return None if value is None else Measured(value)


def _sampled(run: RunFiles, *names: str) -> Measured | None:
    mean, stderr = number_at(run.summary, *names, "mean"), number_at(run.summary, *names, "stderr")
    if mean is None:
        return None
    prompts = number_at(run.config, "evaluate", "prompts")
    return Measured(mean, stderr, f"{prompts:.0f} prompts" if prompts else "the prompts")


MEASURES: Mapping[str, Measure] = {
    measure.key: measure
    for measure in (
        Measure(
            "true_reward",
            "true reward",
            "reward",
            ".3f",
            "mean of the world's own reward over the policy's sampled answers, which training never sees",
            true_reward,
        ),
        Measure(
            "win_rate",
            "win rate",
            "win",
            ".3f",
            "share of held-out prompts at which the policy's answer beats the reference's by the true reward, ties "
            "one half",
            win_rate,
        ),
        Measure(
            "accuracy",
            "accuracy",
            "accuracy",
            ".3f",
            "share of held-out pairs in which training moved chosen above rejected, ties one half",
            accuracy,
        ),
        Measure(
            "margin",
            "margin of log-ratios, nats",
            "margin",
            ".2f",
            "how far training moved chosen above rejected, free of beta",
            at("eval", "logratio_margin"),
        ),
        Measure(
            "kl",
            "KL to the reference, nats",
            "KL",
            ".2f",
            "how far the policy's own answers are from the reference, nats an answer",
            kl,
        ),
        Measure(
            "chosen_logp",
            "log p per token, chosen, nats",
            "chosen",
            ".3f",
            "log-probability of a token of the chosen answers at the end",
            at("eval", "chosen_logp_per_token"),
        ),
        Measure(
            "chosen_change",
            "change of it, chosen",
            "chosen Δ",
            "+.3f",
            "its change from the start; below 0 the chosen answers became less likely",
            change("chosen_logp_per_token"),
        ),
        Measure(
            "rejected_logp",
            "log p per token, rejected, nats",
            "rejected",
            ".3f",
            "log-probability of a token of the rejected answers at the end",
            at("eval", "rejected_logp_per_token"),
        ),
        Measure(
            "rejected_change",
            "change of it, rejected",
            "rejected Δ",
            "+.3f",
            "its change from the start",
            change("rejected_logp_per_token"),
        ),
        Measure(
            "length_change",
            "length change, tokens",
            "length Δ",
            "+.1f",
            "tokens by which the policy's sampled answers are longer than the reference's",
            length_change,
        ),
    )
}
