"""Several lines on one chart, as SVG without a script: what each point says stands in its title."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from preftune.reporting.charts import number
from preftune.reporting.page import safe
from preftune.reporting.scales import Axis, Scale, scale_of

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
    across = scale_of(x, [_reach(point.x, point.x_error) for point in points], (_LEFT, _RIGHT))
    up = scale_of(y, [_reach(point.y, point.y_error) for point in points], (_BOTTOM, _TOP))
    parts = [*_frame(across, up, x.name)]
    for one in reversed(seen):
        parts.append(_drawn(one, across, up))
    said = safe(f"{y.name} by {x.name}" if y.name else x.name)
    shape = f'class="chart {kind}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}"'
    is_log = "log" in (x.scale, y.scale)
    note = '<p class="note">The scale is logarithmic; what is 0 has no place on it.</p>' if is_log else ""
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
    return x.has(point.x) and y.has(point.y)


def _reach(value: float, error: float | None) -> tuple[float, float]:
    error = error if error is not None and math.isfinite(error) else 0.0
    return value - error, value + error


def _frame(across: Scale, up: Scale, below: str) -> Iterable[str]:
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


def _drawn(one: Series, across: Scale, up: Scale) -> str:
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
