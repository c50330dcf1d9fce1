"""Loss over parameters and tokens, L(N, D) = E + A / N^alpha + B / D^beta, and what it forecasts, with intervals.

    fit = fit_law([Point(parameters=1e6, tokens=5e6, loss=2.31), ...])
    fit.forecast(parameters=2e7, tokens=4e8)  # loss with 95% of where a run would end

Hoffmann et al.'s third approach (2022, arXiv:2203.15556): Huber's loss of the residuals of log L, which is a
log-sum-exp of three terms, minimised from a grid of starts. Besiroglu et al. (2024, arXiv:2404.10102) show what goes
wrong: stopping before the minimum, and intervals that are far too narrow. Here every fit is carried on until no step
helps, by Levenberg and Marquardt's method for many fits at once.

A dozen small runs hardly determine five parameters. So each has a wide prior (PRIOR), which matters only where the
runs say nothing. For the intervals the fit is repeated, each time with noise added to the losses as large as what the
fit leaves over, and with the middle of the prior moved as far as the prior allows: in a linear problem that is an
exact draw from the posterior. A forecast also has the noise of the run that it is about.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from primegpt.errors import UsageError
from primegpt.seeds import derive_seed

DRAWS = 400
LEAST = 6  # runs: one more than there are parameters
HUBER = 2.0  # times the noise: a residual beyond it counts linearly, and no more than this for the noise itself
NORMAL = 0.9205  # mean square of a normal deviate cut off there (Huber's proposal 2 for the noise)
LEAST_NOISE = 1e-4  # of a loss, relative: what no measured loss is free of
STEPS = 200  # of a minimisation at most
ENOUGH = 1e-10  # of the objective, relative: a step that helps less is the last

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A run that has ended."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Law:
    """The five parameters."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    @property
    def exponents(self) -> tuple[float, float]:
        """a and b: at the best, N grows as C^a and D as C^b."""
        return self.beta / (self.alpha + self.beta), self.alpha / (self.alpha + self.beta)

    def best(self, product: float) -> tuple[float, float]:
        """The parameters and tokens of the least loss among those of one product N D, which is about compute / 6."""
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        a, b = self.exponents
        return ratio * product**a, product**b / ratio


@dataclass(frozen=True)
class Forecast:
    """The loss that a run would end with."""

    parameters: float
    tokens: float
    loss: float
    interval: tuple[float, float]
    """95%, noise included."""


@dataclass(frozen=True)
class LawFit:
    """The law, what it leaves over, and draws of what else it could be."""

    law: Law
    points: tuple[Point, ...]
    residuals: tuple[float, ...]
    """Of each point: log of the measured over the fitted loss, about its relative error."""
    noise: float
    """Standard deviation of the residuals, with the parameters that were fitted taken off."""
    draws: Floats
    """(DRAWS, 6): the logarithms of E, A, B, alpha, beta, and of the noise."""

    def interval(self, name: str) -> tuple[float, float]:
        """95% of "E", "A", "B", "alpha", "beta", or of the exponents "a" and "b"."""
        E, A, B, alpha, beta, _ = np.exp(self.draws).T
        values = {"E": E, "A": A, "B": B, "alpha": alpha, "beta": beta,
                  "a": beta / (alpha + beta), "b": alpha / (alpha + beta)}  # fmt: skip
        low, high = np.percentile(values[name], [2.5, 97.5]).tolist()
        return low, high

    def forecast(self, parameters: float, tokens: float, level: float = 0.95) -> Forecast:
        """What a run of this size on so many tokens would end with."""
        logs = _log_loss(self.draws[:, :5], np.log([parameters]), np.log([tokens]))[:, 0]  # (DRAWS,)
        random = np.random.default_rng(derive_seed(0, "forecast"))
        logs = logs[:, None] + np.exp(self.draws[:, 5:]) * random.normal(size=(DRAWS, 25))
        low, high = np.exp(np.quantile(logs, [(1 - level) / 2, (1 + level) / 2])).tolist()
        return Forecast(parameters, tokens, self.law.loss(parameters, tokens), (low, high))


