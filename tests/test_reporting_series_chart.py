"""Several lines on one chart: where each point stands, by hand, and that names stay text."""

import re

import pytest

from preftune.reporting.colours import DISTINCT, distinct, in_order, style
from preftune.reporting.scales import Axis, root_marks, spans_decades
from preftune.reporting.series_chart import Point, Series, series_chart, series_legend, thinned
from tests.pages import HOSTILE, SHOWN, Parsed, harmless

X, Y = Axis("steps"), Axis("loss")


def line(*points: tuple[float, float], name: str = "a", shape: int = 0) -> Series:
    return Series(name, "line-0", [Point(*point) for point in points], shape)


def places(chart: str) -> list[list[tuple[float, float]]]:
    drawn = re.findall(r'<polyline class="line" points="([^"]*)"', chart)
    return [[tuple(map(float, place.split(","))) for place in one.split()] for one in drawn]  # type: ignore[misc]


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.1."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_points_stand_where_their_values_say() -> None:
    (drawn,) = places(series_chart([line((0, 1), (5, 2), (10, 3))], X, Y))
    across, up = zip(*drawn, strict=True)
    assert across[1] == pytest.approx((across[0] + across[2]) / 2, abs=0.1)
    assert up[1] == pytest.approx((up[0] + up[2]) / 2, abs=0.1)
    assert across[0] < across[2]
    assert up[0] > up[2]  # places grow downwards


def test_on_a_logarithmic_axis_equal_ratios_are_equal_distances_and_zero_has_no_place() -> None:
    chart = series_chart([line((0, 5), (1, 1), (10, 2), (100, 3))], Axis("KL", "log"), Y)
    (drawn,) = places(chart)
    assert len(drawn) == 3
    assert drawn[1][0] - drawn[0][0] == pytest.approx(drawn[2][0] - drawn[1][0], abs=0.2)
    assert "The scale is logarithmic; what is 0 has no place on it." in Parsed(chart).text


def test_on_a_root_axis_places_are_even_by_their_roots_and_zero_and_below_have_theirs() -> None:
    (drawn,) = places(series_chart([line((-1, 5), (0, 1), (1, 2), (4, 3), (16, 4))], Axis("KL", "root"), Y))
    across = [place for place, _ in drawn]
    step = across[1] - across[0]
    assert [place - across[0] for place in across] == pytest.approx([0, step, 2 * step, 3 * step, 5 * step], abs=0.2)


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0, 64, [0, 2, 10, 20, 50]),
        (-0.5, 3, [-0.2, 0, 0.2, 1, 2]),
        (0, 1000, [0, 50, 200, 500, 1000]),
        (0.9, 1.1, [1]),
    ],
)
def test_marks_of_a_root_axis_are_round_and_well_apart(low: float, high: float, marks: list[float]) -> None:
    assert root_marks(low, high) == pytest.approx(marks)


def test_values_that_are_not_finite_are_left_out_and_nothing_is_said_of_nothing() -> None:
    (drawn,) = places(series_chart([line((0, 1), (1, float("nan")), (2, float("inf")), (3, 2))], X, Y))
    assert len(drawn) == 2
    assert series_chart([line((0, float("nan")))], X, Y) == '<p class="quiet">Nothing was logged.</p>'


def test_a_single_point_and_equal_values_are_drawn_within_the_frame() -> None:
    for points in ([(3, 0.0)], [(0, 2.0), (1, 2.0)], [(0, -1e308), (1, 1e308)]):
        for across, up in places(series_chart([line(*points)], X, Y))[0]:
            assert 0 <= across <= 400
            assert 0 <= up <= 250


def test_equal_values_stand_in_the_middle() -> None:
    (drawn,) = places(series_chart([line((0, 2.0), (1, 2.0))], X, Y))
    assert [up for _, up in drawn] == [109.0, 109.0]  # of a frame from 12 to 206


def test_standard_errors_are_drawn_around_their_point() -> None:
    chart = series_chart([Series("a", "line-0", [Point(0, 1), Point(10, 2, 1.0, 0.5)])], X, Y)
    across, up = places(chart)[0][1]
    upright, level = re.findall(r'class="error" x1="([\d.]+)" x2="([\d.]+)" y1="([\d.]+)" y2="([\d.]+)"', chart)
    x1, x2, y1, y2 = map(float, upright)
    assert x1 == x2 == across
    assert (y1 + y2) / 2 == pytest.approx(up, abs=0.1)
    assert (float(level[0]) + float(level[1])) / 2 == pytest.approx(across, abs=0.1)


def test_more_than_two_decades_ask_for_a_logarithmic_axis() -> None:
    assert spans_decades([0.0, 0.5, 60.0])
    assert not spans_decades([0.6, 60.0])
    assert not spans_decades([0.0, -1.0])


def test_many_points_are_thinned_to_the_means_of_neighbours() -> None:
    points = [Point(float(step), float(step % 2)) for step in range(1000)]
    few = thinned(points)
    assert len(few) == 200
    assert few[0] == Point(4.0, pytest.approx(0.4))
    assert thinned(points[:240]) == points[:240]


def test_names_make_no_element() -> None:
    chart = series_chart([line((0, 1), (1, 2), name=HOSTILE)], Axis(HOSTILE), Axis(HOSTILE))
    page = Parsed(chart + series_legend([line(name=HOSTILE)]))
    assert harmless(page)
    assert page.text.count(SHOWN) >= 4


def test_lines_have_marks_of_different_shapes_in_the_chart_and_its_legend() -> None:
    lines = [line((0, place), (1, place), name=str(place), shape=place) for place in range(5)]
    for drawn in (series_chart(lines, X, Y), series_legend(lines)):
        assert len(set(re.findall(r'class="dot" [^>]* d="([^"]*)"', drawn))) == 5


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_ordered_colours_rise_in_lightness_and_stand_out_from_their_ground(count: int) -> None:
    colours = in_order(count)
    for values, ground in (([one.light for one in colours], "#ffffff"), ([one.dark for one in colours], "#1c1c1a")):
        lightness = list(map(luminance, values))
        assert lightness == sorted(lightness)
        assert min(contrast(one, ground) for one in values) > 2.6


def test_distinct_colours_stand_out_and_the_later_half_is_dashed() -> None:
    colours = distinct(DISTINCT)
    assert [one.dashed for one in colours] == [False] * 5 + [True] * 5
    assert min(contrast(one.light, "#ffffff") for one in colours) > 3
    assert min(contrast(one.dark, "#1c1c1a") for one in colours) > 3
    assert len({one.light for one in colours}) == len({one.dark for one in colours}) == 10


def test_the_style_names_each_colour_on_both_grounds() -> None:
    light, _, dark = style(distinct(6)).partition("@media (prefers-color-scheme: dark)")
    assert light.count("--line:") == dark.count("--line:") == 6
    assert ".line-5 { --dash: 6 3; }" in light
