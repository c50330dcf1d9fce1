"""Runs made by a law that is known: the forecast holds it, a miss is called one, and rates are seen to move or stay."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from primegpt.config import resolve
from primegpt.errors import UsageError
from primegpt.experiments.analysis import Given, Trained
from primegpt.experiments.file import find_file, read_experiment
from primegpt.experiments.scaling import analysis, rates
from primegpt.experiments.scaling_law import Law, Point, fit_law
from primegpt.model.size import flops_per_token

LAW = Law(0.9, 40.0, 60.0, 0.40, 0.35)
MEASURE = "final/val/loss"


def config(width, **train):
    model = {"preset": "prime", "n_layer": 3, "n_head": 4, "n_embd": width, "block_size": 128, "vocab_size": 90}
    return resolve({"model": model, "train": {"batch_size": 8, "optimizer": "adamw", **train}})


@pytest.fixture(scope="module")
def plan():
    """The arms of scaling.toml as they would be trained: their configurations, budgets and steps."""
    found = []
    for arm in read_experiment(find_file("scaling")).arms:
        said = arm.stages[-1].said
        made = config(said["settings"]["model"]["n_embd"])
        step = made.tokens_per_step * flops_per_token(made.model, made.sequence_length)
        found.append((arm, made, said["budget"], int(said["budget"]["flops"] / step)))
    return found


def runs(plan, *, ended, noise=0.004):
    """With losses as the law has them."""
    random = np.random.default_rng(4)
    for arm, made, budget, steps in plan:
        run = Trained(arm.name, 1337, arm.after, made, budget, steps, {})
        loss = LAW.loss(run.parameters, run.tokens) * math.exp(noise * random.normal())
        yield replace(run, values={MEASURE: loss}) if ended or not arm.after else run


def test_the_shipped_file_asks_for_a_run_of_eight_times_the_largest_and_fits_its_time(plan):
    fitted = [budget["flops"] for arm, _, budget, _ in plan if not arm.after]
    (ahead,) = [budget["flops"] for arm, _, budget, _ in plan if arm.after]
    assert ahead >= 8 * max(fitted)
    assert len(fitted) == 20
    assert sum(fitted) + ahead < 45e9 * 60 * 25  # 25 minutes at 45 GFLOP/s
    characters = 18_000 * 736  # of the songbook, whose songs have 736 bytes
    assert max(steps * made.tokens_per_step for _, made, _, steps in plan) < 1.1 * characters


def test_a_forecast_is_that_of_the_law_and_is_compared_with_what_came(plan):
    before = analysis(Given(tuple(runs(plan, ended=False)), (MEASURE,)))
    *small, large = runs(plan, ended=True)
    fit = fit_law([Point(run.parameters, run.tokens, run.values[MEASURE]) for run in small])
    low, high = fit.forecast(large.parameters, large.tokens).interval
    assert before.forecast[0]["interval"] == pytest.approx((low, high), rel=2e-3), "of a law that holds, hardly wider"
    assert low < LAW.loss(large.parameters, large.tokens) < high
    assert before.figures["forecasts"][0]["held"] is None
    noted = json.loads(json.dumps(before.forecast))
    after = analysis(Given((*small, large), (MEASURE,), noted))
    assert after.figures["forecasts"][0]["held"] is True
    assert "8.0 times the compute" in after.notes[0]
    assert "The interval held." in after.notes[0]
    assert after.forecast == noted
    assert {plot.name for plot in after.plots} == {"equal-compute", "law", "residuals"}
    assert after.figures["sizes"]["exponent"] == pytest.approx(LAW.exponents[0], abs=0.1)


def test_a_miss_is_called_one(plan):
    *small, large = runs(plan, ended=True)
    noted = analysis(Given(tuple(runs(plan, ended=False)), (MEASURE,))).forecast
    large = replace(large, values={MEASURE: noted[0]["interval"][1] + 0.001})
    found = analysis(Given((*small, large), (MEASURE,), noted))
    assert "The interval did not hold." in found.notes[0]
    assert found.figures["forecasts"][0]["held"] is False
    late = analysis(Given((*small, large), (MEASURE,), noted, came_first=False))
    assert "the forecast was written when the run had begun" in late.notes[0]


def test_a_forecast_is_not_made_from_what_it_is_of(plan):
    *small, large = runs(plan, ended=True)
    off = analysis(Given((*small, replace(large, values={MEASURE: 9.0})), (MEASURE,)))
    assert off.forecast == analysis(Given(tuple(runs(plan, ended=False)), (MEASURE,))).forecast


def test_a_budget_without_flops_is_one_line(plan):
    run = replace(next(runs(plan, ended=True)), budget={"steps": 3})
    with pytest.raises(UsageError, match=r"has a budget of steps; budget\.flops = 1e12"):
        analysis(Given((run,), (MEASURE,)))


@pytest.mark.parametrize(("exponent", "moves", "stays"), [(-1.0, 0, 1), (0.0, 1, 0)])
def test_rates_that_go_as_one_over_width_stay_where_they_are_scaled(exponent, moves, stays):
    random = np.random.default_rng(0)
    made = []
    for arm in read_experiment(find_file("rates")).arms:
        settings = arm.stages[-1].said["settings"]
        width, rate = settings["model"]["n_embd"], settings["train"]["learning_rate"]
        rate *= (width / 32) ** (exponent + 1)  # the file looks around 1 / width
        off = math.log(rate / (0.015 * (width / 32) ** exponent))
        loss = 1.5 + 0.03 * off**2 + 0.004 * random.normal()
        made.append(Trained(arm.name, 1337, False, config(width, learning_rate=rate), {"steps": 9}, 9, {MEASURE: loss}))
    found = rates(Given(tuple(made), (MEASURE,)))
    told = "falls with width, as width^-" if exponent else "rises with width, as width^+"
    assert told in found.notes[moves]
    assert "cannot tell" in found.notes[stays]
    low, high = list(found.figures.values())[moves]["interval"]
    assert low < exponent + moves < high
    assert [plot.name for plot in found.plots] == list(found.figures)
