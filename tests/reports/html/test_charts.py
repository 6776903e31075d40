from __future__ import annotations

import itertools
import math
import re

import pytest

from qcaps.reports.html.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Point,
    Series,
    histogram,
    linear_axis,
    log_axis,
)


@pytest.mark.parametrize("values", [[0.1, 0.9], [3, 3], [0], [-5, 1200], [1e-9, 3e-9], [99.1, 99.3], [math.nan, 2, 5]])
def test_a_linear_axis_holds_all_values_between_round_ends(values):
    axis = linear_axis("x", values)
    known = [value for value in values if not math.isnan(value)]
    assert axis.low <= min(known) + 1e-12
    assert axis.high >= max(known) - 1e-12
    places = [value for value, _ in axis.ticks]
    assert places[0] == axis.low
    assert places[-1] == axis.high
    assert 2 <= len(places) <= 9
    texts = [text for _, text in axis.ticks]
    assert len(set(texts)) == len(texts)


def test_whole_numbers_have_whole_ticks():
    assert [text for _, text in linear_axis("epoch", [1, 2, 3], whole=True).ticks] == ["1", "2", "3"]


@pytest.mark.parametrize("values", [[50_000, 260_000], [1, 1e9], [81_250, 81_250], [0, 5]])
def test_a_logarithmic_axis_holds_all_values_and_its_ticks_do_not_touch(values):
    axis = log_axis("bytes", values)
    assert axis.low < min(value for value in values if value > 0)
    assert axis.high > max(values)
    shares = [axis.share(value) for value, _ in axis.ticks]
    assert shares == sorted(shares)
    assert all(after - before > 0.16 for before, after in itertools.pairwise(shares))


def test_equal_factors_are_equal_distances_on_a_logarithmic_axis():
    axis = log_axis("bytes", [10, 1000])
    assert axis.share(100) - axis.share(10) == pytest.approx(axis.share(1000) - axis.share(100))


def chart(*points: tuple[float, float], **more) -> Chart:
    series = Series("s", "a", tuple(Point(*point) for point in points), **more)
    return Chart("c", "t", "d", linear_axis("x", [0, 10]), linear_axis("y", [0, 10]), (series,))


def test_the_corners_of_the_axes_are_the_corners_of_the_drawing():
    found = chart()
    assert (found.left(0), found.top(0)) == (LEFT, HEIGHT - BOTTOM)
    assert (found.left(10), found.top(10)) == (WIDTH - RIGHT, TOP)


def test_what_lies_outside_is_drawn_at_the_end():
    assert chart().left(1e9) == WIDTH - RIGHT


def test_steps_go_sideways_first_and_lines_go_straight():
    steps = chart((0, 0), (5, 10), line="steps")
    assert re.sub(r"[\d.]+", "#", steps.path(steps.series[0])) == "M# #H#V#"
    straight = chart((0, 0), (5, 10), line="straight")
    assert re.sub(r"[\d.]+", "#", straight.path(straight.series[0])) == "M# #L# #"
    assert chart().path(Series("none", "a", ())) == ""


def test_a_histogram_is_told_in_shares_over_its_bins():
    assert [(point.x, point.y) for point in histogram([1, 3, 0, 0])] == [
        (0, 0.25),
        (0.25, 0.75),
        (0.5, 0),
        (0.75, 0),
        (1, 0),
    ]
    assert {point.y for point in histogram([0, 0])} == {0}
