"""What is drawn must be where the values are."""

import json
import math
import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt.report.chart import SIZE, Axis, Series, chart, short_number, thin


def paths(html: str, kind: str) -> list[str]:
    return re.findall(rf'<path class="{kind}[^"]*" d="([^"]*)"', html)


def corners(path: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in re.findall(r"[ML]([-\d.e]+) ([-\d.e]+)", path)]


def labels(html: str, kind: str) -> dict[str, float]:
    """The text of each tick, and how far along the axis it stands."""
    return {text: float(at) for at, text in re.findall(rf'<span class="{kind}" style="--at:([\d.]+)">([^<]*)<', html)}


def test_points_lie_between_the_ticks_that_they_lie_between():
    html = chart("t", [Series("a", [(0, 1.0), (5, 2.5), (10, 4.0)])])
    assert labels(html, "x") == {"0": 0.0, "2": 0.2, "4": 0.4, "6": 0.6, "8": 0.8, "10": 1.0}
    up = labels(html, "y")
    assert up["1"] == 0.0
    assert up["4"] == 1.0
    (line,) = paths(html, "line")
    assert corners(line) == [(0, SIZE), (SIZE / 2, SIZE / 2), (SIZE, 0)]


def test_on_a_logarithmic_axis_equal_factors_are_equal_distances():
    html = chart("t", [Series("a", [(0, 0.01), (1, 0.1), (2, 1.0), (3, 100.0)])], log=True)
    heights = [round(down) for _, down in corners(paths(html, "line")[0])]
    assert heights == [SIZE, 750, 500, 0]
    assert labels(html, "y") == {"0.01": 0.0, "0.1": 0.25, "1": 0.5, "10": 0.75, "100": 1.0}
    assert chart("t", [Series("a", [(0, 0.0), (1, 1.0)])], log=True) == ""  # has no place for 0


def test_where_steps_are_counted_the_first_ones_have_room():
    html = chart("t", [Series("a", [(0, 4.0), (9, 3.0), (99, 2.0), (999, 1.0)])], counted=True)
    assert [round(right) for right, _ in corners(paths(html, "line")[0])] == [0, 333, 667, SIZE]
    ticks = labels(html, "x")
    assert list(ticks) == ["0", "1", "10", "100", "999"]
    assert ticks["1"] == pytest.approx(math.log(2) / math.log(1000), abs=1e-4)
    assert ticks["999"] == 1.0
    assert labels(chart("t", [Series("a", [(0, 1.0)])], counted=True), "x") == {"0": 0.0, "1": 1.0}


def test_a_line_without_a_name_is_not_in_the_legend():
    html = chart("t", [Series("a", [(0, 1.0), (1, 2.0)]), Series("", [(0, 1.5), (1, 1.5)], color=1, faint=True)])
    assert re.findall(r"<li[^>]*>([^<]*)</li>", html) == ["a"]
    assert len(paths(html, "line")) == 2


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_missing_value_leaves_a_gap(missing):
    html = chart("t", [Series("a", [(0, 1.0), (1, 2.0), (2, missing), (3, 1.0), (4, missing), (5, 1.0), (6, 2.0)])])
    (line,), (dots,) = paths(html, "line"), paths(html, "dots")
    assert [len(corners("M" + part)) for part in line.split("M")[1:]] == [2, 2]
    assert len(corners(dots)) == 1  # the one between two gaps would not be seen as a line


def test_nothing_to_draw_is_no_chart():
    assert chart("t", []) == chart("t", [Series("a", [])]) == chart("t", [Series("a", [(0, None)])]) == ""


@pytest.mark.parametrize("points", [[(3, 2.0)], [(0, 2.0), (9, 2.0)], [(0, 0.0)], [(0, -1e-9), (1e9, 1e12)]])
def test_one_value_or_a_very_wide_range_is_drawn(points):
    html = chart("t", [Series("a", points)], zero=True)
    for across, down in corners(paths(html, "line")[0] if len(points) > 1 else paths(html, "dots")[0]):
        assert 0 <= across <= SIZE
        assert 0 <= down <= SIZE


def test_the_script_is_given_the_values_that_are_drawn():
    html = chart("t", [Series("a", [(0, 1.23456789), (1, None)]), Series("b", [(0, 2.0), (1, 3.0)])], x="tokens")
    facts = json.loads(unescape(re.search(r'data-chart="([^"]*)"', html)[1]))
    assert facts["x"] == "tokens"
    assert [series["points"] for series in facts["series"]] == [[[0, 1.23457], [1, None]], [[0, 2.0], [1, 3.0]]]
    assert [series["color"] for series in facts["series"]] == [1, 2]


def test_whiskers_reach_from_low_to_high():
    html = chart("t", [Series("a", [(0, 1.0), (1, 3.0)], intervals=[(0, 0.0, 2.0), (1, 2.0, 4.0)])])
    assert corners(paths(html, "whiskers")[0]) == [(0, SIZE), (0, SIZE / 2), (SIZE, SIZE / 2), (SIZE, 0)]


def test_very_many_points_are_a_line_without_marks():
    few, many = ([(at, float(at % 7)) for at in range(count)] for count in (20, 200))
    assert len(corners(paths(chart("t", [Series("a", few, dots=True)]), "dots")[0])) == 20
    assert not paths(chart("t", [Series("a", many, dots=True)]), "dots")


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=400), st.integers(10, 100))
def test_a_thinned_line_keeps_its_ends_and_its_extremes(values, most):
    points = list(enumerate(values))
    kept = thin(points, most)
    assert len(kept) <= most + 3
    assert kept == sorted(set(kept), key=lambda point: point[0])
    assert set(kept) <= set(points)
    known = [value for value in values if value is not None]
    if known:
        assert {min(known), max(known)} <= {value for _, value in kept}
        assert (kept[0], kept[-1]) == (points[0], points[-1])


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_an_axis_covers_its_values_with_a_few_round_ticks(low, width):
    axis = Axis.spanning(low, low + width, rounded=True)
    assert axis.low <= low + 1e-6 * width  # less than a pixel
    assert axis.high >= low + width - 1e-6 * width
    assert 2 <= len(axis.ticks) <= 12


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0003, "3e-4"),
        (0, "0"),
        (12_000, "12k"),
        (1500, "1,500"),
        (2_500_000, "2.5M"),
        (2.7e15, "2.7e15"),
        (1.23456, "1.235"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_are_short(value, text):
    assert short_number(value) == text
