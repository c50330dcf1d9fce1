"""Student's t against the integral of its density, and against printed tables."""

import math

import numpy as np
import pytest

from primegpt.experiments.student import quantile, within


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 29, 30, 200])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.776, 12.0])
def test_the_share_within_is_the_integral_of_the_density(freedom, t):
    x = np.linspace(-t, t, 200_001)
    factor = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = factor * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    integral = (density[1:] + density[:-1]).sum() / 2 * (x[1] - x[0])
    assert within(t, freedom) == pytest.approx(integral, abs=1e-8)


def test_quantiles_are_those_of_printed_tables():
    printed = {(0.95, 1): 12.706, (0.95, 2): 4.303, (0.95, 4): 2.776, (0.95, 9): 2.262, (0.99, 4): 4.604,
               (0.99, 30): 2.750, (0.9, 5): 2.015, (0.95, 1000): 1.962, (0.999, 3): 12.924}  # fmt: skip
    assert {key: round(quantile(*key), 3) for key in printed} == printed
