"""Runs made by a law that is known are fitted by it; the constants of plans are those of the runs that are kept."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from primegpt.errors import UsageError
from primegpt.experiments.plan_law import FEWEST, Run, fit_plan_law
from primegpt.planning import law

KEPT = Path(__file__).parents[2] / "docs" / "law.json"
TEXTS = {"one": (1.2, 0.15, 0.2, 63_000), "two": (0.6, 0.25, 0.2, 300_000), "three": (2.0, 0.3, 0.35, 1_000_000)}


def runs(alpha, beta, worth, noise):
    """Three texts, three networks, four lengths each."""
    random = np.random.default_rng(1)
    found = []
    for text, (E, A, B, distinct) in TEXTS.items():
        for in_blocks in (98_304, 589_824, 1_769_472):
            for tokens in (400_000, 1_000_000, 2_000_000, 4_000_000):
                passes = tokens / distinct
                taught = tokens if passes < 1 else distinct + distinct * worth * (1 - np.exp(-(passes - 1) / worth))
                loss = E + A * (3e5 / in_blocks) ** alpha + B * (2e6 / taught) ** beta
                found.append(Run(text, in_blocks, tokens, distinct, loss * (1 + noise * random.normal())))
    return found


def test_a_law_that_is_known_is_found():
    found = fit_plan_law(runs(0.4, 0.6, 4.0, noise=0.002))
    assert [found.alpha, found.beta, found.worth] == [pytest.approx(each, rel=0.2) for each in (0.4, 0.6, 4.0)]
    assert found.noise < 0.003
    assert found.texts["one"][0] == pytest.approx(1.2, rel=0.1)


def test_one_run_that_went_wrong_moves_the_law_little():
    right = runs(0.4, 0.6, 4.0, noise=0.002)
    wrong = [*right[:5], replace(right[5], loss=right[5].loss * 1.3), *right[6:]]
    found = fit_plan_law(wrong)
    off = [found.loss(run) / run.loss - 1 for run in right]
    assert np.median(np.abs(off)) < 0.004


@pytest.mark.parametrize("given", [runs(0.4, 0.6, 4.0, 0)[::4], [Run("a", 1, 10**6, 1, math.nan)] * 20])
def test_too_few_runs_or_none_that_ended_are_refused(given):
    with pytest.raises(UsageError, match=r"for the law of plans; give (10|6) or more"):
        fit_plan_law(given)


def test_the_constants_of_plans_are_those_of_the_runs_that_are_kept():
    kept = [Run(**each) for each in json.loads(KEPT.read_text(encoding="utf-8"))["runs"]]
    found = fit_plan_law(kept)
    ours = [law.ALPHA, law.BETA, law.WORTH, law.RATIO]
    assert ours == [pytest.approx(each, rel=0.02) for each in (found.alpha, found.beta, found.worth, found.ratio)]
    for run in [run for run in kept if run.tokens >= FEWEST][::5]:
        E, _, B = found.texts[run.text]
        alike = (found.loss(run) - E) / B - law.missing(run.in_blocks, run.tokens, run.distinct)
        ratio = found.texts[run.text][1] / B
        assert alike == pytest.approx((ratio - law.RATIO) * (3e5 / run.in_blocks) ** law.ALPHA, abs=0.02)