def fit_law(points: Sequence[Point]) -> LawFit:
    """Fit the law to runs of different sizes and lengths. Raises UsageError where they are too few, or have no loss."""
    if len(points) < LEAST or not all(math.isfinite(point.loss) and point.loss > 0 for point in points):
        raise UsageError(f"{len(points)} runs for a law of five parameters", f"give {LEAST} or more that have a loss")
    problem = _Problem(points)
    best, noise, freedom = problem.fit()
    random = np.random.default_rng(derive_seed(0, "scaling law"))
    noises = noise * np.sqrt(freedom / random.chisquare(freedom, DRAWS))  # (DRAWS,)
    losses = problem.y + noises[:, None] * random.normal(size=(DRAWS, len(points)))
    centres = problem.centre + WIDTHS * random.normal(size=(DRAWS, 5))
    drawn = problem.minimised(np.tile(best, (DRAWS, 1)), losses, centres, noises)
    natural = problem.natural(drawn)
    E, A, B, alpha, beta = np.exp(problem.natural(best[None])[0]).tolist()
    residuals = problem.y - problem.model(best[None])[0][0]
    draws = np.concatenate([natural, np.log(noises)[:, None]], 1)
    return LawFit(Law(E, A, B, alpha, beta), tuple(points), tuple(residuals.tolist()), noise, draws)


# The prior: what each of the three terms is of the losses, at the middle of the runs, and the two exponents; and how
# wide it is, in logarithms: 1 is a factor of 2.7 either way. Published exponents lie between 0.28 and 0.37.
PRIOR = np.array([0.5, 0.25, 0.25, 0.35, 0.35])
WIDTHS = np.array([0.7, 1.0, 1.0, 0.5, 0.5])
STARTS = [np.array([E, 1 - E, 1 - E, alpha, beta]) for E in (0.2, 0.5, 0.9) for alpha in (0.15, 0.35, 0.8)
          for beta in (0.15, 0.35, 0.8)]  # fmt: skip


