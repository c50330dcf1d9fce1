"""Student's t without SciPy: what a mean of few values may differ by, at a given level.

The distribution has a closed form for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).
"""

import math
from functools import cache


def within(t: float, freedom: int) -> float:
    """The probability that a t of so many degrees of freedom lies between -t and t."""
    assert freedom >= 1
    angle = math.atan(t / math.sqrt(freedom))
    squared = math.cos(angle) ** 2
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for number in range(2 + odd, freedom - 1, 2):
        term *= squared * (number - 1) / number
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))


@cache
def quantile(level: float, freedom: int) -> float:
    """The t between whose negative and which a share `level` lies: 2.776 for 0.95 and 4 degrees of freedom."""
    assert 0 < level < 1
    high = 1.0
    while within(high, freedom) < level:
        high *= 2
    low = 0.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < level else (low, middle)
    return high
