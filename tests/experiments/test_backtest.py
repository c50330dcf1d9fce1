"""Intervals hardly change where a law forecasts its own largest compute, and widen where it does not."""

import math

import numpy as np
import pytest

from primegpt.experiments.backtest import Backtest, backtest
from primegpt.experiments.scaling_law import Forecast, Law, Point, fit_law
from primegpt.experiments.scaling_report import facts, fit_scaling

LAW = Law(1.0, 90.0, 250.0, 0.40, 0.45)
BUDGETS = (3e14, 9e14, 2.7e15, 8.1e15)


def runs(loss, noise=0.004, seed=0, budgets=BUDGETS):
    """Four sizes around the best at each compute, N D = compute / 6, whose losses are `loss` of N, D and compute."""
    random = np.random.default_rng(seed)
    made = {}
    for budget in budgets:
        sizes = [LAW.best(budget / 6)[0] * 2.0**number for number in (-1.5, -0.5, 0.5, 1.5)]
        points = [(n, budget / 6 / n) for n in sizes]
        made[budget] = [Point(n, d, loss(n, d, budget) * math.exp(noise * random.normal())) for n, d in points]
    return made


def by_the_law(n, d, budget):
    return LAW.loss(n, d)


def in_phases(n, d, budget):
    """The last threefold of compute brings a third of what the one before did."""
    return LAW.loss(n, d) * (1.35, 1.12, 1.0, 0.97)[BUDGETS.index(budget)]


def test_it_is_the_forecast_of_the_runs_that_it_has_not_seen():
    made = runs(by_the_law)
    tried = backtest(made)
    law = fit_law([point for budget in BUDGETS[:-1] for point in made[budget]]).law
    errors = [math.log(point.loss / law.loss(point.parameters, point.tokens)) for point in made[BUDGETS[-1]]]
    assert tried == Backtest(pytest.approx(sum(errors) / 4), BUDGETS[-1], BUDGETS[-2])
    assert abs(tried.error) < 0.02


def test_a_law_that_holds_has_hardly_wider_intervals():
    ratios = []
    for seed in range(5):
        found = fit_scaling(runs(by_the_law, seed=seed))
        place = LAW.best(8 * BUDGETS[-1] / 6)
        ratios.append(width(found.forecast(*place)) / width(found.law.forecast(*place)))
    assert 1 <= np.median(ratios) < 1.2


def width(forecast):
    return math.log(forecast.interval[1] / forecast.interval[0])


def test_losses_that_fall_in_phases_widen_the_interval():
    found = fit_scaling(runs(in_phases))
    assert 0.05 < found.backtest.error < 0.15, "the forecast was too low"
    place = LAW.best(8 * BUDGETS[-1] / 6)
    narrow, wide = found.law.forecast(*place), found.forecast(*place)
    assert wide.loss == narrow.loss
    reach = math.log(8) / math.log(3)
    for before, now in zip(narrow.interval, wide.interval, strict=True):
        off = math.hypot(math.log(before / wide.loss), reach * found.backtest.error)
        assert abs(math.log(now / wide.loss)) == pytest.approx(off, rel=1e-3)
    told = dict(facts(found))["its largest compute, forecast by the others"]
    assert told.startswith(f"{math.expm1(found.backtest.error):+.1%} measured")


def test_the_error_counts_by_how_far_the_forecast_reaches():
    forecast = Forecast(1e6, 1e7, 2.0, (1.9, 2.2))
    tried = Backtest(-0.1, largest=1e12, known=1e11)
    assert tried.widened(forecast, 1e11) == tried.widened(forecast, 1e12)
    assert tried.widened(forecast, 1e12).interval == pytest.approx(forecast.interval)
    low, high = tried.widened(forecast, 1e14).interval
    assert math.log(low / 2) == pytest.approx(-math.hypot(math.log(1.9 / 2), 0.2))
    assert math.log(high / 2) == pytest.approx(math.hypot(math.log(2.2 / 2), 0.2))


@pytest.mark.parametrize("budgets", [BUDGETS[:2], BUDGETS[:1]])
def test_of_too_few_runs_there_is_none(budgets):
    made = runs(by_the_law, budgets=budgets)
    assert backtest(made) is None
    if len(budgets) == 2:
        found = fit_scaling(made)
        assert found.forecast(1e7, 1e9) == found.law.forecast(1e7, 1e9)
