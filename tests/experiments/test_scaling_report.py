"""Tables and plots of a scaling law say what the fits found, forecast and left over."""

import math

import numpy as np
import pytest

from primegpt.experiments.scaling_law import Law, Point
from primegpt.experiments.scaling_report import (
    HEADER,
    exponents_table,
    facts,
    fit_scaling,
    minima_table,
    movement,
    plots,
    valley_series,
)
from primegpt.experiments.valley import fit_valleys
from primegpt.report.page import Page

LAW = Law(1.0, 90.0, 250.0, 0.40, 0.45)
FACTOR = 7.0  # compute over parameters times tokens


@pytest.fixture(scope="module")
def found():
    random = np.random.default_rng(0)
    budgets = {}
    for budget in (8.1e15, 3e14, 9e14, 2.7e15):
        sizes = [LAW.best(budget / FACTOR)[0] * 2.0**number for number in (2, -2, -1, 0, 1)]
        runs = [(size, budget / FACTOR / size) for size in sizes]
        budgets[budget] = [Point(n, d, LAW.loss(n, d) * math.exp(0.003 * random.normal())) for n, d in runs]
    return fit_scaling(budgets)


def test_both_approaches_stand_beside_published_exponents(found):
    rows = exponents_table(found)
    assert all(len(row) == len(HEADER) for row in rows)
    assert found.factor == pytest.approx(FACTOR)
    assert found.sizes.exponent == pytest.approx(LAW.exponents[0], abs=0.05)
    assert found.sizes.exponent + found.lengths.exponent == pytest.approx(1, abs=0.01)
    assert rows[1][3].startswith(f"{found.sizes.exponent:.2f} [")
    assert ("left over", "20, at 4") not in facts(found)
    assert dict(facts(found))["runs"] == "20, at 4 amounts of compute"
    n, d = found.best(1e15)
    assert n * d * FACTOR == pytest.approx(1e15)


def test_plots_hold_every_run_the_forecast_and_what_was_measured(found, tmp_path):
    n, d = found.best(8 * 8.1e15)
    forecast = found.forecast(n, d)
    equal, law, residuals = plots(found, forecast, measured=forecast.loss)
    measured = [series for series in equal.series if series.dots and series.name != "minima"]
    assert sorted(x for series in measured for x, _ in series.points) == pytest.approx(
        sorted(math.log10(point.parameters) for point in found.law.points)
    )
    assert [series.color for series in equal.series[:4]] == [1, 1, 2, 2]
    line, best, ahead, reached = law.series
    assert ahead.points == reached.points == [(pytest.approx(math.log10(8 * 8.1e15)), forecast.loss)]
    assert line.points[-1][0] == pytest.approx(ahead.points[0][0])
    assert line.intervals[-1][1:] == pytest.approx(forecast.interval)
    assert [x for x, _ in best.points] == sorted(map(math.log10, found.budgets))
    left = [y for series in residuals.series for _, y in series.points]
    assert left == pytest.approx([100 * each for each in found.law.residuals])
    page = Page("t").section("s")
    for plot in (equal, law, residuals):
        plot.add_to(page)
        assert plot.draw(tmp_path).read_bytes().startswith(b"\x89PNG")
    assert page.html().count("<figure") == 3


def rates(exponent, noise=0.0):
    random = np.random.default_rng(1)
    grid = 1e-3 * 2.0 ** np.arange(6)
    return {width: [(rate, 2 + 0.1 * math.log(rate / (0.01 * (width / 64) ** exponent)) ** 2 + noise * random.normal())
                    for rate in grid.tolist()] for width in (64, 128, 256)}  # fmt: skip


def test_how_the_best_rate_moves_is_said():
    falls = fit_valleys(rates(-1.0, noise=0.01))
    assert movement(falls, "width", "learning rate").startswith("The best learning rate falls with width, as width^-")
    stays = fit_valleys(rates(0.0, noise=0.03))
    assert "cannot tell" in movement(stays, "width", "learning rate")
    header, *rows = minima_table(falls, "width", "learning rate")
    assert header == ("width", "best learning rate", "loss there", "")
    assert [row[0] for row in rows] == ["64", "128", "256"]
    assert len(valley_series(falls, "wide")) == 6
