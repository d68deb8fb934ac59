"""The curves of one run, in groups that belong together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from preftune.reporting.page import safe
from preftune.reporting.run_files import finite
from preftune.reporting.scales import Axis, spans_decades
from preftune.reporting.series_chart import Point, Series, series_chart, series_legend, thinned

Steps = Mapping[int, Mapping[str, Any]]


class _Line(NamedTuple):
    """A key of the events, what it is called, its colour, and the key of its standard error."""

    key: str
    name: str
    colour: str
    error: str = ""


class _Group(NamedTuple):
    """A chart: its title, its lines, whether it may be logarithmic."""

    title: str
    lines: Sequence[_Line]
    log: bool = False


def _both(key: str) -> list[_Line]:
    return [_Line(f"eval_{key}", "held out", "line-chosen"), _Line(key, "training", "line-plain")]


def _answers(key: str) -> list[_Line]:
    return [
        _Line(key.format("chosen"), "chosen", "line-chosen"),
        _Line(key.format("rejected"), "rejected", "line-rejected"),
    ]


def _sampled(policy: str, reference: str) -> list[_Line]:
    return [
        _Line(policy, "policy", "line-chosen", f"{policy}_stderr"),
        _Line(reference, "reference", "line-plain", f"{reference}_stderr"),
    ]


_MARGIN = "eval_logratio/margin"
_FIRST = (
    _Group("Loss", _both("loss"), log=True),
    _Group("Accuracy", _both("accuracy")),
    _Group(
        "Margin of log-ratios, nats",
        [
            *_both("logratio/margin"),
            _Line(f"{_MARGIN}_p05", "held out, 5th and 95th percentile", "line-light"),
            _Line(f"{_MARGIN}_p95", "", "line-light"),
        ],
    ),
    _Group("Change of log p per token, held out, nats", _answers("eval_logps/{}_per_token_change")),
    _Group(
        "KL to the reference, nats an answer",
        [
            _Line("kl/sampled", "the policy's own answers", "line-chosen", "kl/sampled_stderr"),
            _Line("eval_kl/chosen", "the chosen answers, log-ratio", "line-plain"),
        ],
    ),
    _Group("True reward", _sampled("true_reward/policy", "true_reward/reference")),
    _Group("Win rate over the reference", [_Line("win_rate", "", "line-chosen", "win_rate_stderr")]),
    _Group("Length of sampled answers, tokens", _sampled("length/sampled", "length/sampled_reference")),
    _Group("Share of pairs whose chosen answer fell", _both("logratio/chosen_falls")),
)
_MORE = (
    _Group("Gradient norm", [_Line("grad_norm", "", "line-plain")], log=True),
    _Group("Learning rate", [_Line("learning_rate", "", "line-plain")]),
    _Group("Log p per token, held out, nats", _answers("eval_logps/{}_per_token")),
    _Group("Correlation of margin and length", _both("logratio/length_correlation")),
    _Group("Pairs a second", [_Line("speed/pairs_per_second", "", "line-plain")]),
    _Group("Tokens a second", [_Line("speed/tokens_per_second", "", "line-plain")]),
    _Group("Peak memory, bytes", [_Line("memory/peak_bytes", "", "line-plain")]),
    _Group("Share of trained entries that moved", [_Line("adapter/moved", "", "line-plain")]),
)


def curves_section(steps: Steps) -> Iterator[str]:
    """Yield the section of the curves, a chart for each group that was logged; nothing where none was.

    Args:
        steps: What was logged at each step, from `RunFiles.by_step`.
    """
    first, more = ([chart for group in groups if (chart := _chart(group, steps))] for groups in (_FIRST, _MORE))
    if not first and not more:
        return
    yield "<h2>Curves</h2>"
    yield f'<div class="cards">{"".join(first)}</div>'
    if more:
        yield f'<details class="more"><summary>{len(more)} more</summary>'
        yield f'<div class="cards">{"".join(more)}</div></details>'


def _chart(group: _Group, steps: Steps) -> str:
    drawn = [_series(line, steps)._replace(shape=place) for place, line in enumerate(group.lines)]
    series = [one for one in drawn if one.points]
    if not series:
        return ""
    heights = [point.y for one in series for point in one.points]
    log = group.log and min(heights) > 0 and spans_decades(heights)
    named = [one for one in series if one.name]
    legend = series_legend(named) if named else ""
    chart = series_chart(series, Axis("optimizer steps"), Axis("", "log" if log else "linear"))
    return f'<section class="card"><h3>{safe(group.title)}</h3>{legend}{chart}</section>'


def _series(line: _Line, steps: Steps) -> Series:
    points = []
    for step, event in steps.items():
        value = finite(event.get(line.key))
        if value is not None:
            points.append(Point(float(step), value, None, finite(event.get(line.error))))
    return Series(line.name, line.colour, thinned(points))
