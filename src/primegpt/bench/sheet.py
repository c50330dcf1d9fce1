"""A sheet: what was measured of one commit on one machine, a small JSON file; and two of them side by side.

    docs/benchmarks/1f2e3d4c5b6a-amd-epyc-2-cores.json

Two machines differ, and one machine on two days, for reasons that are not in the code. So a comparison says where the
conditions were not the same, and of each ratio whether it is more than the turns differ among themselves.
"""

import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from primegpt.bench.compare import figure, table
from primegpt.errors import UsageError
from primegpt.run.atomic import io_errors, write_text_atomic
from primegpt.terminal import as_json

DIGITS = 5  # of a kept rate; turns differ in the second or third
DRIFT = 1.1  # how many times as fast a machine may have become before it is said

Turns = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]  # ratios of them are taken


class Kept(BaseModel):
    """Base of what a file holds: nothing unknown, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(Kept):
    """What was measured by one name: a rate each turn."""

    unit: str
    less_is_better: bool = False
    turns: Turns

    @property
    def median(self) -> float:
        return statistics.median(self.turns)


class Sheet(Kept):
    """The figures of a commit, and all that they depend on beside it."""

    commit: str
    """With a plus where files had been changed since."""
    date: str
    machine: dict[str, str]
    """Its processor, cores and system."""
    load: str
    rates: dict[str, Turns]
    """What the machine could do meanwhile: products in each format, reading of memory; in each turn."""
    versions: dict[str, str]
    commands: dict[str, str]
    """What was run, by the name of the benchmark."""
    figures: dict[str, Figure]
    absent: dict[str, str] = {}
    """Benchmarks that this commit could not run, and why."""

    @property
    def name(self) -> str:
        """Of its file: commit and machine."""
        words = re.findall(r"[a-z0-9]+", f"{self.machine['processor']} {self.machine['cores']}".lower())
        return f"{self.commit}-{'-'.join(words)}.json"

    def as_json(self) -> str:
        """A line a figure, so that two of them can be told apart by `diff`."""
        lists = re.compile(r"\[[^][{}\"]*\]")
        return lists.sub(lambda found: " ".join(found[0].split()), as_json(self.model_dump(), indent=1))

    def write(self, folder: Path) -> Path:
        """Into `folder`, under its name; a sheet that is there is replaced. Raises DiskError."""
        with io_errors(f"make the folder {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(folder / self.name, self.as_json() + "\n")
        return folder / self.name

    def as_markdown(self) -> str:
        """A table of medians, least and most, and what could not be run."""
        rows = [["", "unit", "median", "from", "to"], ["---"] * 5]
        for name, each in self.figures.items():
            rows.append([name, each.unit, *map(figure, (each.median, min(each.turns), max(each.turns)))])
        absent = ["", *self.absences()] if self.absent else []
        return "\n".join([f"{self.commit} ({self.conditions()})", "", *table(rows), *absent])

    def absences(self) -> list[str]:
        """What could not be run, and why."""
        return [f"{name}: absent, {reason}" for name, reason in self.absent.items()]

    def conditions(self) -> str:
        """In a line."""
        rates = [f"{name} {statistics.median(turns):,.0f}" for name, turns in self.rates.items()]
        return ", ".join([self.date, *self.machine.values(), *rates, f"load {self.load}"])


def read_sheet(path: Path) -> Sheet:
    """Raises UsageError for what is no sheet, DiskError where it cannot be read."""
    with io_errors(f"read {path}", UsageError):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return Sheet.model_validate(json.loads(text))
    except (ValueError, RecursionError) as error:  # ValidationError is a ValueError
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else "its JSON"
        raise UsageError(
            f"{path}: no sheet of figures ({where})", "name files that `primegpt bench all` wrote"
        ) from None


@dataclass(frozen=True)
class Change:
    """A figure of two sheets."""

    name: str
    unit: str
    before: Figure
    after: Figure

    @property
    def ratio(self) -> float:
        """How many times as good the second one is."""
        before, after = self.before.median, self.after.median
        return before / after if self.before.less_is_better else after / before

    @property
    def is_beyond_turns(self) -> bool:
        """Whether all turns of one, two or more, are better than all of the other."""
        before, after = self.before.turns, self.after.turns
        return min(len(before), len(after)) > 1 and (max(before) < min(after) or max(after) < min(before))


def changes(before: Sheet, after: Sheet) -> list[Change]:
    """The figures that both have."""
    return [
        Change(name, each.unit, each, after.figures[name])
        for name, each in before.figures.items()
        if name in after.figures and after.figures[name].unit == each.unit
    ]


def doubts(before: Sheet, after: Sheet) -> Iterator[str]:
    """Why a ratio of the two may be something else than the difference of two commits."""
    for what, mine, other in (
        ("machine", before.machine, after.machine),
        ("versions", before.versions, after.versions),
    ):
        if mine != other:
            yield f"{what} differ: {', '.join(mine.values())}; {', '.join(other.values())}"
    for name in sorted(before.rates.keys() & after.rates.keys()):
        mine, other = (statistics.median(sheet.rates[name]) for sheet in (before, after))
        if max(mine, other) > DRIFT * min(mine, other):
            yield f"the machine had another rate, {name}: {mine:,.0f}; {other:,.0f}"
    for name in sorted(before.commands.keys() & after.commands.keys()):
        if before.commands[name] != after.commands[name]:
            yield f"{name} was another measurement: {before.commands[name]}; {after.commands[name]}"


def side_by_side(before: Sheet, after: Sheet) -> str:
    """A table of medians and of how many times as good the second sheet is."""
    found = changes(before, after)
    rows = [["", "unit", before.commit, after.commit, f"{after.commit} is", "beyond the turns"], ["---"] * 6]
    for each in found:
        medians = figure(each.before.median), figure(each.after.median)
        rows.append([each.name, each.unit, *medians, f"{each.ratio:.2f}×", "yes" if each.is_beyond_turns else "no"])
    lines = [f"{sheet.commit}: {sheet.conditions()}" for sheet in (before, after)]
    for sheet, other in ((before, after), (after, before)):
        if only := [name for name in sheet.figures if name not in other.figures]:
            lines.append(f"only {sheet.commit} has: {'; '.join(only)}")
        lines += [f"{sheet.commit}, {line}" for line in sheet.absences()]
    return "\n".join([*lines, "", *table(rows)])


def as_dict(before: Sheet, after: Sheet) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "before": before.commit,
        "after": after.commit,
        "doubts": list(doubts(before, after)),
        "ratios": {each.name: each.ratio for each in changes(before, after)},
        "beyond_turns": [each.name for each in changes(before, after) if each.is_beyond_turns],
    }


def short(rate: float) -> float:
    """As it is kept."""
    return float(f"{rate:.{DIGITS}g}")
