"""A law that is known must come out of runs made by it, and forecasts must hold as often as they promise."""

import math

import numpy as np
import pytest
import torch

from primegpt.errors import UsageError
from primegpt.experiments.scaling_law import Law, Point, fit_law

HOFFMANN = Law(1.69, 406.4, 410.7, 0.34, 0.28)
SMALL = Law(1.0, 90.0, 250.0, 0.40, 0.45)


def runs(law, budgets=(3e14, 9e14, 2.7e15, 8.1e15), sizes=4, noise=0.0, seed=0):
    """Sizes around the best at each budget, N D = budget / 6."""
    random = np.random.default_rng(seed)
    points = []
    for budget in budgets:
        best, _ = law.best(budget / 6)
        for number in range(sizes):
            n = best * 2 ** (number - (sizes - 1) / 2)
            loss = law.loss(n, budget / 6 / n) * math.exp(noise * random.normal())
            points.append(Point(n, budget / 6 / n, loss))
    return points


@pytest.mark.parametrize("law", [HOFFMANN, SMALL])
def test_without_noise_the_law_itself_is_found(law):
    fit = fit_law(runs(law))
    assert fit.law.loss(1e7, 1e9) == pytest.approx(law.loss(1e7, 1e9), rel=0.003)
    assert fit.law.alpha == pytest.approx(law.alpha, rel=0.1)
    assert fit.law.beta == pytest.approx(law.beta, rel=0.1)


def test_the_minimum_is_that_of_torchs_optimizer():
    """L-BFGS in fp64 on the objective as it is written, from the middle of the prior."""
    from primegpt.experiments.scaling_law import HUBER, PRIOR, WIDTHS

    points = runs(SMALL, noise=0.01)
    fit = fit_law(points)
    n, d, y = torch.tensor([(p.parameters, p.tokens, p.loss) for p in points], dtype=torch.float64).log().T
    middle = torch.tensor(np.log(PRIOR)) + torch.tensor([1, 1, 1, 0, 0]) * y.mean()
    theta = middle.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=2000, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def objective():
        e, a, b, alpha, beta = theta
        terms = [e.expand(len(y)), a - alpha.exp() * (n - n.mean()), b - beta.exp() * (d - d.mean())]
        residuals = (y - torch.logsumexp(torch.stack(terms), 0)) / fit.noise
        prior = ((theta - middle) / torch.tensor(WIDTHS)).square().sum() / 2
        return torch.nn.functional.huber_loss(residuals, torch.zeros_like(y), reduction="sum", delta=HUBER) + prior

    def closure():
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimizer.step(closure)
    e, _, _, alpha, beta = theta.detach().exp().tolist()
    assert (fit.law.E, fit.law.alpha, fit.law.beta) == pytest.approx((e, alpha, beta), rel=2e-3)


def test_the_best_size_has_the_least_loss():
    n, d = SMALL.best(1e14)
    assert n * d == pytest.approx(1e14)
    assert SMALL.loss(n, d) < min(SMALL.loss(n * 1.01, d / 1.01), SMALL.loss(n / 1.01, d * 1.01))
    a, b = SMALL.exponents
    assert SMALL.best(8e14) == pytest.approx((n * 8**a, d * 8**b))


@pytest.mark.reliability
@pytest.mark.parametrize("law", [HOFFMANN, SMALL])
def test_forecasts_of_eight_times_the_compute_hold_as_often_as_they_promise(law):
    """16 runs with noise of 0.5%, 50 times; and an interval that is not so wide that it says nothing.

    In 600 such experiments the forecast's interval held in 96% and that of the exponent a in 93%; both may fall short
    of that by two standard errors.
    """
    held, exponents, widths = 0, 0, []
    for seed in range(50):
        fit = fit_law(runs(law, noise=0.005, seed=seed))
        n, d = law.best(8 * 8.1e15 / 6)
        loss = law.loss(n, d) * math.exp(0.005 * np.random.default_rng(1000 + seed).normal())
        low, high = fit.forecast(n, d).interval
        held += low <= loss <= high
        widths.append((high - low) / loss)
        low, high = fit.interval("a")
        exponents += low <= law.exponents[0] <= high
    assert held >= 45
    assert exponents >= 43
    assert np.median(widths) < 0.05


def test_what_the_runs_do_not_say_stays_as_wide_as_the_prior():
    """Runs of one size and length say nothing of the exponents, whose prior is 0.35 times or by e^(1.96 / 2)."""
    fit = fit_law([Point(1e6, 1e7, 3.0 + 0.01 * number) for number in range(8)])
    for name in ("alpha", "beta"):
        assert np.log(fit.interval(name)) == pytest.approx(math.log(0.35) + np.array([-0.98, 0.98]), abs=0.12)


def test_a_run_that_went_wrong_moves_the_law_little():
    points = runs(SMALL, noise=0.003)
    wrong = [*points[:5], Point(points[5].parameters, points[5].tokens, points[5].loss * 1.3), *points[6:]]
    n, d = SMALL.best(8 * 8.1e15 / 6)
    right, moved = fit_law(points), fit_law(wrong)
    assert moved.forecast(n, d).loss == pytest.approx(right.forecast(n, d).loss, rel=0.01)
    assert moved.residuals[5] == pytest.approx(math.log(1.3), abs=0.02)
    assert moved.noise < 2 * right.noise


def test_the_same_runs_have_the_same_forecast():
    points = runs(SMALL, noise=0.005)
    assert fit_law(points).forecast(1e7, 1e9) == fit_law(points).forecast(1e7, 1e9)


def test_too_few_runs_are_refused():
    with pytest.raises(UsageError, match="5 runs"):
        fit_law(runs(SMALL)[:5])
    with pytest.raises(UsageError, match="that have a loss"):
        fit_law([*runs(SMALL), Point(1e6, 1e6, math.nan)])
