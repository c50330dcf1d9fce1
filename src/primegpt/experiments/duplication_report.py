"""What the duplication experiment found, as a table, as plots and as a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from primegpt.experiments.duplication import LABELS
from primegpt.experiments.plots import Plot, draw_bars
from primegpt.model.size import human_bytes
from primegpt.reporting.chart import Series
from primegpt.reporting.page import Page

Findings = Mapping[str, Any]

N = "12"  # of the n-grams that are told
HEADER = ("text", "to train on", "epochs", "loss on its own held-out part", "loss on new songs", "the best on the way",
          "copied 12-grams", "of new songs", "longest copied")  # fmt: skip


def table(found: Findings) -> list[tuple[str, ...]]:
    """A row a corpus, the columns of HEADER."""
    return [
        (
            LABELS[kind],
            human_bytes(each["text_bytes"]),
            f"{each['epochs']:.1f}",
            _spread(each["own_loss"]),
            _spread(each["loss"]),
            _spread(each["best"]),
            _spread(each["copied"][N], "%"),
            f"{each['by_chance'][N]:.1%}",
            f"{max(each['longest'])} tokens",
        )
        for kind, each in found["kinds"].items()
    ]


def _spread(values: Sequence[float], unit: str = "") -> str:
    shown = [f"{value:.1%}" if unit else f"{value:.3f}" for value in (fmean(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})" if len(values) > 1 else shown[0]


def plots(found: Findings) -> list[Plot]:
    """Loss over the steps: on songs that no arm has seen, and on what each arm holds out of its own text."""

    def curves(name: str) -> list[Series]:
        return [
            Series(
                LABELS[kind],
                [(step, mean) for step, mean, *_ in each[name]],
                dots=True,
                intervals=[(step, low, high) for step, _, low, high in each[name] if high > low],
            )
            for kind, each in found["kinds"].items()
        ]

    return [
        Plot("held-out", "Loss on new songs", curves("held_out"), "step", "nats per token"),
        Plot("own", "Loss on what each held out of its own text", curves("own"), "step", "nats per token"),
    ]


def write_report(folder: Path, found: Findings, prompts: Sequence[str], facts: Sequence[tuple[str, str]]) -> Path:
    """report.html in `folder`, and the pictures beside it."""
    page = Page(
        "What copies are worth", "The same compute on a small text, on copies of it, and on as much varied text"
    )
    page.section("What came out").table(HEADER, table(found))
    for plot in plots(found):
        plot.add_to(page)
        plot.draw(folder)
    kinds = found["kinds"]
    shares = {LABELS[kind]: fmean(each["copied"][N]) for kind, each in kinds.items()}
    chance = {LABELS[kind]: each["by_chance"][N] for kind, each in kinds.items()}
    draw_bars(folder / "copied.png", "12-grams copied from the training text", {"written": shares, "new songs": chance})
    for kind, each in kinds.items():
        page.section(LABELS[kind]).notes([f"the audit: {line}" for line in each["warnings"]], "warning")
        page.card(prompts[0], each["samples"][0].strip(), "what it writes")
        page.card("the longest span copied", each["longest_text"], f"{max(each['longest'])} tokens")
    page.section("Set-up").facts(facts)
    return page.write(folder / "report.html")
