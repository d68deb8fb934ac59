"""Charts as HTML and SVG without a script: what each bar says stands in its title. Labels pass through `safe`."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from preftune.reporting.page import safe

_WIDTH, _HEIGHT = 360, 168
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 340, 22, 130
_TICKS = 6


class Bin(NamedTuple):
    """A bar of a histogram, from `start` to `stop` on its axis; `says` names what it counts."""

    start: float
    stop: float
    height: int
    says: str


class Part(NamedTuple):
    """A part of a bar: its colour (a class of the page's style), its share of the whole bar, what it is."""

    colour: str
    share: float
    name: str


def histogram(bins: Sequence[Bin], colour: str, unit: str, mark: tuple[float, str], span: tuple[float, float]) -> str:
    """Draw a histogram.

    Args:
        bins: Its bars.
        colour: Class of the bars.
        unit: What the axis below counts.
        mark: A place on that axis, and what to write above it.
        span: Where the axis begins and ends.
    """
    least, most = span
    tallest = max(one.height for one in bins)

    def across(value: float) -> float:
        share = (value / 2 - least / 2) / (most / 2 - least / 2 or 1.0)  # the whole difference may be infinite
        return _LEFT + (_RIGHT - _LEFT) * share

    def up(count: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * count / tallest

    parts = []
    for count in ticks(0, tallest, 4):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{up(count):.1f}" y2="{up(count):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{up(count) + 4:.1f}" text-anchor="end">{count:,.0f}</text>')
    for one in bins:
        if one.height:
            left, width = across(one.start), across(one.stop) - across(one.start)
            top = min(up(one.height), _BOTTOM - 1.5)  # one pair among many is still seen
            parts.append(
                f'<rect class="{colour}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(1.0, width - 1):.1f}" '
                f'height="{_BOTTOM - top:.1f}"><title>{safe(one.says)}</title></rect>'
            )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>')
    for value in ticks(least, most, _TICKS):
        parts.append(f'<text x="{across(value):.1f}" y="{_BOTTOM + 15}" text-anchor="middle">{number(value)}</text>')
    parts.append(f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{safe(unit)}</text>')
    parts.append(_mark(across(mark[0]), mark[1]))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{safe(unit)}">{"".join(parts)}</svg>'


def line(points: Sequence[tuple[float, float]], colour: str, unit: str, mark: tuple[float, str]) -> str:
    """Draw a line through at least two points, in the order of their places on the axis below; 0 is always in view.

    Args:
        points: Place on the axis below, and height; one whose height is not finite is left out.
        colour: Class of the line.
        unit: What the axis below counts.
        mark: A place on that axis, and what to write above it.
    """
    seen = [point for point in points if math.isfinite(point[1])]
    least, most = points[0][0], points[-1][0]
    heights = _marks(min([0.0, *(height for _, height in seen)]), max([0.0, *(height for _, height in seen)]))
    low, high = heights[0], heights[-1]

    def across(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (value - least) / (most - least)

    def up(height: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (height - low) / (high - low)

    parts = []
    for height in heights:
        kind = "grid" if height else "axis"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_RIGHT}" y1="{up(height):.1f}" y2="{up(height):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{up(height) + 4:.1f}" text-anchor="end">{number(height)}</text>')
    for value in ticks(least, most, _TICKS):
        parts.append(f'<text x="{across(value):.1f}" y="{_BOTTOM + 15}" text-anchor="middle">{number(value)}</text>')
    parts.append(f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{safe(unit)}</text>')
    parts.append(_mark(across(mark[0]), mark[1]))
    drawn = " ".join(f"{across(value):.1f},{up(height):.1f}" for value, height in seen)
    parts.append(f'<polyline class="{colour}" points="{drawn}"/>')
    # Heights such as -0.005 ask for more room on the left than counts do.
    return f'<svg viewBox="-22 0 {_WIDTH + 22} {_HEIGHT}" role="img" aria-label="{safe(unit)}">{"".join(parts)}</svg>'


def _marks(low: float, high: float) -> list[float]:
    """Return round numbers of which the first is at most `low` and the last at least `high`, always two or more."""
    marks = ticks(low, high, 4)
    step = marks[1] - marks[0] if len(marks) > 1 else 1.0
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [place * step for place in range(first, last + 1)]


def _mark(place: float, text: str) -> str:
    side = "start" if place < _LEFT + 60 else "end" if place > _RIGHT - 60 else "middle"
    return (
        f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP - 6}" y2="{_BOTTOM}"/>'
        f'<text class="mark" x="{place:.1f}" y="{_TOP - 10}" text-anchor="{side}">{safe(text)}</text>'
    )


def ticks(least: float, most: float, count: int) -> list[float]:
    """Return round numbers from `least` to `most`, at most `count` + 1, 1, 2 or 5 times a power of ten apart."""
    if most <= least:
        return [least]
    rough = max((most / 2 - least / 2) / count * 2, 1e-300)
    power = 10.0 ** math.floor(math.log10(rough)) if math.isfinite(rough) else math.inf
    if not math.isfinite(power * 10):
        return [least, most]
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999999)
    first, last = math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def number(value: float) -> str:
    """Return `value` for an axis: grouped where it is whole, to four digits otherwise."""
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.4g}"


def track(parts: Iterable[Part], style: str = "") -> str:
    """Draw a bar of `parts` that fills its place where their shares come to 1."""
    drawn = "".join(
        f'<i class="{part.colour}" style="width:{100 * part.share:.3f}%" title="{safe(part.name)}"></i>'
        for part in parts
        if part.share > 0
    )
    return f'<div class="track {style}">{drawn}</div>'


def legend(parts: Iterable[Part]) -> str:
    """Name the colours of a bar with their shares."""
    items = "".join(
        f'<li><i class="{part.colour}"></i>{safe(part.name)} <b>{100 * part.share:.0f}\u00a0%</b></li>'
        for part in parts
    )
    return f'<ul class="legend">{items}</ul>'


def bar_row(name: str, parts: Iterable[Part], value: str, kind: str = "") -> str:
    """Return a row of a table of bars: what it is, its bar, its number."""
    return (
        f'<tr class="{kind}"><th scope="row">{safe(name)}</th><td>{track(parts)}</td>'
        f'<td class="number">{safe(value)}</td></tr>'
    )
