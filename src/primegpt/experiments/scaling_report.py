"""A scaling law as tables and plots: minima at equal compute, the law with its forecast, and what it leaves over.

Axes of compute and size are logarithms to base 10.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from primegpt.experiments.backtest import Backtest, backtest
from primegpt.experiments.scaling_law import Forecast, LawFit, Point, fit_law
from primegpt.experiments.valley import Valley, Valleys, fit_valleys
from primegpt.report.chart import Series, short_number
from primegpt.report.pictures import Plot

LINE = 25  # points of a drawn curve

PUBLISHED = {  # alpha, beta, and N_opt ~ C^a
    "Kaplan et al. 2020": ("0.076", "0.095", "0.73"),
    "Hoffmann et al. 2022, approach 2": ("", "", "0.49"),
    "Hoffmann et al. 2022, approach 3": ("0.34", "0.28", "0.46"),
    "Besiroglu et al. 2024": ("0.348", "0.366", "0.51"),
}
HEADER = ("exponents", "alpha: of parameters", "beta: of tokens", "a: best size over compute")


@dataclass(frozen=True)
class Scaling:
    """Runs by their compute, both fits, and compute over parameters times tokens, about 6."""

    budgets: Mapping[float, Sequence[Point]]
    law: LawFit
    sizes: Valleys
    """The best number of parameters at each compute."""
    lengths: Valleys
    """The best number of tokens."""
    factor: float
    backtest: Backtest | None
    """Of the largest compute by the law of the others; None where there are too few."""

    def forecast(self, parameters: float, tokens: float) -> Forecast:
        """What the law says, with an interval that takes in how far it was off on the largest compute."""
        forecast = self.law.forecast(parameters, tokens)
        return self.backtest.widened(forecast, self.factor * parameters * tokens) if self.backtest else forecast

    def best(self, compute: float) -> tuple[float, float]:
        """Parameters and tokens that the law takes for the best at so much compute."""
        return self.law.law.best(compute / self.factor)


def fit_scaling(budgets: Mapping[float, Sequence[Point]]) -> Scaling:
    """Both approaches over runs by their compute."""
    budgets = {compute: sorted(points, key=lambda each: each.parameters) for compute, points in sorted(budgets.items())}
    runs = [(compute, point) for compute, points in budgets.items() for point in points]
    factors = [math.log(compute / point.parameters / point.tokens) for compute, point in runs]
    return Scaling(
        budgets,
        fit_law([point for _, point in runs]),
        fit_valleys(
            {compute: [(each.parameters, each.loss) for each in points] for compute, points in budgets.items()}
        ),
        fit_valleys({compute: [(each.tokens, each.loss) for each in points] for compute, points in budgets.items()}),
        math.exp(sum(factors) / len(factors)),
        backtest(budgets),
    )


def exponents_table(found: Scaling) -> list[tuple[str, ...]]:
    """The exponents of both approaches beside published ones, the columns of HEADER."""
    law = found.law
    fitted = [(law.law.alpha, law.interval("alpha")), (law.law.beta, law.interval("beta")),
              (law.law.exponents[0], law.interval("a"))]  # fmt: skip
    return [
        ("here, the law", *(_with_interval(value, interval) for value, interval in fitted)),
        ("here, minima at equal compute", "", "", _with_interval(found.sizes.exponent, found.sizes.exponent_interval)),
        *((name, *values) for name, values in PUBLISHED.items()),
    ]


def facts(found: Scaling) -> list[tuple[str, str]]:
    """What was fitted to how much, and what it leaves over."""
    law = found.law.law
    worst = max(found.law.residuals, key=abs)
    return [
        ("runs", f"{len(found.law.points)}, at {len(found.budgets)} amounts of compute"),
        ("law", f"{law.E:.3f} + {short_number(law.A)} / N^{law.alpha:.3f} + {short_number(law.B)} / D^{law.beta:.3f}"),
        ("what no size removes", f"E = {_with_interval(law.E, found.law.interval('E'))}"),
        ("left over", f"{found.law.noise:.2%} of a loss (standard deviation), {worst:+.2%} at most"),
        ("its largest compute, forecast by the others", _backtest(found.backtest)),
    ]


def plots(found: Scaling, forecast: Forecast | None = None, measured: float | None = None) -> list[Plot]:
    """Losses at equal compute, the law over compute with a forecast and what was measured of it, the residuals."""
    return [
        _equal_compute(found),
        Plot("law", "The law, and the forecast", _over_compute(found, forecast, measured), "log10 of FLOPs", "loss"),
        Plot("residuals", "What the law leaves over", _residuals(found), "log10 of parameters", "% of the loss",
             horizontals=[(0.0, "")]),
    ]  # fmt: skip


def minima_table(fitted: Valleys, group: str, place: str) -> list[tuple[str, ...]]:
    """A row a group, header first: where its loss is least, with an interval, and whether that lies between points."""
    header = (group, f"best {place}", "loss there", "")
    return [header, *(_minimum(valley) for valley in fitted.valleys)]


def movement(fitted: Valleys, group: str, place: str) -> str:
    """Whether the minimum moves from group to group, such as the best rate with width."""
    if fitted.exponent is None or fitted.exponent_interval is None:
        return f"These losses do not say where the best {place} is, nor whether it moves with {group}."
    low, high = fitted.exponent_interval
    power = f"{group}^{fitted.exponent:+.2f} [{low:+.2f}, {high:+.2f}]"
    if low <= 0 <= high:
        return f"Whether the best {place} moves with {group} these losses cannot tell: as {power}."
    return f"The best {place} {'rises' if low > 0 else 'falls'} with {group}, as {power}."


def group_name(value: float) -> str:
    """Widths and amounts of compute alike: 96, 1.5e11."""
    return f"{value:.4g}".replace("e+", "e")


def _minimum(valley: Valley) -> tuple[str, ...]:
    name = group_name(valley.group)
    if valley.at is None or valley.loss is None:
        return name, "–", "–", "the losses have no minimum"
    low, high = map(short_number, valley.interval) if valley.interval else ("?", "?")
    remark = "" if valley.inside else "beyond the points: try there"
    return name, f"{short_number(valley.at)} [{low}, {high}]", f"{valley.loss:.4f}", remark


def valley_series(fitted: Valleys, unit: str) -> list[Series]:
    """The points of each group, and the parabola through those around the lowest, in one colour."""
    series = []
    for color, valley in enumerate(fitted.valleys, 1):
        name = f"{group_name(valley.group)} {unit}"
        points = [(math.log10(at), loss) for at, loss in valley.points]
        places = np.linspace(points[0][0], points[-1][0], LINE).tolist()
        curve = [(place, valley.loss_at(10**place)) for place in places]
        series += [Series(name, points, color, dots=True), Series("", curve, color, faint=True)]
    return series


def _equal_compute(found: Scaling) -> Plot:
    minima = [(math.log10(each.at), each.loss) for each in found.sizes.valleys if each.at is not None]
    series = [*valley_series(found.sizes, "FLOPs"), Series("minima", sorted(minima), len(found.budgets) + 1, dots=True)]
    return Plot(
        "equal-compute", "Sizes at equal compute, and the parabolas through them", series, "log10 of parameters", "loss"
    )


def _over_compute(found: Scaling, forecast: Forecast | None, measured: float | None) -> list[Series]:
    first, last = min(found.budgets), max(found.budgets)
    ahead = found.factor * forecast.parameters * forecast.tokens if forecast else last
    computes = np.geomspace(first, max(last, ahead), LINE).tolist()
    along = [found.forecast(*found.best(compute)) for compute in computes]
    places = [math.log10(compute) for compute in computes]
    least = [(math.log10(compute), min(point.loss for point in points)) for compute, points in found.budgets.items()]
    series = [
        Series("the law at its best size, 95%", [(at, each.loss) for at, each in zip(places, along, strict=True)],
               intervals=[(at, *each.interval) for at, each in zip(places, along, strict=True)]),
        Series("the best run of each compute", least, dots=True),
    ]  # fmt: skip
    at = math.log10(ahead)
    if forecast:
        series.append(Series("the forecast", [(at, forecast.loss)], dots=True, intervals=[(at, *forecast.interval)]))
    if measured is not None:
        series.append(Series("what was measured", [(at, measured)], dots=True))
    return series


def _residuals(found: Scaling) -> list[Series]:
    left = dict(zip(found.law.points, found.law.residuals, strict=True))
    return [
        Series(
            f"{group_name(compute)} FLOPs",
            [(math.log10(point.parameters), 100 * left[point]) for point in points],
            dots=True,
        )
        for compute, points in found.budgets.items()
    ]


def _backtest(tried: Backtest | None) -> str:
    if tried is None:
        return "too few runs for that"
    return f"{math.expm1(tried.error):+.1%} measured; forecasts are as much less certain"


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "not determined"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
