"""Colours of lines that people who see colours differently can tell apart, on light and on dark ground."""

from collections.abc import Sequence
from typing import NamedTuple

# The map `plasma` at each tenth: lightness rises all along it, so that it also reads in grey.
# Van der Walt and Smith 2015, A better default colormap for matplotlib; their values are in the public domain (CC0).
_SEQUENCE = (
    (13, 8, 135),
    (65, 4, 157),
    (106, 0, 168),
    (143, 13, 164),
    (177, 42, 144),
    (204, 71, 120),
    (225, 100, 98),
    (242, 132, 75),
    (252, 166, 54),
    (252, 206, 37),
    (240, 249, 33),
)
# Where it keeps a contrast of three to one to the ground.
_ON_LIGHT, _ON_DARK = (0.0, 0.66), (0.36, 1.0)

_LIGHT = "#2470c8 #c2541b #117733 #882255 #7d7d1f #332288 #15808a #aa4499 #77756f #8a5a00".split()
_DARK = "#6aa7ee #ee8a58 #5cc27f #e07ba8 #cfcf5a #a99cf0 #55cfcf #e08fd6 #b0aea6 #d9a440".split()

DISTINCT = len(_LIGHT)


class Colour(NamedTuple):
    """A colour on light ground and its fellow on dark ground, as #rrggbb; `dashed` where lines need more than that."""

    light: str
    dark: str
    dashed: bool


def in_order(count: int) -> list[Colour]:
    """Return `count` colours along a sequence, for lines that have an order."""
    places = [place / max(1, count - 1) for place in range(count)]
    return [Colour(_at(_between(_ON_LIGHT, place)), _at(_between(_ON_DARK, place)), dashed=False) for place in places]


def distinct(count: int) -> list[Colour]:
    """Return `count` colours without an order, at most `DISTINCT`; from the sixth on their lines are dashed."""
    return [Colour(light, dark, dashed=place >= 5) for place, (light, dark) in enumerate(zip(_LIGHT, _DARK))][:count]


def style(colours: Sequence[Colour]) -> str:
    """Return the style of the classes `line-0` and on, by which charts name these colours."""

    def of(values: Sequence[str]) -> str:
        return "".join(f".line-{place} {{ --line: {value}; }}\n" for place, value in enumerate(values))

    dashed = "".join(f".line-{place} {{ --dash: 6 3; }}\n" for place, one in enumerate(colours) if one.dashed)
    dark = of([one.dark for one in colours])
    return f"{of([one.light for one in colours])}{dashed}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _between(ends: tuple[float, float], place: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * place


def _at(place: float) -> str:
    below = min(int(place * 10), 9)
    share = place * 10 - below
    mixed = [
        round(low + (high - low) * share) for low, high in zip(_SEQUENCE[below], _SEQUENCE[below + 1], strict=True)
    ]
    return "#" + "".join(f"{part:02x}" for part in mixed)
