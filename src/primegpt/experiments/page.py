"""The page of an experiment: verdicts, tables, curves, samples, and the file that it was made of.

write_page(folder, name="qk-norm", question="Does it pay to normalise queries and keys?", comparisons=[compared],
           curves={"val/loss": {"plain": {1: [(0, 4.2), (10, 3.1)]}}}, samples={"plain": [("The ", "The end.")]},
           source=toml, facts=[("seeds", "1, 2")])
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from primegpt.experiments.analysis import Findings
from primegpt.experiments.comparison import Comparison
from primegpt.experiments.comparison_table import HEADER, LEGEND, chance, conclusions, table
from primegpt.report.chart import Series
from primegpt.report.page import Page, Strong
from primegpt.report.pictures import Plot, draw_intervals

WHISKERS = 20  # of a curve, whatever its points are
TITLES = {  # of curves, and their unit: the words of every other page
    "val/loss": ("Validation loss", "nats per token"),
    "train/loss": ("Training loss", "nats per token"),
}

Curve = Sequence[tuple[float, float | None]]
Curves = Mapping[str, Mapping[str, Mapping[int, Curve]]]
"""By metric, arm and seed: (step, value) by rising step."""
Samples = Mapping[str, Sequence[tuple[str, str]]]
"""By arm: (prompt, text)."""


def write_page(
    folder: Path,
    *,
    name: str,
    question: str,
    comparisons: Sequence[Comparison],
    findings: Findings | None = None,
    curves: Curves,
    samples: Samples,
    source: str,
    facts: Sequence[tuple[str, str]],
) -> Path:
    """report.html in `folder`, and its curves and differences as pictures beside it."""
    page = Page(name, question)
    page.section("What came out")
    if findings:
        _found(page, findings, folder)
        page.section("Arms compared")
    else:
        page.notes([line for each in comparisons for line in conclusions(each)])
    for compared in comparisons:
        page.table((compared.measure, *HEADER[1:]), [_row(compared, row) for row in table(compared)], stacked=True)
        _draw_differences(folder, compared)
    page.text(f"{LEGEND} {chance(comparisons)}")
    drawn = [plot for plot in map(plot_of, curves, curves.values()) if plot.series]
    if drawn:
        page.section("Curves", "Means over the seeds; whiskers from the least to the most of them.")
    for plot in drawn:
        plot.add_to(page)
        plot.draw(folder)
    _samples(page, samples)
    page.section("The file").code(source)
    page.section("Set-up").facts(facts)
    return page.write(folder / "report.html")


def _found(page: Page, findings: Findings, folder: Path) -> None:
    """What an analysis says takes the place of sentences about two arms at a time."""
    page.notes(findings.notes)
    for header, *rows in findings.tables:
        page.table(header, rows, stacked=True)
    for plot in findings.plots:
        plot.add_to(page)
        plot.draw(folder)


def plot_of(metric: str, arms: Mapping[str, Mapping[int, Curve]], x: str = "step") -> Plot:
    """A line an arm: the mean of its seeds, with whiskers from the least to the most."""
    lines = {arm: mean_curve(list(seeds.values())) for arm, seeds in arms.items()}
    series = [_series(arm, points) for arm, points in lines.items() if points]
    title, unit = TITLES.get(metric, (metric, ""))
    return Plot(slug(metric), title, series, x, unit)


def mean_curve(curves: Sequence[Curve]) -> list[tuple[float, float, float, float]]:
    """(step, mean, least, most) over the steps that all curves reach, at those of the one with fewest points.

    Where runs had a budget of seconds no two have the same steps: between two points of a curve lies a straight line.
    """
    known = [np.array([point for point in curve if point[1] is not None], float) for curve in curves]  # (points, 2)
    known = [curve[np.isfinite(curve[:, 1])] for curve in known if len(curve)]
    known = [curve for curve in known if len(curve)]
    if not known:
        return []
    first, last = max(curve[0, 0] for curve in known), min(curve[-1, 0] for curve in known)
    at = min(known, key=len)[:, 0]
    at = at[(first <= at) & (at <= last)]
    values = np.stack([np.interp(at, *curve.T) for curve in known])  # (seeds, points)
    rows = np.stack([at, values.mean(0), values.min(0), values.max(0)]).T
    return [(step, mean, low, high) for step, mean, low, high in rows.tolist()]


def _series(arm: str, points: Sequence[tuple[float, float, float, float]]) -> Series:
    every = -(-len(points) // WHISKERS)
    whiskers = [(at, low, high) for at, _, low, high in points[::-1][::every] if high > low]
    return Series(arm, [(at, mean) for at, mean, *_ in points], dots=len(points) <= WHISKERS, intervals=whiskers)


def _row(compared: Comparison, row: Sequence[str]) -> list[str]:
    """With a verdict in bold where there is one."""
    verdicts = {arm.name: arm.difference.verdict for arm in compared.arms if arm.difference}
    told = verdicts.get(row[0]) not in (None, "cannot tell", "equal")
    return [*row[:-1], Strong(row[-1]) if told else row[-1]]


def _samples(page: Page, samples: Samples) -> None:
    """What the arms wrote to the same prompt, side by side."""
    prompts = dict.fromkeys(prompt for written in samples.values() for prompt, _ in written)
    for number, prompt in enumerate(prompts, 1):
        page.section(f"Sample {number}", f"» {prompt}" if prompt else "")
        for arm, written in samples.items():
            for asked, text in written:
                if asked == prompt:
                    page.card(arm, text.strip())


def _draw_differences(folder: Path, compared: Comparison) -> None:
    judged = [(arm.name, arm.difference) for arm in compared.arms if arm.difference]
    rows = [(name, found.mean, *found.interval) for name, found in judged if found.interval]
    if rows:
        path = folder / f"difference-{slug(compared.measure)}.png"
        told = [name for name, found in judged if found.verdict not in ("cannot tell", "equal")]
        name = compared.measure.rpartition(":")[2]  # of a function, without its module: the axis has room for so much
        draw_intervals(path, f"Against {compared.first}", rows, f"difference in {name}", told)


def slug(text: str) -> str:
    """`text` as a file may be called."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
