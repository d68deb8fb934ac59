"""The lines of a comparison: the frontier, and learning curves over each other; over seeds, means and their errors."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from preftune.reporting.axes import numeric
from preftune.reporting.colours import DISTINCT, Colour, distinct, in_order
from preftune.reporting.comparison import Comparison, Row
from preftune.reporting.run_files import RunFiles, finite, number_at
from preftune.reporting.scales import Axis
from preftune.reporting.series_chart import Point, Series, thinned

Steps = dict[int, dict[str, Any]]

# Stands below the frontier; by its root the first steps away from the reference have room beside the last.
DIVERGENCE = Axis("KL to the reference, nats an answer (root scale)", "root")
# What can stand on the frontier's left, in the order of preference: key of an event, its error, name.
_HEIGHTS = (
    ("true_reward/policy", "true_reward/policy_stderr", "true reward"),
    ("win_rate", "win_rate_stderr", "win rate"),
    ("eval_logratio/margin", "", "margin of log-ratios, nats"),
)

# Learning curves: key of an event, title.
CURVES = (
    ("eval_accuracy", "Accuracy, held out"),
    ("eval_loss", "Loss, held out"),
    ("eval_logratio/margin", "Margin of log-ratios, held out, nats"),
    ("eval_logps/chosen_per_token_change", "Change of log p per token, chosen, held out, nats"),
    ("loss", "Loss, training"),
)


class Painted(NamedTuple):
    """A row with its colour, and its place among the lines, which gives the shape of its marks."""

    row: Row
    colour: Colour
    place: int

    @property
    def style(self) -> str:
        """The class that names its colour."""
        return f"line-{self.place}"

    def series(self, points: Sequence[Point] = ()) -> Series:
        """Return its line through `points`."""
        return Series(self.row.label, self.style, points, self.place)


class Frontier(NamedTuple):
    """The frontier: what is on its left, a line for each row; without lines, why there are none."""

    height: str
    series: Sequence[Series]
    why: str


def painted(comparison: Comparison) -> list[Painted]:
    """Return the rows with their colours: along a sequence where they have an order, else distinct.

    They have an order, which is also that of the legend, by the one setting that differs where that is numeric; more
    than the distinct colours are ordered by rank.
    """
    rows = list(comparison.rows)
    axis = comparison.axes[0] if len(comparison.axes) == 1 else None
    if axis and all(axis in row.axes for row in rows) and numeric(row.axes[axis] for row in rows):
        rows.sort(key=lambda row: float(row.axes[axis]))
        colours = in_order(len(rows))
    else:
        colours = distinct(len(rows)) if len(rows) <= DISTINCT else in_order(len(rows))
    return [Painted(row, colour, place) for place, (row, colour) in enumerate(zip(rows, colours, strict=True))]


def named(lines: Sequence[Painted]) -> list[Painted]:
    """Return the lines that a legend names: all where they are few, else five along their order."""
    if len(lines) <= DISTINCT:
        return list(lines)
    return [lines[round(place * (len(lines) - 1) / 4)] for place in range(5)]


def frontier(lines: Sequence[Painted]) -> Frontier:
    """Return what each job gave for the divergence it spent, a point per evaluation.

    The first of true reward, win rate and margin is taken that a job has beside the divergence of sampled answers.

    Source:
        Rafailov et al. 2023, arXiv:2305.18290, Figure 2 (left).
    """
    steps = {line.place: [_sampled(job.run) for job in line.row.jobs] for line in lines}
    events = [event for runs in steps.values() for run in runs for event in run.values()]
    if not any(finite(event.get("kl/sampled")) for event in events):
        return Frontier("", (), "No answers were sampled, so how far each policy went is not known: evaluate.prompts.")
    for key, error, name in _HEIGHTS:
        if any(finite(event.get("kl/sampled")) and finite(event.get(key)) is not None for event in events):
            series = [line.series(_points(steps[line.place], key, error)) for line in lines]
            return Frontier(name, [_told(one, name) for one in series if one.points], "")
    return Frontier("", (), "Neither a reward nor a margin was measured where answers were sampled.")


def learning_curves(lines: Sequence[Painted], key: str) -> list[Series]:
    """Return the line of each row along the steps, for one key of the events."""
    series = []
    for line in lines:
        runs = [_with_change(job.run.by_step()) for job in line.row.jobs]
        series.append(line.series(thinned(_over_seeds(runs, key, lambda step, _: float(step)))))
    return [one for one in series if one.points]


def _sampled(run: RunFiles) -> Steps:
    """Return the events at which answers were sampled; of a run that logged none, its start and its end."""
    steps = run.by_step()
    if any("kl/sampled" in event for event in steps.values()) or not steps:
        return {step: event for step, event in steps.items() if finite(event.get("kl/sampled")) is not None}
    kl, error = (number_at(run.summary, "kl_to_reference", name) for name in ("mean", "stderr"))
    if kl is None or max(steps) == 0:
        return {}
    ends: Steps = {0: {"kl/sampled": 0.0}, max(steps): {"kl/sampled": kl, "kl/sampled_stderr": error}}
    for (step, event), who in zip(ends.items(), ("reference", "policy"), strict=True):
        event |= {name: value for name, value in steps.get(step, {}).items() if name == "eval_logratio/margin"}
        for name, part in (("true_reward/policy", "mean"), ("true_reward/policy_stderr", "stderr")):
            event[name] = number_at(run.summary, "true_reward", who, part)
    return ends


def _points(runs: Sequence[Steps], key: str, error: str) -> list[Point]:
    points = _over_seeds(runs, key, lambda _, event: finite(event.get("kl/sampled")))
    if len(runs) > 1:
        return points
    events = [event for event in runs[0].values() if finite(event.get(key)) is not None]
    return [
        point._replace(x_error=finite(event.get("kl/sampled_stderr")), y_error=finite(event.get(error)))
        for point, event in zip(points, events, strict=True)
    ]


def _over_seeds(runs: Sequence[Steps], key: str, across: Callable[[int, dict[str, Any]], float | None]) -> list[Point]:
    """Return the mean point of each step over the runs that have it, with the standard errors of the means."""
    points = []
    for step in sorted({step for run in runs for step in run}):
        here = [(across(step, run[step]), finite(run[step].get(key))) for run in runs if step in run]
        both = [(x, y) for x, y in here if x is not None and y is not None]
        if both:
            (x, x_error), (y, y_error) = (_mean_of(values) for values in zip(*both, strict=True))
            points.append(Point(x, y, x_error, y_error, f"step {step}"))
    return points


def _mean_of(values: Sequence[float]) -> tuple[float, float | None]:
    if len(values) == 1:
        return values[0], None
    return fmean(values), stdev(values) / math.sqrt(len(values))


def _with_change(steps: Steps) -> Steps:
    """Return the events with the change of the chosen answers' log-probability where only its value was logged."""
    key, changed = "eval_logps/chosen_per_token", "eval_logps/chosen_per_token_change"
    start = finite(next((event[key] for event in steps.values() if key in event), None))
    for event in steps.values():
        value = finite(event.get(key))
        if changed not in event and value is not None and start is not None:
            event[changed] = value - start
    return steps


def _told(series: Series, height: str) -> Series:
    """Return the line with points that say what they are."""
    points = [
        point._replace(
            says=f"{series.name}, {point.says}: {height} {_with_error(point.y, point.y_error)} at a KL of "
            f"{_with_error(point.x, point.x_error)} nats"
        )
        for point in series.points
    ]
    return series._replace(points=points)


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.2g}"
