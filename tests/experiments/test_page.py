"""A page of an experiment shows what was compared, measured and written, and the file that it was made of."""

import pytest

from primegpt.experiments.comparison import compare
from primegpt.experiments.page import mean_curve, plot_of, write_page

LOSSES = {"plain": {1: 1.51, 2: 1.53, 3: 1.52}, "qk <norm>": {1: 1.44, 2: 1.465, 3: 1.45}}
CURVES = {
    "val/loss": {
        "plain": {1: [(0, 4.0), (10, 2.0)], 2: [(0, 4.0), (10, 2.2)]},
        "qk <norm>": {1: [(0, 4.0), (10, 1.0), (20, None)]},
        "not begun": {},
    },
    "nothing": {"plain": {1: []}},
}


@pytest.fixture
def page(tmp_path):
    comparisons = [
        compare("val/loss", LOSSES, lower_is_better=True),
        compare("seconds", {"plain": {1: 20.0}, "qk <norm>": {1: 20.0}}),
    ]
    samples = {"plain": [("To be", "To be or"), ("", "Once")], "qk <norm>": [("To be", "To be not")]}
    path = write_page(tmp_path, name="Norms", question="Does it pay?", comparisons=comparisons, curves=CURVES,
                      samples=samples, source='name = "Norms" # <b>', facts=[("seeds", "1, 2, 3")])  # fmt: skip
    assert path == tmp_path / "report.html"
    return path.read_text(encoding="utf-8")


def test_everything_is_on_it_once(page):
    for text in ("Norms", "Does it pay?", "qk &lt;norm&gt; against plain -0.068 [", "<strong>ahead</strong>", "equal",
                 "» To be<", "To be not", "Once", "name = &quot;Norms&quot; # &lt;b&gt;", "1, 2, 3"):  # fmt: skip
        assert text in page, text
    assert page.count('class="card"') == 3
    assert "<norm>" not in page
    assert page.count("<figure") == 1  # a metric without a point is not drawn
    assert "not begun" not in page


def test_pictures_lie_beside_it(page, tmp_path):
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["difference-val-loss.png", "val-loss.png"]


def test_a_curve_is_the_mean_of_its_seeds_from_the_least_to_the_most(tmp_path):
    assert mean_curve([[(0, 4.0), (10, 2.0)], [(0, 5.0), (10, 2.5)]]) == [(0, 4.5, 4, 5), (10, 2.25, 2, 2.5)]
    plot = plot_of("val/loss", CURVES["val/loss"])
    assert plot.series[0].intervals == [(10, 2.0, 2.2)]  # at 0 there is nothing to span


def test_a_curve_has_the_words_of_every_other_page():
    plot = plot_of("val/loss", CURVES["val/loss"])
    assert (plot.name, plot.title, plot.y) == ("val-loss", "Validation loss", "nats per token")
    assert plot_of("seconds", {}).title == "seconds"


def test_seeds_with_other_steps_are_met_half_way():
    """Of a budget of seconds: a straight line to where the other was judged, and nothing beyond the shorter one."""
    long, short = [(0, 4.0), (10, 2.0), (20, 1.0), (30, 0.5)], [(0, 4.0), (5, 3.0), (15, 1.0)]
    assert mean_curve([long, short]) == [(0, 4, 4, 4), (5, 3, 3, 3), (15, 1.25, 1, 1.5)]
    assert mean_curve([long, [(0, None), (7, float("nan"))]]) == [(at, value, value, value) for at, value in long]
    assert mean_curve([[(0, 1.0)], [(5, 1.0)]]) == []


def test_the_axis_names_a_function_without_its_module(tmp_path, monkeypatch):
    """`primegpt.experiments.alignment:follows.words` is longer than the axis."""
    labels = []
    monkeypatch.setattr("primegpt.experiments.page.draw_intervals", lambda *given: labels.append(given[3]))
    write_page(tmp_path, name="n", question="q?", comparisons=[compare("mine.alike:score.words", LOSSES)], curves={},
               samples={}, source="", facts=[])  # fmt: skip
    assert labels == ["difference in score.words"]
