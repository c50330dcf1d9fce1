"""`primegpt experiment`: findings that anyone can repeat, on a laptop."""

from collections.abc import Sequence
from pathlib import Path

from cyclopts import App

from primegpt.cli.shared import Json, show, show_json

app = App(name="experiment", help="Answer a question about training by runs that differ in one thing.")


@app.default
def experiment(
    file: str, *, quick: bool = False, out: Path | None = None, processes: int = 1, as_json: Json = False
) -> None:
    """Carry out an experiment: the arms of a file, with every seed, and what tells them apart.

    Run again, it goes on where it was stopped; arms or seeds that were added to the file are done, others kept.

    Parameters
    ----------
    file
        A .toml file: a question, arms, seeds, a budget, and what is measured; or the name of one that comes with
        primegpt: alignment (why prompts are ignored), cures (what makes them followed), cures-tasks (what makes
        answers right), duplication (what copies are worth), scaling (what a larger network would reach), rates,
        qk-norm, tricks.
    quick
        As the file's table [quick] says; with one seed where it has none.
    out
        Where everything is kept; runs/NAME when not given.
    processes
        How many runs train at once, sharing the cores.
    """
    from primegpt import api
    from primegpt.experiments.comparison_table import HEADER, table

    found = api.experiment(file, out, quick=quick, processes=processes)
    if as_json:
        show_json({**found.results, "report": str(found.report)})
        return
    for compared in found.comparisons:
        _show_table((compared.measure, *HEADER[1:]), table(compared))
    for note in found.findings.notes if found.findings else ():
        show(note)
    show(f"\nreport     {found.report}")


def _show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        show("| " + " | ".join(row) + " |")
