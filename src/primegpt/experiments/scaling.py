"""What runs of several sizes at several amounts of compute say of larger ones; what runs at several rates say of rates.

analysis = "primegpt.experiments.scaling:analysis"   arms with budget.flops; those with after = true are forecast
analysis = "primegpt.experiments.scaling:rates"      arms of several widths and learning rates
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from primegpt.errors import UsageError, quoted
from primegpt.experiments.analysis import Findings, Given, Trained
from primegpt.experiments.page import slug
from primegpt.experiments.scaling_law import Forecast, Point
from primegpt.experiments.scaling_report import (
    HEADER,
    Scaling,
    exponents_table,
    facts,
    fit_scaling,
    minima_table,
    movement,
    plots,
    valley_series,
)
from primegpt.experiments.valley import Valleys, fit_valleys
from primegpt.report.chart import short_number
from primegpt.report.pictures import Plot

AS_GIVEN, SCALED = "rates as they are", "rates in proportion to 1 / width"


def analysis(given: Given) -> Findings:
    """Fits of the first measure, the forecast of the arms that come after, and whether it held."""
    found = fit_scaling(_budgets(given))
    ahead = [run for run in given.runs if run.after]
    expected = given.forecast or [asdict(found.forecast(run.parameters, run.tokens)) for run in ahead]
    compared = [(run, Forecast(**each), _loss(given, run)) for run, each in zip(ahead, expected, strict=True)]
    last = compared[-1][1:] if compared else (None, None)
    return Findings(
        notes=_notes(found, compared, given.came_first),
        tables=[
            [HEADER, *exponents_table(found)],
            minima_table(found.sizes, "FLOPs", "parameters"),
            _forecast_table(found, compared),
            [("the fit", ""), *facts(found)],
        ],
        plots=plots(found, *last),
        figures=_figures(found, compared),
        forecast=expected,
    )


def _budgets(given: Given) -> dict[float, list[Point]]:
    """The runs that the law is fitted to, by their compute."""
    budgets: dict[float, list[Point]] = {}
    for run in given.runs:
        if "flops" not in run.budget:
            raise UsageError(f"arm {quoted(run.arm)} has a budget of {', '.join(run.budget)}", "budget.flops = 1e12")
        if not run.after and (loss := _loss(given, run)) is not None:
            budgets.setdefault(run.budget["flops"], []).append(Point(run.parameters, run.tokens, loss))
    return budgets


def _loss(given: Given, run: Trained) -> float | None:
    return run.values.get(given.measures[0])


Compared = Sequence[tuple[Trained, Forecast, float | None]]


def _held(forecast: Forecast, measured: float) -> bool:
    return forecast.interval[0] <= measured <= forecast.interval[1]


def _notes(found: Scaling, compared: Compared, came_first: bool) -> list[str]:
    """The forecasts, and the exponents."""
    notes = []
    for run, forecast, measured in compared:
        times = run.flops / max(found.budgets)
        told = f"{run.arm}, {times:.1f} times the compute of the largest fitted: {_interval(forecast)} was forecast"
        if measured is not None:
            missed = "The interval held" if _held(forecast, measured) else "The interval did not hold"
            told += f", {measured:.4f} measured ({measured / forecast.loss - 1:+.1%}). {missed}"
            told += "." if came_first else "; but the forecast was written when the run had begun."
        notes.append(told)
    if found.backtest:
        off = f"{math.expm1(found.backtest.error):+.1%}"
        notes.append(f"The law of the smaller amounts is off by {off} on the largest; intervals take that in.")
    a, (low, high) = found.law.law.exponents[0], found.law.interval("a")
    notes.append(f"By the law the best size grows as compute^{a:.2f} [{low:.2f}, {high:.2f}].")
    if found.sizes.exponent is not None and found.sizes.exponent_interval is not None:
        low, high = found.sizes.exponent_interval
        notes.append(f"By the minima at equal compute, as compute^{found.sizes.exponent:.2f} [{low:.2f}, {high:.2f}].")
    return notes


def _interval(forecast: Forecast) -> str:
    return "{:.4f} [{:.4f}, {:.4f}]".format(forecast.loss, *forecast.interval)


def _forecast_table(found: Scaling, compared: Compared) -> list[tuple[str, ...]]:
    """A row an arm that comes after, header first."""
    rows: list[tuple[str, ...]] = [
        ("forecast of", "parameters", "tokens", "best size by the law", "loss [95%]", "measured")
    ]
    for run, forecast, measured in compared:
        best = short_number(found.best(run.flops)[0])
        sizes = short_number(run.parameters), short_number(run.tokens)
        rows.append((run.arm, *sizes, best, _interval(forecast), "–" if measured is None else f"{measured:.4f}"))
    return rows


def _figures(found: Scaling, compared: Compared) -> dict[str, Any]:
    """The fits and forecasts as JSON."""
    law = found.law
    return {
        "law": {name: [value, *law.interval(name)] for name, value in asdict(law.law).items()},
        "a": [law.law.exponents[0], *law.interval("a")],
        "noise": law.noise,
        "backtest": asdict(found.backtest) if found.backtest else None,
        "runs": [
            {"flops": flops, **asdict(point)} for flops, points in found.budgets.items() for point in points
        ],
        "sizes": _valleys(found.sizes),
        "forecasts": [
            {"arm": run.arm, **asdict(forecast), "measured": measured,
             "held": None if measured is None else _held(forecast, measured)}
            for run, forecast, measured in compared
        ],
    }  # fmt: skip


def _valleys(fitted: Valleys) -> dict[str, Any]:
    minima = [{"group": each.group, "at": each.at, "interval": each.interval, "inside": each.inside}
              for each in fitted.valleys]  # fmt: skip
    return {"minima": minima, "exponent": fitted.exponent, "interval": fitted.exponent_interval}


def rates(given: Given) -> Findings:
    """Where the best learning rate lies at each width; and where, if the rate is that of the narrowest network.

    Scaled, the rate of another is in proportion to 1 / width. These are the same runs, under the rate that a narrow one
    would have had: what moves as 1 / width in the first reading stays in the second.
    """
    narrowest = min(run.config.model.n_embd for run in given.runs)
    read: dict[str, dict[float, list[tuple[float, float]]]] = {AS_GIVEN: {}, SCALED: {}}
    for run in given.runs:
        width, rate, loss = run.config.model.n_embd, run.config.train.learning_rate, _loss(given, run)
        if loss is not None and math.isfinite(loss):
            read[AS_GIVEN].setdefault(width, []).append((rate, loss))
            read[SCALED].setdefault(width, []).append((rate * width / narrowest, loss))
    fitted = {name: fit_valleys(widths) for name, widths in read.items()}
    return Findings(
        notes=[f"{name}: {movement(each, 'width', 'learning rate')}" for name, each in fitted.items()],
        tables=[minima_table(each, f"width, {name}", "learning rate") for name, each in fitted.items()],
        plots=[
            Plot(slug(name), name, valley_series(each, "wide"), "log10 of the learning rate", "loss")
            for name, each in fitted.items()
        ],
        figures={slug(name): _valleys(each) for name, each in fitted.items()},
    )
