"""An experiment while it runs: in a terminal a table of arms and seeds that fills, elsewhere a line a job."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from primegpt.errors import PrimegptError
from primegpt.experiments.perform import lines_of
from primegpt.experiments.place import Place
from primegpt.experiments.stages import Outcome, Work
from primegpt.terminal import Say, printable, to_stderr

Value = Callable[[Outcome], float | None]


class Board:
    """What each arm has come to with each seed, as far as it is known."""

    def __init__(self, work: Work, place: Place, value: Value) -> None:
        self.work, self.place, self.value = work, place, value

    def cell(self, outcome: Outcome) -> str:
        """The first measure of an outcome; the step that its run has reached; or nothing yet."""
        try:
            value = self.value(outcome)
        except PrimegptError:
            return "?"
        if value is not None:
            return f"{value:#.4g}".rstrip(".")  # as many digits in every cell
        if self.place.result(outcome.run) is not None:
            return "none"  # it has diverged, or nothing was found
        run = self.place.path(outcome.run)
        steps = [row["step"] for row in lines_of(run)] if run.is_dir() else []
        return f"step {steps[-1]:,}" if steps else "·"

    def table(self) -> Any:
        from rich.table import Table

        seeds = list(dict.fromkeys(outcome.seed for outcome in self.work.outcomes))
        table = Table("arm", *(f"seed {seed}" for seed in seeds))
        cells: dict[str, list[str]] = {}
        for outcome in self.work.outcomes:
            cells.setdefault(outcome.arm, []).append(self.cell(outcome))
        for arm, row in cells.items():
            table.add_row(printable(arm), *row)
        return table

    @contextmanager
    def shown(self, say: Say) -> Generator[Say, None, None]:
        """Show it where `say` is a terminal; how to say something meanwhile."""
        if say is not to_stderr or not sys.stderr.isatty():
            yield say
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, highlight=False)

        def above(text: str) -> None:
            console.print(printable(text), markup=False, emoji=False, soft_wrap=True)

        with Live(get_renderable=self.table, console=console, refresh_per_second=1):
            yield above
