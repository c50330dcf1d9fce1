"""A line chart as a piece of HTML: lines in an SVG that stretches with the page, words as text that does not.

    chart("Loss", [Series("training", [(0, 4.2), (10, 3.1)])], x="step", y="nats per token")

Nothing here knows what is drawn. A value that is None, NaN or infinite leaves a gap. Colours are the classes c1 … c8
of page.css, so that they follow the light or dark of the reader; page.js shows values under the pointer.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape

from primegpt.terminal import finite, printable


def escaped(value: object) -> str:
    """`value` as HTML text, fit for attributes too; control characters, which HTML cannot hold, are spelt out."""
    return escape(printable(str(value)))


COLORS = 8
MAX_POINTS = 800  # more than there are pixels: of a longer line the highest and lowest of each stretch are drawn
MANY = 80  # points, from where on they are no longer marked, and lines are thinner
SIZE = 1000  # of the drawing, in its own units, whatever it measures on the page

Point = tuple[float, float | None]
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Series:
    """One line: (x, y) by rising x."""

    name: str
    """In the legend; "" keeps it out of it."""
    points: Sequence[Point]
    color: int = 0
    """1 … 8; 0 takes the next one that is free."""
    faint: bool = False
    """Thin and pale, for what is noisy, behind the others."""
    dots: bool = False
    """Mark each point, unless there are very many: for what was measured now and then."""
    intervals: Sequence[Interval] = ()
    """Whiskers (x, low, high), such as 95% intervals."""


def chart(
    title: str,
    series: Sequence[Series],
    *,
    x: str = "step",
    y: str = "",
    log: bool = False,
    zero: bool = False,
    wide: bool = False,
    counted: bool = False,
    verticals: Sequence[tuple[float, str]] = (),
    horizontals: Sequence[tuple[float, str]] = (),
) -> str:
    """A `<figure>` with axes, a legend and the lines of `series`; "" if none of them has a point.

    `x` and `y` name the axes, `log` makes y logarithmic (for values above 0), `zero` lets it begin at 0, `wide` takes
    the whole width. `counted` lets x begin at 0 and go on by factors, so that the first steps have room. `verticals`
    and `horizontals` are dashed lines with a label, such as (500, "best").
    """
    series = _drawable(series, log)
    if not series:
        return ""
    levels = [value for value, _ in horizontals] + ([0.0] if zero else [])
    across, up = _axes(series, log, levels, counted)
    facts, summary = _facts(series, x, across, up), "; ".join(map(_in_words, series))
    unit = f" <span>{escaped(y)}</span>" if y else ""
    data = escaped(json.dumps(finite(facts)))
    return (
        f'<figure class="{"chart wide" if wide else "chart"}" data-chart="{data}" tabindex="0">'
        f"<figcaption><b>{escaped(title)}</b>{unit}</figcaption>{_legend(series)}"
        f'<div class="plot"><div class="area">'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" role="img"><title>{escaped(summary)}</title>'
        f"{_grid(across, up)}{_rules(across, up, verticals, horizontals)}"
        f"{''.join(_line(drawn, across, up) for drawn in series)}</svg>"
        f"{_rule_labels(across, up, verticals, horizontals)}</div>"
        f"{''.join(_label('y', 'bottom', up, tick) for tick in up.ticks)}"
        f"{''.join(_label('x', 'left', across, tick) for tick in across.ticks)}"
        f'<span class="axis">{escaped(x)}</span></div></figure>'
    )


@dataclass(frozen=True)
class Axis:
    """A stretch of values, and the round ones in it."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    counted: bool = False
    """Logarithmic from 1 on, with a place for 0."""

    @classmethod
    def spanning(cls, low: float, high: float, *, log: bool = False, rounded: bool = False) -> "Axis":
        """The axis from `low` to `high`; `rounded` moves the ends outwards to ticks."""
        if log:
            return cls._logarithmic(low, high)
        if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value, or its rounding errors
            margin = abs(low) / 10 or 1.0
            low, high = low - margin * rounded, high + margin
        step = round_step((high - low) / 5)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = [number * step for number in range(first, last + 1)]
        if rounded:
            low, high = ticks[0], ticks[-1]
        return cls(low, high, tuple(tick for tick in ticks if low - 1e-9 * step <= tick <= high + 1e-9 * step))

    @classmethod
    def _logarithmic(cls, low: float, high: float) -> "Axis":
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        digits = (1, 2, 5) if len(decades) <= 3 else (1,)
        ticks = [digit * 10.0**power for power in decades for digit in digits]
        low = max((tick for tick in ticks if tick <= low * (1 + 1e-9)), default=low)
        high = min((tick for tick in ticks if tick >= high * (1 - 1e-9)), default=high)
        high = high if high > low else 2 * low
        return cls(low, high, tuple(tick for tick in ticks if low <= tick <= high), log=True)

    @classmethod
    def counting(cls, high: float) -> "Axis":
        """The axis of a count from 0 to `high`, on which 1, 10 and 100 are as far apart as 10, 100 and 1,000."""
        high = max(1.0, high)
        decades = [10.0**power for power in range(math.ceil(math.log10(high) + 1e-9))]
        return cls(0.0, high, (0.0, *(tick for tick in decades if tick <= high / 1.8), high), counted=True)

    def share(self, value: float) -> float:
        """How far along the axis `value` lies: 0 at the low end, 1 at the high one."""
        if self.counted:
            return math.log1p(value) / math.log1p(self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def round_step(rough: float) -> float:
    """The nearest of 1, 2, 5, 10, 20, 50, ... that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))


def short_number(value: float) -> str:
    """A number for an axis or a table: 0.0003 → "3e-4", 12_000 → "12k", 3e14 → "3e14", 1.2345 → "1.234"."""
    if value and not 1e-3 <= abs(value) < 1e12:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def thin(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """At most about `most` of `points`: of each stretch the first, the lowest and the highest, so that no peak is lost.

    The last point stays.
    """
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(3 * len(points) / most)
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        known = [point for point in part if point[1] is not None]
        extremes = {part[0], min(known, key=_height), max(known, key=_height)} if known else {part[0]}
        kept += [point for point in part if point in extremes]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _height(point: Point) -> float:
    return point[1] or 0.0


def _drawable(series: Iterable[Series], log: bool) -> list[Series]:
    """Those of `series` that have a point, and on a logarithmic axis no value that has no place there."""
    found = [drawn for drawn in map(_cleaned, series) if drawn.points]
    if log:
        found = [drawn for drawn in found if all(value is None or value > 0 for _, value in drawn.points)]
    return [_colored(drawn, number) for number, drawn in enumerate(found)]


def _cleaned(series: Series) -> Series:
    """`series` with gaps where a value is no finite number, and thinned."""
    points: list[Point] = [
        (at, value if value is not None and math.isfinite(value) else None) for at, value in series.points
    ]
    points = thin(points) if any(value is not None for _, value in points) else []
    intervals = [edges for edges in series.intervals if all(map(math.isfinite, edges))]
    return replace(series, points=points, intervals=intervals)


def _colored(series: Series, number: int) -> Series:
    return replace(series, color=((series.color or number + 1) - 1) % COLORS + 1)


def _kind(series: Series) -> str:
    return f"c{series.color} faint" if series.faint else f"c{series.color}"


def _axes(series: Sequence[Series], log: bool, levels: Sequence[float], counted: bool) -> tuple[Axis, Axis]:
    """The axes of x and y, which hold all points and whiskers, and `levels` of y."""
    xs = [at for drawn in series for at, _ in drawn.points]
    ys = [value for drawn in series for _, value in drawn.points if value is not None]
    ys += [edge for drawn in series for _, *edges in drawn.intervals for edge in edges]
    ys += levels
    across = Axis.counting(max(xs)) if counted else Axis.spanning(min(xs), max(xs))
    return across, Axis.spanning(min(ys), max(ys), log=log, rounded=True)


def _facts(series: Sequence[Series], x: str, across: Axis, up: Axis) -> dict[str, object]:
    """What page.js needs to show the values under the pointer."""
    return {
        "x": x,
        "domain": [across.low, across.high, up.low, up.high],
        "log": up.log,
        "counted": across.counted,
        "series": [
            {"name": drawn.name, "color": drawn.color, "points": [[_number(a), _number(b)] for a, b in drawn.points]}
            for drawn in series
        ],
    }


def _legend(series: Sequence[Series]) -> str:
    names = "".join(f'<li class="{_kind(drawn)}">{escaped(drawn.name)}</li>' for drawn in series if drawn.name)
    return f'<ul class="legend">{names}</ul>' if len(series) > 1 else ""


def _line(series: Series, across: Axis, up: Axis) -> str:
    stretches = list(_stretches(series.points))
    path = "".join("M" + "L".join(_place(across, up, *point) for point in part) for part in stretches if len(part) > 1)
    alone = [part[0] for part in stretches if len(part) == 1]
    many = len(series.points) > MANY
    marked = [point for part in stretches for point in part] if series.dots and not many else alone
    kind = _kind(series)
    thickness = "line fine" if many and not series.dots else "line"
    found = f'<path class="{thickness} {kind}" d="{path}"/>' if path else ""
    if series.intervals:
        whiskers = "".join(
            f"M{_place(across, up, at, low)}L{_place(across, up, at, high)}" for at, low, high in series.intervals
        )
        found += f'<path class="whiskers {kind}" d="{whiskers}"/>'
    if marked:  # a line without length has round ends: a dot that stays round however the drawing is stretched
        dots = "".join(f"M{_place(across, up, *point)}h.01" for point in marked)
        found += f'<path class="dots {kind}" d="{dots}"/>'
    return found


def _stretches(points: Sequence[Point]) -> Iterable[list[tuple[float, float]]]:
    """The points between gaps."""
    part: list[tuple[float, float]] = []
    for at, value in points:
        if value is not None:
            part.append((at, value))
        elif part:
            yield part
            part = []
    if part:
        yield part


def _grid(across: Axis, up: Axis) -> str:
    lines = [f"M0 {_down(up, tick)}H{SIZE}" for tick in up.ticks]
    lines += [f"M{_right(across, tick)} {SIZE}v-12" for tick in across.ticks]
    return f'<path class="grid" d="{"".join(lines)}"/>'


def _rules(
    across: Axis, up: Axis, verticals: Sequence[tuple[float, str]], horizontals: Sequence[tuple[float, str]]
) -> str:
    lines = [f"M{_right(across, at)} 0V{SIZE}" for at, _ in verticals if across.low <= at <= across.high]
    lines += [f"M0 {_down(up, at)}H{SIZE}" for at, _ in horizontals]
    return f'<path class="rule" d="{"".join(lines)}"/>' if lines else ""


def _rule_labels(
    across: Axis, up: Axis, verticals: Sequence[tuple[float, str]], horizontals: Sequence[tuple[float, str]]
) -> str:
    marks = [
        f'<span class="mark" style="left:{_percent(across.share(at))}">{escaped(label)}</span>'
        for at, label in verticals
        if across.low <= at <= across.high
    ]
    levels = [
        f'<span class="level" style="bottom:{_percent(up.share(at))}">{escaped(label)}</span>'
        for at, label in horizontals
    ]
    return "".join(marks + levels)


def _label(kind: str, edge: str, axis: Axis, tick: float) -> str:
    return f'<span class="{kind}" style="--at:{axis.share(tick):.4f}">{short_number(round(tick, 12))}</span>'


def _place(across: Axis, up: Axis, at: float, value: float) -> str:
    return f"{_right(across, at)} {_down(up, value)}"


def _right(across: Axis, at: float) -> str:
    return f"{SIZE * across.share(at):.4g}"


def _down(up: Axis, value: float) -> str:
    return f"{SIZE * (1 - up.share(value)):.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}") if isinstance(value, float) else value


def _in_words(series: Series) -> str:
    """For those who do not see the drawing, and for programs without scripts."""
    known = [(at, value) for at, value in series.points if value is not None]
    (first, begin), (last, end) = known[0], known[-1]
    name = f"{series.name}: " if series.name else ""
    return f"{name}{short_number(begin)} at {first:g}, {short_number(end)} at {last:g}"
