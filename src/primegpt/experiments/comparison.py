"""What a measure says of arms: means over the seeds, paired differences with intervals, and what noise lets one say.

    compared = compare("val/loss", {"plain": {1: 1.51, 2: 1.53}, "qk": {1: 1.49, 2: 1.50}}, lower_is_better=True)
    compared.arms[1].difference.verdict  # "cannot tell"

An arm is compared with the first one over the seeds that both have. Runs of one seed share their random streams, so
that much of what a seed does cancels in the difference. The interval is Student's. For a few seeds the percentile
bootstrap is far too narrow (with five it tells equal arms apart in 16% of experiments instead of 5%), and the
studentised one misses a fifth of what Student's interval finds. Where two arms are equal their differences are
symmetric, whatever the measure's distribution, and there Student's interval errs in 2% to 5% (docs/decisions.md).
With several arms beside the first the intervals are wider, so that 95% holds for all of a measure's together
(Bonferroni): more arms find no more winners by chance.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Literal

from primegpt.experiments.student import quantile

LEVEL = 0.95  # that all intervals of a measure hold
POWER = 0.8  # with which so many seeds would tell, if the difference is what it seems to be
MOST_SEEDS = 1000  # more of them are no advice
ROUNDING = 1e-12  # of a measure: differences below it are none

Verdict = Literal["ahead", "behind", "higher", "lower", "equal", "cannot tell"]
Values = Mapping[str, Mapping[int, float | None]]


@dataclass(frozen=True)
class Difference:
    """An arm less the first one, over the seeds that both have."""

    seeds: int
    mean: float
    interval: tuple[float, float] | None
    """None where one seed leaves nothing to judge by."""
    verdict: Verdict
    """Of an interval without 0: "ahead" or "behind", and "higher" or "lower" where neither is better."""
    more_seeds: int | None
    """About how many more would tell, where these cannot; None where no number seems to, or nothing is known."""


@dataclass(frozen=True)
class Arm:
    """One arm's values of a measure."""

    name: str
    seeds: int
    mean: float | None
    spread: float | None
    """Standard deviation over the seeds."""
    half_range: float | None
    missing: tuple[int, ...]
    """Seeds that other arms have a value of and this one has not, such as runs that diverged."""
    difference: Difference | None
    """None for the first arm, and where no seed has both."""


@dataclass(frozen=True)
class Comparison:
    """What one measure says of all arms. `dataclasses.asdict` makes JSON of it."""

    measure: str
    lower_is_better: bool | None
    first: str
    """The arm that the others are compared with."""
    level: float
    """Of each interval, so that 95% holds for all of them together."""
    arms: tuple[Arm, ...]


def compare(
    measure: str, values: Values, *, first: str | None = None, lower_is_better: bool | None = None
) -> Comparison:
    """Compare every arm's `values`, by seed, with those of `first`, or the first that there is.

    None, NaN and infinities are missing values. `lower_is_better` is None where neither is better.
    """
    known = {arm: _known(of_seeds) for arm, of_seeds in values.items()}
    first = next(iter(known)) if first is None else first
    assert first in known, f"no arm {first}"
    seeds = sorted(set().union(*known.values()))
    others = [name for name in known if name != first and known[name].keys() & known[first].keys()]
    level = 1 - (1 - LEVEL) / max(1, len(others))
    better = None if lower_is_better is None else -1 if lower_is_better else 1
    arms = []
    for name, of_seeds in known.items():
        difference = _difference(known[first], of_seeds, level, better) if name in others else None
        arms.append(_arm(name, of_seeds, seeds, difference))
    return Comparison(measure, lower_is_better, first, level, tuple(arms))


def _known(of_seeds: Mapping[int, float | None]) -> dict[int, float]:
    return {seed: float(v) for seed, v in sorted(of_seeds.items()) if v is not None and math.isfinite(v)}


def _arm(name: str, of_seeds: Mapping[int, float], seeds: Sequence[int], difference: Difference | None) -> Arm:
    values = list(of_seeds.values())
    several = len(values) > 1
    return Arm(
        name,
        len(values),
        fmean(values) if values else None,
        stdev(values) if several else None,
        (max(values) - min(values)) / 2 if several else None,
        tuple(seed for seed in seeds if seed not in of_seeds),
        difference,
    )


def _difference(first: Mapping[int, float], other: Mapping[int, float], level: float, better: int | None) -> Difference:
    common = [seed for seed in first if seed in other]
    none = ROUNDING * max(abs(each[seed]) for each in (first, other) for seed in common)
    differences = [other[seed] - first[seed] for seed in common]
    differences = [0.0 if abs(each) <= none else each for each in differences]
    n, mean = len(differences), fmean(differences)
    if not any(differences):
        return Difference(n, 0.0, (0.0, 0.0) if n > 1 else None, "equal", None)
    if n == 1:
        return Difference(n, mean, None, "cannot tell", None)
    spread = stdev(differences, mean)
    if spread <= none:
        # Each seed says the same to the last digit: a measure that no seed moves, or a coarse one that two values of
        # which agree by chance too often.
        told, interval, more = n > 2, (mean, mean), 3 - n
    else:
        margin = quantile(level, n - 1) * spread / math.sqrt(n)
        told, interval = abs(mean) > margin, (mean - margin, mean + margin)
        more = None if told else _more_seeds(n, mean / spread, level)
    if not told:
        return Difference(n, mean, interval, "cannot tell", more)
    return Difference(n, mean, interval, _direction(mean, better), None)


def _direction(mean: float, better: int | None) -> Verdict:
    if better is None:
        return "higher" if mean > 0 else "lower"
    return "ahead" if mean * better > 0 else "behind"


def _more_seeds(n: int, effect: float, level: float) -> int | None:
    """How many seeds beyond n find a difference of `effect` spreads of the differences with a probability of POWER.

    The power of the t test by its usual approximation, a shifted normal distribution with Student's threshold.
    """
    found = NormalDist().inv_cdf(POWER)

    def tells(more: int) -> bool:
        return abs(effect) * math.sqrt(n + more) >= quantile(level, n + more - 1) + found

    return bisect_left(range(1, MOST_SEEDS + 1), True, key=tells) + 1 if tells(MOST_SEEDS) else None
