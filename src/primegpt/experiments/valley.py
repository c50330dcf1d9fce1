"""Where losses are least, between points that are noisy: parabolas over the logarithm, and how their minima move.

    fitted = fit_valleys({1e15: [(1e6, 2.31), (2e6, 2.24), (4e6, 2.25), (8e6, 2.33)], 4e15: [...]})
    fitted.valleys[0].at, fitted.exponent, fitted.exponent_interval

With sizes at equal compute this is Hoffmann et al.'s second approach (2022, arXiv:2203.15556): a parabola in log N for
each budget, and N_opt ~ C^a through their minima. With learning rates at several widths it says whether the best rate
moves with width. Four points of noisy losses do not determine how strongly a parabola bends; all of them do, so they
share one bend (of log loss). Losses that rise faster on one side move a minimum a little to the other, in all groups
alike: the exponent hardly feels it. Intervals: the fit is repeated on losses with as much noise added as it leaves
over, whose own uncertainty is drawn too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from primegpt.errors import UsageError
from primegpt.seeds import derive_seed

NEAREST = 5  # points on the axis around the lowest that a parabola goes through: farther off a loss is none
DRAWS = 2000
WIDEST = math.log(1e6)  # interval of a place that says anything
MOST_LOST = 0.025  # of the draws without a minimum, up to which there is an interval

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Valley:
    """The minimum of one group."""

    group: float
    """What the points have in common: their compute, their width."""
    at: float | None
    """Where the loss is least; None where the points do not bend up."""
    interval: tuple[float, float] | None
    """95%; None where they hardly do."""
    inside: bool
    """Whether it lies between points; elsewhere it is a guess, and farther points would show it."""
    points: tuple[tuple[float, float], ...]
    """(where, loss) that the parabola goes through."""
    curve: tuple[float, float, float]
    """log loss = c0 + c1 z + c2 z², z = log(where) - log of the points' middle."""
    middle: float

    @property
    def loss(self) -> float | None:
        """At the minimum."""
        return None if self.at is None else self.loss_at(self.at)

    def loss_at(self, where: float) -> float:
        z = math.log(where) - self.middle
        return math.exp(self.curve[0] + self.curve[1] * z + self.curve[2] * z**2)


@dataclass(frozen=True)
class Valleys:
    """The minima of all groups, and the power law through them: at = factor * group ** exponent."""

    valleys: tuple[Valley, ...]
    exponent: float | None
    """None where fewer than two groups have a minimum."""
    exponent_interval: tuple[float, float] | None
    factor: float | None
    noise: float
    """Of a loss, relative: what the parabolas leave over."""

    def at(self, group: float) -> float:
        """Where the power law has the minimum of another group."""
        assert self.factor is not None
        assert self.exponent is not None
        return self.factor * group**self.exponent


def fit_valleys(groups: Mapping[float, Sequence[tuple[float, float]]]) -> Valleys:
    """Minima of (where, loss) in each group, such as (parameters, loss) by compute, or (rate, loss) by width.

    Several losses at one place are those of several seeds. Raises UsageError where points are too few.
    """
    kept = {group: _nearest(group, points) for group, points in sorted(groups.items())}
    problem = _Parabolas(list(kept.values()))
    freedom = len(problem.y) - 2 * len(kept) - 1
    if freedom < 1:
        raise UsageError("three points alone leave nothing to tell noise by", "measure a fourth, or a second seed")
    noise = math.sqrt(problem.left_over() / freedom)
    random = np.random.default_rng(derive_seed(0, "valleys"))
    noises = noise * np.sqrt(freedom / random.chisquare(freedom, DRAWS))  # (draws,)
    drawn = problem.minima(problem.y + noises[:, None] * random.normal(size=(DRAWS, len(problem.y))))
    valleys = tuple(
        _valley(group, points, curve, middle, minima)
        for (group, points), curve, middle, minima in zip(
            kept.items(), problem.curves(), problem.middles, drawn.T, strict=True
        )
    )
    return Valleys(valleys, *_power_law(valleys, drawn), noise)


