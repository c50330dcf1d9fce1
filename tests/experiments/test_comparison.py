"""What is said of arms must be true as often as it is promised; and nothing is said of noise."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from primegpt.experiments.comparison import compare
from primegpt.experiments.comparison_table import HEADER, chance, conclusions, table

SEEDS = 5


def verdicts(experiment, **options):
    """Of the arms but the first: `experiment` has the values, (arms, seeds)."""
    values = {f"arm {n}": dict(enumerate(map(float, row))) for n, row in enumerate(experiment)}
    compared = compare("loss", values, lower_is_better=True, **options)
    return [arm.difference.verdict for arm in compared.arms[1:]]


def simulated(experiments, arms=2, shift=0.0, correlation=0.5, draw=None, seed=0):
    """Losses of arms whose seeds have much in common, (experiments, arms, seeds); the spread of each arm is 1."""
    random = np.random.default_rng(seed)
    draw = draw or (lambda size: random.normal(size=size))
    common, own = draw((experiments, 1, SEEDS)), draw((experiments, arms, SEEDS))
    losses = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
    losses[:, 1:] -= shift
    return losses + 2.0


@pytest.mark.parametrize("seed", range(3))
def test_two_equal_arms_are_told_apart_in_a_twentieth_of_experiments(seed):
    found = [verdicts(each)[0] for each in simulated(200, seed=seed)]
    assert 0.02 <= 1 - found.count("cannot tell") / 200 <= 0.08


@pytest.mark.parametrize("shape", ["skewed", "heavy", "outliers"])
def test_equal_arms_of_other_distributions_are_no_more_often_told_apart(shape):
    random = np.random.default_rng(1)
    draw = {
        "skewed": lambda size: random.lognormal(size=size),
        "heavy": lambda size: random.standard_t(3, size=size),
        "outliers": lambda size: random.normal(size=size) + 10 * (random.random(size) < 0.1),
    }[shape]
    found = [verdicts(each)[0] for each in simulated(500, draw=draw)]
    assert 1 - found.count("cannot tell") / 500 <= 0.065


def test_a_difference_of_two_spreads_is_found_with_five_seeds():
    found = [verdicts(each)[0] for each in simulated(200, shift=2.0)]
    assert found.count("ahead") / 200 >= 0.8
    assert "behind" not in found


def test_more_arms_find_no_more_winners_by_chance():
    """In a twentieth of experiments with five equal arms any of them differs from the first."""
    found = [set(verdicts(each)) != {"cannot tell"} for each in simulated(400, arms=5)]
    assert 0.02 <= sum(found) / 400 <= 0.065


def test_the_interval_is_students_over_common_seeds():
    """By hand: differences -1, -2, -3 have the mean -2 and the spread 1; t(0.95, 2) is 4.3027."""
    compared = compare("loss", {"a": {1: 4.0, 2: 6.0, 3: 9.0, 4: 1.0}, "b": {1: 3.0, 2: 4.0, 3: 6.0, 5: 0.0}})
    first, other = compared.arms
    assert (first.mean, first.half_range, first.missing, first.difference) == (5.0, 4.0, (5,), None)
    assert (other.seeds, other.missing, other.difference.seeds) == (4, (4,), 3)
    assert other.difference.mean == -2
    assert other.difference.interval == pytest.approx(
        (-2 - 4.3027 / math.sqrt(3), -2 + 4.3027 / math.sqrt(3)), abs=1e-4
    )


@pytest.mark.parametrize(("lower", "verdict"), [(True, "ahead"), (False, "behind"), (None, "lower")])
def test_what_is_better_depends_on_the_measure(lower, verdict):
    values = {"a": {1: 2.0, 2: 2.1, 3: 2.2}, "b": {1: 1.0, 2: 1.11, 3: 1.19}}
    compared = compare("m", values, lower_is_better=lower)
    assert compared.arms[1].difference.verdict == verdict
    turned = compare("m", values, first="b", lower_is_better=lower)
    assert turned.arms[0].difference.mean == -compared.arms[1].difference.mean


@pytest.mark.parametrize(("effect", "total"), [(0.5, 34), (0.8, 15), (1.0, 10)])
def test_so_many_seeds_would_tell(effect, total):
    """What tables of the paired t test's power say for 80% at 5%, two-sided: 34, 15 and 10 pairs."""
    pattern = np.array([-1.0, 0.0, 1.0]) + effect  # of spread 1
    compared = compare("m", {"a": dict.fromkeys(range(3), 0.0), "b": dict(enumerate(pattern.tolist()))})
    difference = compared.arms[1].difference
    assert difference.verdict == "cannot tell"
    assert abs(3 + difference.more_seeds - total) <= 1


