"""Minima of noisy losses: where they are known, they must be found within their intervals as often as promised."""

import math

import numpy as np
import pytest

from primegpt.errors import UsageError
from primegpt.experiments.valley import fit_valleys


def losses(exponent=0.5, factor=2.0, groups=(1e4, 4e4, 1.6e5, 6.4e5), noise=0.0, places=5, seed=0):
    """Parabolas whose minima follow a power law: log loss = 1 + 0.05 (log at - log best)²."""
    random = np.random.default_rng(seed)
    found = {}
    for group in groups:
        best = factor * group**exponent
        at = best * 2.0 ** (np.arange(places) - places / 2 + 0.3)
        log = 1 + 0.05 * np.log(at / best) ** 2 + noise * random.normal(size=places)
        found[group] = list(zip(at.tolist(), np.exp(log).tolist(), strict=True))
    return found


def test_without_noise_the_power_law_is_found_exactly():
    fitted = fit_valleys(losses())
    assert fitted.exponent == pytest.approx(0.5)
    assert fitted.factor == pytest.approx(2.0)
    assert fitted.at(1e8) == pytest.approx(2e4)
    assert [valley.at for valley in fitted.valleys] == pytest.approx(
        [2 * group**0.5 for group in (1e4, 4e4, 1.6e5, 6.4e5)]
    )
    assert [valley.loss for valley in fitted.valleys] == pytest.approx([math.e] * 4)
    assert fitted.valleys[0].loss_at(400.0) == pytest.approx(math.exp(1 + 0.05 * math.log(2) ** 2))
    assert fitted.noise < 1e-12


def test_intervals_hold_as_often_as_they_promise():
    """Of 200 experiments 95%, give or take two standard errors; noise of 0.5% of the loss."""
    held = [0, 0]
    for seed in range(200):
        fitted = fit_valleys(losses(noise=0.005, seed=seed))
        low, high = fitted.exponent_interval
        held[0] += low <= 0.5 <= high
        low, high = fitted.valleys[1].interval
        held[1] += low <= 400 <= high
    assert 0.92 <= held[0] / 200 <= 0.98
    assert 0.92 <= held[1] / 200 <= 0.98


def test_seeds_at_one_place_are_several_points():
    points = losses(groups=(1e4,), places=3)[1e4]
    with pytest.raises(UsageError, match="fourth"):
        fit_valleys({1e4: points})
    fitted = fit_valleys({1e4: [(at, loss * seed) for at, loss in points for seed in (0.99, 1.01)]})
    assert fitted.noise == pytest.approx(0.01 * math.sqrt(6 / 3), rel=1e-3)
    assert fitted.exponent is None  # one group has no power law


def test_far_points_do_not_bend_the_parabola():
    """A rate at which training breaks down, and one that diverged."""
    points = losses(groups=(1e4,), places=7)[1e4]
    fitted = fit_valleys({1e4: [*points[:6], (points[6][0], 50.0), (1e9, math.nan)], 4e4: losses(groups=(4e4,))[4e4]})
    assert fitted.valleys[0].at == pytest.approx(200)
    assert len(fitted.valleys[0].points) == 5


def test_a_minimum_at_the_edge_or_none_is_said():
    best = 20.0  # beyond the last point
    falling = [(float(at), math.exp(1 + 0.1 * math.log(at / best) ** 2)) for at in (1, 2, 4, 8)]
    (valley,) = fit_valleys({1.0: falling}).valleys
    assert valley.at == pytest.approx(best)
    assert not valley.inside
    hill = [(float(at), 2 - 0.1 * math.log(at / 3) ** 2) for at in (1, 2, 4, 8)]
    fitted = fit_valleys({1.0: hill, 2.0: hill})
    assert [(each.at, each.interval, each.loss, each.inside) for each in fitted.valleys] == [
        (None, None, None, False)
    ] * 2
    assert (fitted.exponent, fitted.exponent_interval) == (None, None)
    with pytest.raises(UsageError, match="2 different points"):
        fit_valleys({1.0: [(1.0, 2.0), (2.0, 2.0), (2.0, 3.0)]})


def test_noise_alone_has_no_interval_that_says_anything():
    random = np.random.default_rng(0)
    flat = {group: [(at, 2 + 0.05 * random.normal()) for at, _ in points] for group, points in losses().items()}
    assert fit_valleys(flat).exponent_interval is None
