"""Which job to take, and how sure that is, in sentences."""

import math
from collections import Counter
from typing import Literal, NamedTuple

from preftune.reporting.comparison import Comparison, Row, Spread
from preftune.reporting.measures import MEASURES
from preftune.reporting.run_files import number_at

Sureness = Literal["clear", "likely", "open", "unknown", "alone", "none"]

# The 97.5th percentile of Student's t with 1 to 10 degrees of freedom; more are taken as 10.
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
_NORMAL = 2.0


class Recommendation(NamedTuple):
    """What to take, in words.

    Attributes:
        rank: Of the row that is recommended; None where none is.
        label: What tells that row from the others; None where none is.
        sure: How sure that is.
        sentence: Both, with the numbers.
        advice: What to do where it is not sure; empty where nothing is to be done.
    """

    rank: int | None
    label: str | None
    sure: Sureness
    sentence: str
    advice: str


def recommend(comparison: Comparison) -> Recommendation:
    """Recommend the best job by the objective among those whose verdict is healthy.

    How sure that is goes by its difference from the healthy runner-up, in standard errors of that difference, and a
    threshold of it: two standard errors, where they come from many prompts or pairs; where they come from seeds, the
    97.5th percentile of Student's t with as many degrees of freedom as both have seeds, less two. From the threshold on
    the difference is `clear`, from half of it `likely`, below that `open`. Answers to the same prompts are taken as
    independent, so that the difference is if anything surer than it is said to be; that the best of many jobs is best
    partly by luck speaks against it.
    """
    ranked = [row for row in comparison.rows if row.values[comparison.measure] is not None]
    healthy = [row for row in ranked if row.healthy]
    name = MEASURES[comparison.measure].name
    if not ranked:
        said = f"No job has a {name}" if comparison.rows else "No job came to a result"
        advice = "Rank by something else with --objective." if comparison.rows else "Mend what the jobs failed of."
        return Recommendation(None, None, "none", f"{said}: there is nothing to recommend.", advice)
    if not healthy:
        return _none_healthy(ranked, comparison, name)
    best, better = healthy[0], ranked[: ranked.index(healthy[0])]
    aside = f" {_higher(better, comparison.measure)}" if better else ""
    said = f"Take {best.label}: its {name} of {best.spelled(MEASURES[comparison.measure])}"
    if len(healthy) == 1:
        others = len(ranked) - 1
        alone = f"it is the only healthy job of {len(ranked)}" if others else "there is no other job to compare it with"
        return Recommendation(best.rank, best.label, "alone", f"{said} stands alone: {alone}.{aside}", "")
    sure, compared = _compared(best, healthy[1], comparison.measure)
    sentence = f"{said} is the best of {len(healthy)} healthy jobs, {compared}.{aside}"
    return Recommendation(best.rank, best.label, sure, sentence, "" if sure == "clear" else _advice(best, comparison))


def _none_healthy(ranked: list[Row], comparison: Comparison, name: str) -> Recommendation:
    words = ", ".join(f"{count} {word}" for word, count in Counter(row.verdict for row in ranked).items())
    best = ranked[0]
    sentence = (
        f"No job is healthy ({words}), so none is recommended. By {name} {best.label} is first with "
        f"{best.spelled(MEASURES[comparison.measure])}, but {best.verdict}."
    )
    return Recommendation(None, None, "none", sentence, best.sentence)


def _higher(better: list[Row], measure: str) -> str:
    named = ", ".join(f"{row.label} ({row.spelled(MEASURES[measure])}, {row.verdict})" for row in better[:3])
    more = f" and {len(better) - 3} more" if len(better) > 3 else ""
    return f"Higher, but not healthy: {named}{more}."


def _compared(best: Row, second: Row, measure: str) -> tuple[Sureness, str]:
    first, other = best.values[measure], second.values[measure]
    against = f"{second.label} ({second.spelled(MEASURES[measure])})"
    if first is None or other is None or first.stderr is None or other.stderr is None:
        return "unknown", f"ahead of {against}; how sure that is cannot be said, as no standard error is known"
    difference, error = first.mean - other.mean, math.hypot(first.stderr, other.stderr)
    if error == 0:
        sure: Sureness = "clear" if difference else "open"
        return sure, f"{difference:.3g} above {against}, {'without any spread' if difference else 'its equal'}"
    threshold = _threshold(first, other)
    distance = difference / error
    sure = "clear" if distance >= threshold else "likely" if distance >= threshold / 2 else "open"
    words = {
        "clear": "which is clear",
        "likely": "which is likely but not clear",
        "open": "which does not tell the two apart",
    }
    over = first.over if first.over == other.over else f"{first.over} and {other.over}"
    errors = f"{distance:.1f} standard errors (over {over}; {threshold:g} would be clear)"
    return sure, f"{errors} above {against}, {words[sure]}"


def _threshold(first: Spread, second: Spread) -> float:
    if first.n == 1 and second.n == 1:
        return _NORMAL
    freedom = max(1, first.n + second.n - 2)
    return _STUDENT[min(freedom, len(_STUDENT)) - 1]


def _advice(best: Row, comparison: Comparison) -> str:
    """Return what would tell the first from the second."""
    seeds = max(len(row.jobs) for row in comparison.rows)
    more = "add seed=0,1,2 to the command" if seeds == 1 else f"add seeds: seed={','.join(map(str, range(2 * seeds)))}"
    if comparison.measure in ("true_reward", "win_rate"):
        prompts = number_at(best.jobs[0].run.config, "evaluate", "prompts")
        now = f" ({prompts:.0f} now)" if prompts else ""
        return f"To know, {more}, or sample more prompts with evaluate.prompts{now}."
    return f"To know, {more}, or hold out more pairs with data.test_size."
