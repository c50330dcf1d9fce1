"""HTML for notebooks: what is drawn is where it belongs, and nothing from outside is more than text."""

import math
import re
from html.parser import HTMLParser

import pytest

from primegpt import notebook

HOSTILE = "<script>alert('x')</script>\" onclick=\"x\x1b[31m\u202e&amp;"


class Seen(HTMLParser):
    """The text of a piece of HTML as a browser has it, and its elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags = "", set[str]()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    "html",
    [
        notebook.card(HOSTILE, [HOSTILE], [(HOSTILE, [(1, 2.0), (2, 1.0)])]),
        notebook.completion(HOSTILE, None, None, "stop"),
        notebook.completion(HOSTILE, [HOSTILE], [-1.0], "length"),
        notebook.progress(0.5, HOSTILE, [(1, 2.0), (2, 1.0)], [HOSTILE]),
    ],
)
def test_what_comes_from_outside_is_text(html):
    seen = Seen(html)
    assert "script" not in seen.tags
    assert "<script>alert('x')</script>\" onclick=\"x\\x1b[31m\\u202e&amp;" in seen.text


def test_a_curve_runs_from_corner_to_corner():
    drawn = notebook.drawn([("training loss", [(0, 4.0), (5, None), (5, math.nan), (10, 2.0), (20, 1.0)])])
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    assert [tuple(map(float, point.split(","))) for point in points.split()] == [(2, 2), (180, 59.3), (358, 88)]
    assert "training loss: 4.000 at step 0, 1.000 at step 20" in drawn
    assert notebook.drawn([("", [(0, 4.0)]), ("", [])]) == ""
    flat = notebook.drawn([("", [(3, 1.0), (3, 1.0)])])
    assert "nan" not in flat


def test_the_less_likely_the_warmer():
    shown = notebook.shaded(["a", "b", "c"], [0.0, -3.0, -60.0])
    assert re.findall(r"15,([\d.]+)\)\" title=\"([^\"]*)\"", shown) == [
        ("0.00", "100.0%"),
        ("0.30", "5.0%"),
        ("0.60", "0.0%"),
    ]


def test_progress_stays_within_its_bar():
    for done, width in ((-1, "0.0%"), (0.25, "25.0%"), (7, "100.0%")):
        assert f"width:{width};height" in notebook.progress(done, "now", [], [])


def test_a_terminal_is_no_notebook():
    assert not notebook.in_notebook()
