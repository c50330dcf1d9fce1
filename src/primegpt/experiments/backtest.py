"""What a law's forecasts have been worth so far: that of its own largest compute, by the runs of the smaller ones.

    tried = backtest({1e12: [Point(...), ...], 3e12: [...], 9e12: [...]})
    tried.widened(law.forecast(2e7, 4e8), compute=7.2e13)

A law's interval holds where losses are of its form. Where they are not, as of a text that is learnt in phases, what it
leaves over goes by compute and is no noise, and no draw from its posterior says how far it will be off. But a part of
that can be seen beforehand: hide the largest compute, and forecast it. An error that goes by compute goes on, so it
counts as much more as the forecast reaches further (in logarithms), and adds to the interval as two errors do that
have nothing to do with each other. Where the law holds that makes intervals a tenth wider.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from primegpt.experiments.scaling_law import LEAST, Forecast, Point, fit_law


@dataclass(frozen=True)
class Backtest:
    """A forecast of the runs of the largest compute, compared with what came of them."""

    error: float
    """Mean of log(measured / forecast): above 0 the forecast was too low."""
    largest: float
    """Compute of the runs that were forecast."""
    known: float
    """The largest compute of those that the forecast was made from."""

    def widened(self, forecast: Forecast, compute: float) -> Forecast:
        """The forecast of a run of so much compute, with an interval that takes the error in."""
        reach = max(0.0, math.log(compute / self.largest) / math.log(self.largest / self.known))
        below, above = (
            math.exp(math.hypot(math.log(end / forecast.loss), reach * self.error)) for end in forecast.interval
        )
        return replace(forecast, interval=(forecast.loss / below, forecast.loss * above))


def backtest(budgets: Mapping[float, Sequence[Point]]) -> Backtest | None:
    """The runs of the largest compute, forecast by the others; None where those are too few for a law."""
    *smaller, largest = sorted(budgets)
    points = [point for compute in smaller for point in budgets[compute]]
    if len(smaller) < 2 or len(points) < LEAST:
        return None
    law = fit_law(points).law
    errors = [math.log(point.loss / law.loss(point.parameters, point.tokens)) for point in budgets[largest]]
    return Backtest(fmean(errors), largest, smaller[-1])
