"""What commands share: the configuration as flags, parameters of several, and printing so that no terminal obeys it."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, default_name_transform

from primegpt.config import (
    DataConfig,
    GenerateConfig,
    LoRAConfig,
    ModelConfig,
    Place,
    ReadingConfig,
    ReinforceConfig,
    Section,
    TokenizerConfig,
    TrainConfig,
)
from primegpt.terminal import Table, as_json, printable, printable_pieces, wrapped

# Parameters of several commands.
Json = Annotated[bool, Parameter(name="--json", help="Print JSON.")]
RunPath = Annotated[Path | None, Parameter(help="A run folder; the latest in runs/ when not given.")]
Checkpoint = Annotated[str, Parameter(help="best, last, or a step.")]
Minutes = Annotated[float | None, Parameter(help="Wall-clock budget of the whole command, 3 when no budget is given.")]
Tokens = Annotated[int | None, Parameter(help="Training tokens, as a budget.")]
Epochs = Annotated[float | None, Parameter(help="Passes over the text, as a budget.")]
Turns = Annotated[int, Parameter(help="How often each contestant runs.")]
Threads = Annotated[
    int | None, Parameter(help="CPU threads of every contestant; as many as the process may use when not given.")
]
Alone = Annotated[bool, Parameter(help="Ours, without those of others.")]
Overwrite = Annotated[bool, Parameter(help="Replace the run that is there.")]
Rewards = Annotated[
    tuple[str, ...],
    Parameter(
        name="--reward",
        allow_leading_hyphen=True,
        help="What an answer is worth: exact (the record's answer), words, themes, genre, emotion, rhyme, sections, "
        "length:N (words), regex:PATTERN, FILE.py:function; or 0.5*NAME. Several are summed.",
    ),
]
Host = Annotated[str, Parameter(help="The interface to listen on. Any but the machine's own loopback needs a token.")]
Port = Annotated[int, Parameter(help="The port to listen on; 0 for any free one.")]

SHORT = {"num_beams": "beams", "stop_strings": "stop"}  # flags that are not called as their settings are


def _flag(name: str) -> str:
    return SHORT.get(name, default_name_transform(name))


class Reading(Section):
    """How a source is read, for every command that reads one and does not train: --data.key value."""

    data: ReadingConfig = ReadingConfig()


class Preparing(Section):
    """What may decide how a text is prepared: all that is chosen for it, and for the time there is."""

    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()


class Settings(Preparing):
    """Every configuration key as a flag: --section.key value."""

    generate: GenerateConfig = GenerateConfig()
    extension: Place | None = None
    """A Python file with parts of your own, which is run."""


class FinetuneSettings(Settings):
    """The same, and the adapters'."""

    lora: LoRAConfig = LoRAConfig()


class ReinforceSettings(FinetuneSettings):
    """The same, and those of learning from rewards."""

    reinforce: ReinforceConfig = ReinforceConfig()


class Sampling(Section):
    """The section `generate` for commands that do nothing else: --temperature 0.7. No defaults: they are the run's."""

    generate: Annotated[GenerateConfig, Parameter(name="*", show_default=False, name_transform=_flag)] = (
        GenerateConfig()
    )


def given_settings(settings: Section | None, **budgets: float | None) -> dict[str, Any]:
    """What the command line sets, and nothing else, as a configuration layer."""
    given = settings.model_dump(exclude_unset=True) if settings else {}
    for name, value in budgets.items():
        if value is not None:
            given.setdefault("train", {})[name] = value
    return given


def given_sampling(sampling: Sampling | None) -> dict[str, Any]:
    """The settings of generation that the command line sets, by name."""
    return given_settings(sampling).get("generate", {})


def show(text: object = "", end: str = "\n") -> None:
    """At once, so that a text that is being written is seen to grow."""
    print(printable(str(text)), end=end, flush=True)


def show_pieces(pieces: Iterable[str], column: int | None = None) -> None:
    """A text that is being written, and the end of its line.

    From `column` on, where that is given, a terminal gets it in lines that end between words.
    """
    shown = printable_pieces(pieces)
    if column is not None and sys.stdout.isatty():
        shown = wrapped(shown, shutil.get_terminal_size().columns, column)
    for piece in shown:
        print(piece, end="", flush=True)
    print(flush=True)


def show_rows(rows: Iterable[tuple[str, object]], width: int) -> None:
    """A table of names, in a column of `width`, and values; a value of several lines stays in its column."""
    for name, value in rows:
        show(f"{name:<{width}} " + str(value).replace("\n", "\n" + " " * (width + 1)))


def show_next(run: Path) -> None:
    """What one does with a run that has been trained."""
    commands = (f"generate {run}", f"play {run}", f"report {run}")
    width = max(map(len, commands)) + 2
    ends = ("", "write with it in the browser, and look inside", "its curves and samples as a page")
    for name, command, end in zip(("next", "", ""), commands, ends, strict=True):
        show(f"{name:<10} primegpt {command:<{width}}{end}".rstrip())


def show_table(table: Table) -> None:
    """Ruled and as wide as the screen in a terminal; elsewhere plain columns as wide as they need be.

    Columns with numbers end alike, those with words begin alike.
    """
    header, *rows = ([printable(cell).replace("\n", r"\n") for cell in row] for row in (table.header, *table.rows))
    columns = list(zip(header, *rows, strict=True))
    numeric = [False, *(any(cell and cell[0] in "+-0123456789" for cell in column[1:]) for column in columns[1:])]
    if sys.stdout.isatty():
        _show_ruled(Table(header, rows, table.note), numeric)
        return
    widths = [max(map(len, column)) for column in columns]
    for row in (header, *rows):
        cells = zip(row, widths, numeric, strict=True)
        show("  ".join(f"{cell:>{width}}" if right else f"{cell:<{width}}" for cell, width, right in cells).rstrip())
    if table.note:
        show(table.note)


def _show_ruled(table: Table, numeric: Sequence[bool]) -> None:
    from rich import box  # not for the help page
    from rich.console import Console
    from rich.table import Table as Ruled
    from rich.text import Text

    ruled = Ruled(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name, right in zip(table.header, numeric, strict=True):  # where there is no room, words give way to numbers
        ruled.add_column(Text(name), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in table.rows:
        ruled.add_row(*map(Text, row))
    console = Console(highlight=False)
    console.print(ruled)
    if table.note:
        console.print(Text(printable(table.note)), style="dim")


def show_json(value: object, indent: int | None = 2) -> None:
    """In lines to read; on one line where `indent` is None."""
    print(as_json(value, indent), flush=True)
