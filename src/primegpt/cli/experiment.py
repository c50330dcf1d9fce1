"""`primegpt experiment`: findings that anyone can repeat, on a laptop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App

from primegpt.cli.shared import Json, show, show_json

app = App(name="experiment", help="Answer a question about training by runs that differ in one thing.")


@app.default
def experiment(
    file: Path, *, quick: bool = False, out: Path | None = None, processes: int = 1, as_json: Json = False
) -> None:
    """Carry out an experiment of your own: the arms of a file, with every seed, and what tells them apart.

    Run again, it goes on where it was stopped; arms or seeds that were added to the file are done, others kept.

    Parameters
    ----------
    file
        A .toml file: a question, arms, seeds, a budget, and what is measured.
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
    show(f"\nreport     {found.report}")


@app.command
def alignment(*, quick: bool = False, out: Path | None = None, as_json: Json = False) -> None:
    """Why prompts are ignored: the same model on songbooks whose prompts fit their songs more or less often.

    Run again, it goes on where it was stopped; the full experiment goes on from a quick one.

    Parameters
    ----------
    quick
        One seed instead of three; about 12 minutes on two cores.
    out
        Where everything is kept; runs/alignment when not given.
    """
    from primegpt import api
    from primegpt.experiments import alignment as report

    found = api.experiment_alignment(out, quick=quick)
    _show(found, report.HEADER, report.table(found), report.conclusions(found), as_json)


@app.command
def duplication(*, quick: bool = False, out: Path | None = None, as_json: Json = False) -> None:
    """What copies are worth: the same compute on 70 KB, on 70 KB copied to 10 MB, and on 10 MB of varied text.

    Run again, it goes on where it was stopped; the full experiment goes on from a quick one.

    Parameters
    ----------
    quick
        One seed instead of three; about 5 minutes on two cores.
    out
        Where everything is kept; runs/duplication when not given.
    """
    from primegpt import api
    from primegpt.experiments import duplication as report

    found = api.experiment_duplication(out, quick=quick)
    _show(found, report.HEADER, report.table(found), [], as_json)


def _show(
    found: Mapping[str, Any],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    conclusions: Sequence[str],
    as_json: bool,
) -> None:
    """The table of all arms as Markdown, the conclusions, and where the page is; or everything as JSON."""
    if as_json:
        show_json(found)
        return
    _show_table(header, rows)
    show("".join(f"\n{line}\n" for line in conclusions))
    show(f"report     {found['report']}")


def _show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        show("| " + " | ".join(row) + " |")
