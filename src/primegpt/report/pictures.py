"""Pictures as PNG files: a plot as data, which a page draws too; intervals, bars, and the losses of a run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from primegpt.report.chart import Series
from primegpt.report.page import Page
from primegpt.run.atomic import write_bytes_atomic
from primegpt.run.files import EARLY

if TYPE_CHECKING:  # it takes a second to import, and few commands draw
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#a7a59c"
# c1 … c8 of page.css, on paper.
PALETTE = ("#0f6b6b", "#e0590f", "#6d48b0", "#2468b8", "#a87800", "#c03878", "#4d7189", "#6a7a1c")


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
    logarithmic: bool = False
    """Of the x of a picture; a page has it as it is."""

    def add_to(self, page: Page) -> None:
        page.chart(self.title, self.series, x=self.x, y=self.y, zero=self.zero, horizontals=self.horizontals)

    def draw(self, folder: Path) -> Path:
        """The picture NAME.png in `folder`."""
        figure, axes = _titled(self.title, 3.8)
        if self.logarithmic:
            axes.set_xscale("log")
        for number, series in enumerate(self.series):
            xs, ys = zip(*series.points, strict=True)
            color, width = PALETTE[((series.color or number + 1) - 1) % len(PALETTE)], 0.7 if series.faint else 1.5
            marks = "o-" if series.dots else "-"
            axes.plot(xs, ys, marks, label=series.name, color=color, linewidth=width, markersize=4)
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
        return save(figure, folder / f"{self.name}.png")


def draw_intervals(
    path: Path, title: str, rows: Sequence[tuple[str, float, float, float]], x: str, strong: Sequence[str] = ()
) -> Path:
    """A picture of (name, value, low, high), a row each from the top; those named in `strong` in another colour."""
    figure, axes = _titled(title, 0.9 + 0.3 * len(rows))
    for y, (name, value, low, high) in enumerate(reversed(rows)):
        color = PALETTE[1] if name in strong else PALETTE[0]
        axes.plot([low, high], [y, y], color=color, linewidth=1.5)
        axes.plot([value], [y], "o", color=color, markersize=5)
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)], fontsize=9)
    axes.set_xlabel(x)
    return save(figure, path)


def draw_bars(path: Path, title: str, groups: Mapping[str, Mapping[str, float]]) -> Path:
    """A picture of shares: a bar for each name, side by side for each group."""
    figure, axes = _titled(title, 3.2)
    names = list(next(iter(groups.values())))
    width = 0.8 / len(groups)
    for number, (group, color) in enumerate(zip(groups, (PALETTE[1], GREY), strict=False)):
        places = [place + (number - (len(groups) - 1) / 2) * width for place in range(len(names))]
        bars = axes.bar(places, [100 * groups[group][name] for name in names], width, label=group, color=color)
        axes.bar_label(bars, fmt="%.1f%%", fontsize=8)
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_ylabel("%")
    axes.legend(frameon=False, fontsize=9)
    return save(figure, path)


def plot_losses(lines: Sequence[dict[str, Any]], path: Path, name: str = "", unit: str = "") -> None:
    """Draw training and validation loss from the lines of metrics.jsonl into the PNG at `path`; rewards, of such.

    `name` is that of the run, `unit` what the loss is and is counted by. What was measured before the first step is
    a dot by itself: a line from there would cut off the true curve. Early evaluations tell that: with them there is no
    gap, and a second panel gives the first steps room.
    """
    rewarded = any("val/reward" in line for line in lines)
    losses = [
        ("train/loss", "training batches", GREY, 0.8),
        ("train/eval_loss", "training text, fixed part", PALETTE[0], 1.5),
        ("val/loss", "validation text, fixed part", PALETTE[1], 1.5),
    ]
    rewards = [("reward", "completions of steps", GREY, 0.8), ("val/reward", "validation prompts", PALETTE[1], 1.5)]
    early = any(f"{EARLY}val/loss" in line for line in lines)
    figure, panels = figure_of(11 if early else 7, 4, dpi=120, panels=1 + early)
    for axes in panels:
        for key, label, color, width in rewards if rewarded else losses:
            names = (key, EARLY + key)
            points = [(line["step"], line[n]) for line in lines for n in names if line.get(n) is not None]
            if points and points[0][0] == 0 and not early:
                axes.plot(*points.pop(0), "o", color=color, markersize=4, label="" if points else label)
            if points:
                axes.plot(*zip(*points, strict=True), label=label, color=color, linewidth=width)
        axes.set_xlabel("step")
    panels[0].set_title(f"{'Reward' if rewarded else 'Loss'}{f' of {name}' if name else ''}", fontsize=11, loc="left")
    panels[0].set_ylabel("reward" if rewarded else unit or "loss")
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(frameon=False)
    if early:
        panels[1].set_title("with room for the first steps", fontsize=11, loc="left")
        panels[1].set_xscale("symlog", linthresh=1)
        panels[1].set_xlim(left=0)
        panels[1].xaxis.set_major_formatter("{x:,.0f}")
    save(figure, path)


def load_in_background() -> None:
    """Begin to import what draws, so that it is there when the first figure is drawn: it takes half a second."""

    def load() -> None:
        with suppress(Exception):  # it is said where it is missed
            import_module("matplotlib.figure")
            import_module("matplotlib.backends.backend_agg")

    Thread(target=load, daemon=True).start()


def figure_of(width: float, height: float, *, dpi: int = 110, panels: int = 1) -> "tuple[Figure, list[Axes]]":
    """A figure of so many inches, with panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for panel in axes:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_bytes_atomic(path, picture.getvalue())
    return path


def _titled(title: str, height: float) -> "tuple[Figure, Axes]":
    figure, (axes,) = figure_of(6, height)
    axes.set_title(title, fontsize=11, loc="left")
    return figure, axes
