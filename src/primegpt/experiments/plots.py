"""A plot as data, drawn in two ways: as a part of the report's page, and as a picture for documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from primegpt.reporting.chart import Series
from primegpt.reporting.page import Page
from primegpt.run.atomic import write_bytes_atomic

GREY = "#9aa5b1"
PALETTE = ("#4c78a8", "#e4572e", "#54a24b", "#b279a2", "#9d755d")


@dataclass(frozen=True)
class Plot:
    """Lines over a common x, with whiskers where the series have intervals."""

    name: str
    """Of the picture's file."""
    title: str
    series: Sequence[Series]
    x: str
    y: str
    zero: bool = False
    """Begin y at 0, where a difference is to be seen for what it is."""
    horizontals: Sequence[tuple[float, str]] = ()

    def add_to(self, page: Page) -> None:
        page.chart(self.title, self.series, x=self.x, y=self.y, zero=self.zero, horizontals=self.horizontals)

    def draw(self, folder: Path) -> Path:
        """The picture NAME.png in `folder`."""
        axes, figure = _axes(self.title, 3.8)
        for series, color in zip(self.series, PALETTE, strict=False):
            xs, ys = zip(*series.points, strict=True)
            axes.plot(xs, ys, "o-" if series.dots else "-", label=series.name, color=color, linewidth=1.5, markersize=4)
            for at, low, high in series.intervals:
                axes.plot([at, at], [low, high], color=color, linewidth=1.2)
        for value, label in self.horizontals:
            axes.axhline(value, color=GREY, linewidth=1, linestyle="--")
            axes.annotate(label, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
        axes.set_xlabel(self.x)
        axes.set_ylabel(self.y)
        if self.zero:
            axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        if len(self.series) > 1:
            axes.legend(frameon=False, fontsize=9)
        return _save(figure, folder / f"{self.name}.png")


def draw_intervals(
    path: Path, title: str, rows: Sequence[tuple[str, float, float, float]], x: str, strong: Sequence[str] = ()
) -> Path:
    """A picture of (name, value, low, high), a row each from the top; those named in `strong` in another colour."""
    axes, figure = _axes(title, 0.9 + 0.3 * len(rows))
    for y, (name, value, low, high) in enumerate(reversed(rows)):
        color = PALETTE[1] if name in strong else PALETTE[0]
        axes.plot([low, high], [y, y], color=color, linewidth=1.5)
        axes.plot([value], [y], "o", color=color, markersize=5)
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)], fontsize=9)
    axes.set_xlabel(x)
    return _save(figure, path)


def _axes(title: str, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return axes, figure


def _save(figure: Any, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_bytes_atomic(path, picture.getvalue())
    return path


def draw_bars(path: Path, title: str, groups: Mapping[str, Mapping[str, float]]) -> Path:
    """A picture of shares: a bar for each name, side by side for each group."""
    axes, figure = _axes(title, 3.2)
    names = list(next(iter(groups.values())))
    width = 0.8 / len(groups)
    for number, (group, color) in enumerate(zip(groups, (PALETTE[1], GREY), strict=False)):
        places = [place + (number - (len(groups) - 1) / 2) * width for place in range(len(names))]
        bars = axes.bar(places, [100 * groups[group][name] for name in names], width, label=group, color=color)
        axes.bar_label(bars, fmt="%.1f%%", fontsize=8)
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_ylabel("%")
    axes.legend(frameon=False, fontsize=9)
    return _save(figure, path)
