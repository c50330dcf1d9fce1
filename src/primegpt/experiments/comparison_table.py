"""A comparison of arms in words: a table, a sentence an arm, and how much of it could be chance."""

import math
from collections.abc import Sequence

from primegpt.experiments.comparison import LEVEL, Arm, Comparison, Difference

HEADER = ("arm", "mean ± spread", "difference [95%]", "verdict")
LEGEND = (
    "Spread: standard deviation over the seeds. Difference: to the first arm, over the seeds that both have, with an "
    "interval that holds for all arms of a measure together in 95% of experiments. Cannot tell: the interval has 0 in "
    "it; the seeds that would tell are counted as if the difference were what it seems."
)
NOTHING = "–"


def table(compared: Comparison) -> list[tuple[str, str, str, str]]:
    """A row an arm, the columns of HEADER."""
    digits = _digits(compared)
    return [(arm.name, _mean(arm, digits), _shown(arm.difference, digits), verdict(arm)) for arm in compared.arms]


def conclusions(compared: Comparison) -> list[str]:
    """What the measure says of each arm that can be compared, a sentence each."""
    digits = _digits(compared)
    return [
        f"{compared.measure}: {arm.name} against {compared.first} {_shown(arm.difference, digits)}: {verdict(arm)}."
        for arm in compared.arms
        if arm.difference
    ]


def verdict(arm: Arm) -> str:
    """The verdict on an arm, what would tell where seeds cannot, and which of its seeds have no value."""
    gaps = f"; no value of seed {', '.join(map(str, arm.missing))}" if arm.missing else ""
    return _verdict(arm) + gaps


def _verdict(arm: Arm) -> str:
    if not arm.seeds:
        return "no value"
    if (difference := arm.difference) is None:
        return NOTHING
    if difference.verdict != "cannot tell":
        return difference.verdict
    if difference.interval is None:
        return "one seed cannot tell"
    if difference.more_seeds is None:
        return "cannot tell, and no number of seeds seems to"
    return f"cannot tell, about {_counted(difference.more_seeds, 'more seed')} would"


def chance(compared: Sequence[Comparison]) -> str:
    """How many differences are judged, and how many of them chance may have made."""
    judged = sum(arm.difference is not None for each in compared for arm in each.arms)
    if not judged:
        return "Nothing is compared."
    return (
        f"{_counted(judged, 'difference')} in {_counted(len(compared), 'measure')}. Of a measure that no arm moves one "
        f"experiment in {1 / (1 - LEVEL):.0f} finds a difference: what counts is the measure that was named beforehand."
    )


def _mean(arm: Arm, digits: int) -> str:
    if arm.mean is None:
        return NOTHING
    return f"{arm.mean:,.{digits}f}" + ("" if arm.spread is None else f" ± {arm.spread:,.{digits}f}")


def _shown(difference: Difference | None, digits: int) -> str:
    if difference is None:
        return NOTHING
    if difference.interval is None:
        return f"{difference.mean:+,.{digits}f}"
    low, high = difference.interval
    return f"{difference.mean:+,.{digits}f} [{low:+,.{digits}f}, {high:+,.{digits}f}]"


def _digits(compared: Comparison) -> int:
    """Decimals with which the smallest thing that the table tells apart has two figures."""
    scales = [abs(arm.spread) for arm in compared.arms if arm.spread]
    scales += [abs(arm.difference.mean) for arm in compared.arms if arm.difference and arm.difference.mean]
    if not scales:  # no seed and no arm moves it
        scales = [abs(arm.mean) / 100 for arm in compared.arms if arm.mean]
    return min(8, max(0, 1 - math.floor(math.log10(min(scales, default=1.0)))))


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("s" if number > 1 else "")
