"""A mean over prompts, and how far so many of them tell it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from primegpt.seeds import derive_seed

RESAMPLES = 2000
AT_ONCE = 2**20  # values drawn
Z = 1.959963984540054  # of the normal distribution 95% lie within


@dataclass(frozen=True)
class Mean:
    """A mean, and its 95% interval: Wilson's where all values are 0 or 1, else by bootstrap over the values."""

    mean: float
    interval: tuple[float, float] | None
    """None for a single value that is neither 0 nor 1."""


def mean_of(values: Sequence[float], seed: int = 0) -> Mean:
    """The mean of at least one value."""
    array = np.array(values, float)
    mean = float(array.mean())
    if set(values) <= {0, 1}:
        return Mean(mean, wilson(mean, len(values)))
    if len(values) == 1:
        return Mean(mean, None)
    draw, at_once = np.random.default_rng(derive_seed(seed, "bootstrap", "mean")), max(1, AT_ONCE // len(array))
    sizes = [min(at_once, RESAMPLES - done) for done in range(0, RESAMPLES, at_once)]
    means = [array[draw.integers(0, len(array), (size, len(array)))].mean(axis=1) for size in sizes]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Mean(mean, (float(low), float(high)))


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share of n, which stays within 0 and 1 and is none of length 0 at either end."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
