"""Intervals of a mean, beside textbook values and the share of them that hold what they should."""

import numpy as np
import pytest

from primegpt.evaluation.mean import mean_of, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),  # Newcombe 1998, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_that_of_the_literature(successes, n, low, high):
    assert wilson(successes / n, n) == pytest.approx((low, high), abs=5e-5)
    values = [1.0] * successes + [0.0] * (n - successes)
    assert mean_of(values).interval == wilson(successes / n, n)


def test_the_interval_holds_the_mean_of_what_was_drawn_from():
    draw = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        low, high = mean_of(draw.beta(2, 5, 60).tolist(), seed).interval
        held += low <= 2 / 7 <= high
    assert 0.89 * 200 <= held <= 0.99 * 200  # 95% but for the bootstrap's own bias at 60 values, and luck


def test_a_single_value_has_no_interval():
    assert mean_of([0.3]).interval is None
    assert mean_of([1.0]).interval == wilson(1.0, 1)
