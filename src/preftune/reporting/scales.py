"""From values to places on a chart: linear, logarithmic, or by their roots, with round marks."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from preftune.reporting.charts import ticks

# Decades from which on an axis of values above 0 is better logarithmic.
_DECADES = 2.0
_MARKS = 6  # at most, about


class Axis(NamedTuple):
    """What an axis counts, and by which scale.

    Attributes:
        name: What it counts.
        scale: `log` has no place for values at 0 and below; `root` gives small values room, and 0 a place.
    """

    name: str
    scale: Literal["linear", "log", "root"] = "linear"

    def of(self, value: float) -> float:
        """Return what of a value is even along the axis."""
        if self.scale == "log":
            return math.log10(value)
        return math.copysign(math.sqrt(abs(value)), value) if self.scale == "root" else value

    def has(self, value: float) -> bool:
        """Return whether a value has a place on the axis."""
        return math.isfinite(value) and (value > 0 or self.scale != "log")


class Scale(NamedTuple):
    """From values between `low` and `high` to places between `start` and `end`."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float
    marks: Sequence[float]

    def at(self, value: float) -> float:
        """Return the place of a value; of one far beyond the ends, a little beyond them."""
        low, high, value = (self.axis.of(one) for one in (self.low, self.high, value))
        share = (value / 2 - low / 2) / (high / 2 - low / 2 or 1.0)  # the whole difference may be infinite
        return self.start + (self.end - self.start) * min(1.05, max(-0.05, share))


def spans_decades(values: Iterable[float]) -> bool:
    """Return whether the values above 0 span so much that an axis of them is better logarithmic."""
    above = [value for value in values if value > 0]
    return bool(above) and math.log10(max(above)) - math.log10(min(above)) > _DECADES


def scale_of(axis: Axis, reaches: Sequence[tuple[float, float]], places: tuple[int, int]) -> Scale:
    """Return the scale that has room for values with their errors.

    Args:
        axis: Says the kind.
        reaches: Lowest and highest of each value.
        places: Where the scale starts and ends.
    """
    low, high = min(reach[0] for reach in reaches), max(reach[1] for reach in reaches)
    if axis.scale == "log":
        above = [value for reach in reaches for value in reach if value > 0]
        first, last = math.floor(math.log10(min(above))), math.ceil(math.log10(max(above)))
        last = max(last, first + 1)
        every = math.ceil((last - first) / _MARKS)
        return Scale(axis, 10.0**first, 10.0**last, *places, [10.0**power for power in range(first, last + 1, every)])
    if low == high:
        low, high = low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
    else:
        margin = (high / 2 - low / 2) * 0.08
        low, high = min(low, max(low - margin, 0.0) if low >= 0 else low - margin), high + margin
    marks = root_marks(low, high) if axis.scale == "root" else ticks(low, high, _MARKS)
    return Scale(axis, low, high, *places, marks)


def root_marks(low: float, high: float) -> list[float]:
    """Return round values between two others that stand well apart by their roots.

    Example:
        >>> root_marks(0, 64)
        [0.0, 2.0, 10.0, 20.0, 50.0]
    """
    root = Axis("", "root").of
    room = (root(high) - root(low)) / (_MARKS + 1)
    decade = math.floor(math.log10(max(abs(low), abs(high))))
    values = [digit * 10.0**power for power in range(decade - 3, decade + 1) for digit in (1, 2, 5)]
    marks = [0.0] if low <= 0 <= high else []
    for sign in (1, -1):  # away from 0
        last = 0.0
        for value in values:
            if low <= sign * value <= high and root(value) - root(last) >= room:
                marks.append(sign * value)
                last = value
    return sorted(marks)
