"""The picture of a run: loss against steps."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from primegpt.run.atomic import write_bytes_atomic


def plot_losses(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training and validation loss from the lines of metrics.jsonl into the PNG at `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for key, label, color, width in (
        ("train/loss", "training batches", "#9aa5b1", 0.8),
        ("train/eval_loss", "training text, fixed", "#4c78a8", 1.5),
        ("val/loss", "validation text, fixed", "#e4572e", 1.5),
    ):
        points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=color, linewidth=width)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    png = BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    write_bytes_atomic(path, png.getvalue())