class _Parabolas:
    """Least squares of log loss over log place: a height and a slope for each group, one bend for all.

    For many versions of the losses at once.
    """

    def __init__(self, groups: Sequence[Sequence[tuple[float, float]]]) -> None:
        self.y = np.log([loss for points in groups for _, loss in points])  # (points,)
        places = [np.log([at for at, _ in points]) for points in groups]
        self.middles = [float((x.min() + x.max()) / 2) for x in places]
        self.powers = np.zeros((len(self.y), 2 * len(groups) + 1))  # heights, slopes, the bend
        begin = 0
        for number, (x, middle) in enumerate(zip(places, self.middles, strict=True)):
            rows, z = slice(begin, begin + len(x)), x - middle
            self.powers[rows, number] = 1
            self.powers[rows, len(groups) + number] = z
            self.powers[rows, -1] = z**2
            begin += len(x)
        self.inverse = np.linalg.pinv(self.powers).astype(np.float64)  # (2 groups + 1, points)

    def curves(self) -> list[tuple[float, float, float]]:
        """Height, slope and bend of each group."""
        heights, slopes, bend = self._split(self.inverse @ self.y)
        return [(height, slope, float(bend)) for height, slope in zip(heights.tolist(), slopes.tolist(), strict=True)]

    def left_over(self) -> float:
        return float(np.square(self.y - self.powers @ (self.inverse @ self.y)).sum())

    def minima(self, y: Floats) -> Floats:
        """log place of each group's minimum, (draws, groups), for losses (draws, points); nan where there is none."""
        _, slopes, bends = self._split(y @ self.inverse.T)
        bends = np.where(bends > 0, bends, np.nan)
        return self.middles - slopes / (2 * bends[:, None])

    def _split(self, fitted: Floats) -> tuple[Floats, Floats, Floats]:
        count = len(self.middles)
        return fitted[..., :count], fitted[..., count : 2 * count], fitted[..., -1]


def _nearest(group: float, points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The points at the places around that of the lowest mean loss, NEAREST of them."""
    finite = sorted((at, loss) for at, loss in points if math.isfinite(loss))
    places = sorted({at for at, _ in finite})
    if len(places) < 3:
        raise UsageError(f"{len(places)} different points of {group:g} make no parabola", "measure three or more")
    means = [np.mean([loss for at, loss in finite if at == place]) for place in places]
    best = int(np.argmin(means))
    begin = min(max(0, best - NEAREST // 2), max(0, len(places) - NEAREST))
    chosen = set(places[begin : begin + NEAREST])
    return tuple(point for point in finite if point[0] in chosen)


def _valley(
    group: float,
    points: tuple[tuple[float, float], ...],
    curve: tuple[float, float, float],
    middle: float,
    minima: Floats,
) -> Valley:
    _, slope, bend = curve
    if bend <= 0:
        return Valley(group, None, None, False, points, curve, middle)
    at = math.exp(middle - slope / (2 * bend))
    return Valley(group, at, _place(minima), points[0][0] <= at <= points[-1][0], points, curve, middle)


def _place(minima: Floats) -> tuple[float, float] | None:
    """The interval of the place itself; None where it spans more than any axis."""
    interval = _interval(minima)
    if interval is None or interval[1] - interval[0] > WIDEST:
        return None
    return math.exp(interval[0]), math.exp(interval[1])


def _interval(values: Floats) -> tuple[float, float] | None:
    """95% of the draws; None where too many of them had no minimum."""
    if np.isnan(values).mean() > MOST_LOST:
        return None
    low, high = np.nanpercentile(values, [2.5, 97.5]).tolist()
    return low, high


def _power_law(
    valleys: Sequence[Valley], drawn: Floats
) -> tuple[float | None, tuple[float, float] | None, float | None]:
    """The exponent, its interval, and the factor."""
    places = [math.log(valley.at) for valley in valleys if valley.at is not None]
    if len(places) < 2:
        return None, None, None
    x = np.log([valley.group for valley in valleys])
    weights = (x - x.mean()) / np.square(x - x.mean()).sum()  # the slope of y over x is weights · y
    exponent = float(weights @ places)
    factor = math.exp(float(np.mean(places) - exponent * x.mean()))
    return exponent, _interval(drawn @ weights), factor
