"""Colours of lines that people who see colours differently can tell apart, on light and on dark ground."""

from collections.abc import Sequence
from typing import NamedTuple

# From blue over teal to orange, lightness rising all along, so that the order also reads in grey and to people who see
# no red or no green; each keeps a contrast of about three to one to its ground.
_ON_LIGHT = ((32, 28, 108), (36, 92, 190), (16, 138, 140), (118, 150, 24), (222, 132, 22))
_ON_DARK = ((104, 110, 240), (72, 156, 232), (60, 196, 176), (178, 212, 88), (255, 222, 140))

# On light ground, and on dark.
_DISTINCT = (
    ("#2470c8", "#6aa7ee"),
    ("#c2541b", "#ee8a58"),
    ("#117733", "#5cc27f"),
    ("#882255", "#e07ba8"),
    ("#7d7d1f", "#cfcf5a"),
    ("#332288", "#a99cf0"),
    ("#15808a", "#55cfcf"),
    ("#aa4499", "#e08fd6"),
    ("#77756f", "#b0aea6"),
    ("#8a5a00", "#d9a440"),
)

DISTINCT = len(_DISTINCT)


class Colour(NamedTuple):
    """A colour on light ground and its fellow on dark ground, as #rrggbb; `dashed` where lines need more than that."""

    light: str
    dark: str
    dashed: bool = False


def in_order(count: int) -> list[Colour]:
    """Return `count` colours along a sequence, for lines that have an order."""
    places = [place / max(1, count - 1) for place in range(count)]
    return [Colour(_at(_ON_LIGHT, place), _at(_ON_DARK, place)) for place in places]


def distinct(count: int) -> list[Colour]:
    """Return `count` colours without an order, at most `DISTINCT`; from the sixth on their lines are dashed."""
    return [Colour(light, dark, dashed=place >= 5) for place, (light, dark) in enumerate(_DISTINCT[:count])]


def style(colours: Sequence[Colour]) -> str:
    """Return the style of the classes `line-0` and on, by which charts name these colours."""

    def of(values: Sequence[str]) -> str:
        return "".join(f".line-{place} {{ --line: {value}; }}\n" for place, value in enumerate(values))

    dashed = "".join(f".line-{place} {{ --dash: 6 3; }}\n" for place, one in enumerate(colours) if one.dashed)
    dark = of([one.dark for one in colours])
    return f"{of([one.light for one in colours])}{dashed}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _at(anchors: Sequence[tuple[int, int, int]], place: float) -> str:
    below = min(int(place * (len(anchors) - 1)), len(anchors) - 2)
    share = place * (len(anchors) - 1) - below
    ends = zip(anchors[below], anchors[below + 1], strict=True)
    return "#" + "".join(f"{round(low + (high - low) * share):02x}" for low, high in ends)
