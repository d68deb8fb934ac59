"""Several lines on one chart, as SVG without a script: what each point says stands in its title."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from preftune.reporting.charts import number, ticks
from preftune.reporting.page import safe

_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 390, 12, 206
# A line of more points than this is drawn without a mark at each.
_MARKED = 24
# Marks around (0, 0), in turn: disc, square, triangle, diamond, triangle on its tip.
_SHAPES = (
    "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0z",
    "M-3.2 -3.2h6.4v6.4h-6.4z",
    "M0 -4.2l4.2 7h-8.4z",
    "M0 -4.6l4.6 4.6l-4.6 4.6l-4.6 -4.6z",
    "M0 4.2l4.2 -7h-8.4z",
)
# Decades from which on an axis of values above 0 is logarithmic.
_DECADES = 2.0


class Point(NamedTuple):
    """A point of a line, with its standard errors, None where unknown or nothing, and what it says."""

    x: float
    y: float
    x_error: float | None = None
    y_error: float | None = None
    says: str = ""


class Series(NamedTuple):
    """A line: its name, the class of its colour, its points from left to right or in time, the shape of their marks."""

    name: str
    colour: str
    points: Sequence[Point]
    shape: int = 0


class Axis(NamedTuple):
    """What an axis counts, and whether it is logarithmic: points at 0 and below have no place on it then."""

    name: str
    log: bool = False


class _Scale(NamedTuple):
    """From values to places: linear or logarithmic between `low` and `high`."""

    low: float
    high: float
    start: float
    end: float
    marks: Sequence[float]
    log: bool

    def at(self, value: float) -> float:
        low, high, value = (math.log10(one) if self.log else one for one in (self.low, self.high, value))
        share = (value / 2 - low / 2) / (high / 2 - low / 2 or 1.0)  # the whole difference may be infinite
        return self.start + (self.end - self.start) * min(1.05, max(-0.05, share))


def spans_decades(values: Iterable[float]) -> bool:
    """Return whether the values above 0 span so much that an axis of them is better logarithmic."""
    above = [value for value in values if value > 0]
    return bool(above) and math.log10(max(above)) - math.log10(min(above)) > _DECADES


def series_chart(series: Sequence[Series], x: Axis, y: Axis, kind: str = "") -> str:
    """Draw the lines; a chart without a point to draw says so instead.

    Args:
        series: Those whose points are finite are drawn, the first on top.
        x: The axis below.
        y: The axis on the left.
        kind: Class of the chart.
    """
    seen = [one._replace(points=[point for point in one.points if _placed(point, x, y)]) for one in series]
    points = [point for one in seen for point in one.points]
    if not points:
        return '<p class="quiet">Nothing was logged.</p>'
    across = _scale([_reach(point.x, point.x_error) for point in points], (_LEFT, _RIGHT), x.log, 6)
    up = _scale([_reach(point.y, point.y_error) for point in points], (_BOTTOM, _TOP), y.log, 6)
    parts = [*_frame(across, up, x.name)]
    for one in reversed(seen):
        parts.append(_drawn(one, across, up))
    said = safe(f"{y.name} by {x.name}" if y.name else x.name)
    shape = f'class="chart {kind}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}"'
    logs = [f"the scale {place} is logarithmic" for axis, place in ((x, "below"), (y, "on the left")) if axis.log]
    note = f'<p class="note">{" and ".join(logs).capitalize()}; what is 0 has no place on it.</p>' if logs else ""
    above = f'<p class="axis-name">{safe(y.name)}</p>' if y.name else ""
    return f"{above}<svg {shape}>{''.join(parts)}</svg>{note}"


def series_legend(series: Iterable[Series]) -> str:
    """Name lines by their colours and marks."""
    items = "".join(
        f'<li class="{one.colour}"><svg class="key" viewBox="0 0 30 12" aria-hidden="true">'
        f'<line class="line" x1="1" x2="29" y1="6" y2="6"/>{_mark(one.shape, 15, 6)}</svg>{safe(one.name)}</li>'
        for one in series
    )
    return f'<ul class="legend">{items}</ul>'


def thinned(points: Sequence[Point], most: int = 240) -> list[Point]:
    """Return at most `most` points: means of as many neighbours as that takes."""
    size = math.ceil(len(points) / most) or 1
    if size == 1:
        return list(points)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [Point(part[-1].x, math.fsum(point.y for point in part) / len(part)) for part in parts]


def _placed(point: Point, x: Axis, y: Axis) -> bool:
    finite = math.isfinite(point.x) and math.isfinite(point.y)
    return finite and (point.x > 0 or not x.log) and (point.y > 0 or not y.log)


def _reach(value: float, error: float | None) -> tuple[float, float]:
    error = error if error is not None and math.isfinite(error) else 0.0
    return value - error, value + error


def _scale(reaches: Sequence[tuple[float, float]], places: tuple[int, int], log: bool, count: int) -> _Scale:
    low, high = min(reach[0] for reach in reaches), max(reach[1] for reach in reaches)
    if log:
        above = [value for reach in reaches for value in reach if value > 0]
        first, last = math.floor(math.log10(min(above))), math.ceil(math.log10(max(above)))
        last = max(last, first + 1)
        every = math.ceil((last - first) / 6)
        marks = [10.0**power for power in range(first, last + 1, every)]
        return _Scale(10.0**first, 10.0**last, *places, marks, log)
    if low == high:
        low, high = low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
    else:
        margin = (high / 2 - low / 2) * 0.08
        low, high = min(low, max(low - margin, 0.0) if low >= 0 else low - margin), high + margin
    return _Scale(low, high, *places, ticks(low, high, count), log)


def _frame(across: _Scale, up: _Scale, below: str) -> Iterable[str]:
    for value in up.marks:
        place = up.at(value)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{number(value)}</text>'
    for value in across.marks:
        place = across.at(value)
        yield f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{_BOTTOM}" y2="{_BOTTOM + 4}"/>'
        yield f'<text x="{place:.1f}" y="{_BOTTOM + 17}" text-anchor="middle">{number(value)}</text>'
    yield f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>'
    yield f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{safe(below)}</text>'


def _drawn(one: Series, across: _Scale, up: _Scale) -> str:
    places = " ".join(f"{across.at(point.x):.1f},{up.at(point.y):.1f}" for point in one.points)
    parts = [f'<polyline class="line" points="{places}"><title>{safe(one.name)}</title></polyline>']
    for point in one.points:
        if point.y_error:
            low, high = (up.at(max(value, up.low)) for value in _reach(point.y, point.y_error))
            place = across.at(point.x)
            parts.append(f'<line class="error" x1="{place:.1f}" x2="{place:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        if point.x_error:
            low, high = (across.at(max(value, across.low)) for value in _reach(point.x, point.x_error))
            place = up.at(point.y)
            parts.append(f'<line class="error" x1="{low:.1f}" x2="{high:.1f}" y1="{place:.1f}" y2="{place:.1f}"/>')
    if len(one.points) <= _MARKED:
        for point in one.points:
            said = safe(point.says or f"{one.name}: {number(point.y)} at {number(point.x)}")
            parts.append(_mark(one.shape, across.at(point.x), up.at(point.y), f"<title>{said}</title>"))
    return f'<g class="{one.colour}">{"".join(parts)}</g>'


def _mark(shape: int, across: float, up: float, within: str = "") -> str:
    drawn = _SHAPES[shape % len(_SHAPES)]
    return f'<path class="dot" transform="translate({across:.1f} {up:.1f})" d="{drawn}">{within}</path>'