def test_no_number_of_seeds_tells_what_is_no_difference():
    compared = compare("m", {"a": {1: 0.0, 2: 0.0}, "b": {1: 1.0, 2: -1.0}})
    assert compared.arms[1].difference.more_seeds is None
    assert table(compared)[1][-1] == "cannot tell, and no number of seeds seems to"


def test_one_seed_cannot_tell():
    compared = compare("m", {"a": {1: 0.0}, "b": {1: 5.0}})
    assert (compared.arms[1].difference.verdict, compared.arms[1].difference.interval) == ("cannot tell", None)
    assert table(compared)[1][-1] == "one seed cannot tell"


def test_arms_of_the_same_values_are_equal():
    values = {1: 0.1 + 0.2, 2: 0.7}
    compared = compare("m", {"a": values, "b": {1: 0.3, 2: 0.7}, "c": {1: 0.3}})
    assert [arm.difference.verdict for arm in compared.arms[1:]] == ["equal", "equal"]


def test_the_same_difference_in_every_seed_is_one_from_three_seeds_on():
    """As a count of parameters has it. Two values of a coarse measure agree by chance."""
    for seeds, verdict in ((2, "cannot tell"), (3, "higher")):
        compared = compare("m", {"a": dict.fromkeys(range(seeds), 0.1), "b": dict.fromkeys(range(seeds), 0.3)})
        assert compared.arms[1].difference.verdict == verdict


def test_what_is_missing_is_said():
    values = {
        "a": {1: 1.0, 2: 2.0, 3: 2.5},
        "diverged": {1: 0.5, 2: math.nan, 3: math.inf},
        "never": {1: None},
        "another": {9: 1.0},
    }
    compared = compare("m", values, lower_is_better=True)
    assert [row[-1] for row in table(compared)] == [
        "–; no value of seed 9",
        "one seed cannot tell; no value of seed 2, 3, 9",
        "no value; no value of seed 1, 2, 3, 9",
        "–; no value of seed 1, 2, 3",
    ]
    assert compared.level == 0.95  # one arm alone is compared
    json.dumps(asdict(compared), allow_nan=False)


def test_the_table_shows_as_many_digits_as_the_seeds_allow():
    compared = compare(
        "val/loss",
        {"plain": {1: 1.5012, 2: 1.5230, 3: 1.5118}, "qk": {1: 1.4410, 2: 1.4633, 3: 1.4490}},
        lower_is_better=True,
    )
    assert table(compared) == [
        ("plain", "1.512 ± 0.011", "–", "–"),
        ("qk", "1.451 ± 0.011", "-0.061 [-0.065, -0.057]", "ahead"),
    ]
    assert conclusions(compared) == ["val/loss: qk against plain -0.061 [-0.065, -0.057]: ahead."]
    assert chance([compared]).startswith(
        "1 difference in 1 measure. Of a measure that no arm moves one experiment in 20"
    )
    assert len(HEADER) == 4
    counts = compare("parameters", {"a": {1: 1e6, 2: 1e6, 3: 1e6}, "b": {1: 2e6, 2: 2e6, 3: 2e6}})
    assert table(counts)[1] == ("b", "2,000,000 ± 0", "+1,000,000 [+1,000,000, +1,000,000]", "higher")