class _Problem:
    """The law in the logarithms of its terms at the middle of the runs and of its exponents: (fits, 5).

    There the five say different things, while A hardly says more than alpha once more.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        n, d, self.y = np.log([(point.parameters, point.tokens, point.loss) for point in points]).T  # (runs,)
        self.middle = np.array([n.mean(), d.mean()])
        self.places = np.stack([n, d]) - self.middle[:, None]  # (2, runs)
        self.unit = np.array([self.y.mean()] * 3 + [0.0, 0.0])  # terms are shares of the losses
        self.centre = np.log(PRIOR) + self.unit

    def natural(self, fits: Floats) -> Floats:
        """The logarithms of E, A, B, alpha, beta."""
        moved = fits.copy()
        moved[:, 1:3] += np.exp(fits[:, 3:]) * self.middle
        return moved

    def fit(self) -> tuple[Floats, float, float]:
        """The best fit, the noise that it leaves, and its degrees of freedom."""
        starts = np.log(STARTS) + self.unit
        noise, freedom = 0.01, 0.0
        for _ in range(8):  # the noise says what counts as an outlier, and what the prior weighs
            count = len(starts)
            ys, centres, noises = np.tile(self.y, (count, 1)), np.tile(self.centre, (count, 1)), np.full(count, noise)
            fits = self.minimised(starts, ys, centres, noises)
            best = fits[[np.argmin(self._objective(fits, ys, centres, noises)[0])]]
            weights, residuals, data, whole = self._curvature(best, ys[:1], noises[:1])
            used = np.trace(np.linalg.solve(whole[0], data[0]))  # parameters that the runs determine, of five
            freedom = len(self.y) - float(used)
            counted = float(np.square(weights * residuals).sum()) / (NORMAL * freedom)
            noise = max(LEAST_NOISE, noise * math.sqrt(counted))
            starts = best
        return best[0], noise, freedom

    def model(self, fits: Floats) -> tuple[Floats, Floats]:
        """log loss, (fits, runs), and its derivatives, (fits, runs, 5)."""
        slopes = np.exp(fits[:, 3:, None])  # (fits, 2, 1): alpha and beta
        shrunk = fits[:, 1:3, None] - slopes * self.places  # (fits, 2, runs): logs of the terms of N and D
        floor = np.broadcast_to(fits[:, :1, None], (*fits.shape[:1], 1, len(self.y)))
        terms = np.concatenate([floor, shrunk], 1)  # (fits, 3, runs)
        logs = np.logaddexp.reduce(terms, 1)
        shares = np.exp(terms - logs[:, None])
        bends = -shares[:, 1:] * slopes * self.places
        return logs, np.concatenate([shares, bends], 1).transpose(0, 2, 1)

    def minimised(self, fits: Floats, losses: Floats, centres: Floats, noises: Floats) -> Floats:
        """Each of `fits` moved to a minimum for its own losses, prior and noise (Levenberg and Marquardt)."""
        fits, damping = fits.copy(), np.full(len(fits), 1e-2)
        moving = np.arange(len(fits))
        for _ in range(STEPS):
            given = losses[moving], centres[moving], noises[moving]
            here = fits[moving]
            objective, pull = self._objective(here, *given)
            *_, whole = self._curvature(here, losses[moving], noises[moving])
            damped = whole * (1 + damping[moving, None, None] * np.eye(5))
            tried = here + np.linalg.solve(damped, pull[..., None])[..., 0].clip(-2, 2)
            gain = objective - self._objective(tried, *given)[0]
            better = gain > 0
            fits[moving[better]] = tried[better]
            damping[moving] = np.where(better, damping[moving] / 3, damping[moving] * 4)
            # A step that is refused shows the minimum only where it is short: where damping is strong.
            done = (np.abs(gain) <= ENOUGH * objective) & (better | (damping[moving] > 1))
            moving = moving[~done & (damping[moving] < 1e12)]
            if not len(moving):
                break
        return fits

    def _objective(self, fits: Floats, losses: Floats, centres: Floats, noises: Floats) -> tuple[Floats, Floats]:
        """Huber's loss and the prior's, (fits,), and the direction in which they fall, (fits, 5)."""
        logs, slopes = self.model(fits)
        residuals = (losses - logs) / noises[:, None]
        sizes = np.abs(residuals)
        losses_of = np.where(sizes <= HUBER, residuals**2 / 2, HUBER * (sizes - HUBER / 2))
        away = (fits - centres) / WIDTHS
        pull = np.einsum("frp,fr->fp", slopes, residuals.clip(-HUBER, HUBER) / noises[:, None]) - away / WIDTHS
        return losses_of.sum(1) + np.square(away).sum(1) / 2, pull

    def _curvature(self, fits: Floats, losses: Floats, noises: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Huber's weights, residuals, (fits, runs), and the matrix of Gauss and Newton: of the runs, with the prior."""
        logs, slopes = self.model(fits)
        residuals = (losses - logs) / noises[:, None]
        weights = np.minimum(1, HUBER / np.maximum(np.abs(residuals), 1e-300))
        scaled = slopes * (np.sqrt(weights) / noises[:, None])[..., None]
        data = np.einsum("frp,frq->fpq", scaled, scaled)
        return weights, residuals, data, data + np.diag(WIDTHS**-2.0)


def _log_loss(natural: Floats, n: Floats, d: Floats) -> Floats:
    """log loss, (draws, places), of the logarithms of parameters, (draws, 5), at those of N and D."""
    E, A, B, alpha, beta = (column[:, None] for column in natural.T)
    return np.logaddexp(E, np.logaddexp(A - np.exp(alpha) * n, B - np.exp(beta) * d))
