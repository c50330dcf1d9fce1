"""Side-by-side measurements: contestants in alternating turns on one machine, medians, spread, ratios.

A figure alone says little on a machine that also does other things. Contestants take turns, so that a busy minute hits
all of them, and what is reported is the ratio of medians. Most are processes of their own: how they are started and
timed stands below.
"""

import importlib.util
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from primegpt.device import available_cores
from primegpt.errors import UsageError
from primegpt.terminal import Say, as_json, silent

Run = Callable[[], float]  # does the work once and returns its rate, in the unit of the comparison
Runs = Callable[[], Sequence[float]]  # likewise, for several measures of the same work


class Absent(Exception):
    """Raised by a contestant that turns out not to run here; the message says why."""


@dataclass(frozen=True)
class Measure:
    """What is measured of a task, and whether less of it is better, as with seconds."""

    task: str
    unit: str
    less_is_better: bool = False


@dataclass(frozen=True)
class Result:
    """The rates of one contestant, one a turn; none if it is absent, and then why."""

    name: str
    rates: tuple[float, ...]
    absent: str = ""
    limit: float | None = None  # the rate that the machine allows, where it is known

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Comparison:
    """Contestants on one task; the first is ours."""

    task: str
    unit: str
    machine: Mapping[str, Any]
    results: tuple[Result, ...]
    less_is_better: bool = False

    def ratio(self, result: Result) -> float:
        """How many times as fast as `result` we are."""
        ours, theirs = self.results[0].median, result.median
        return theirs / ours if self.less_is_better else ours / theirs

    def with_limits(self, limits: Mapping[str, float]) -> "Comparison":
        """The same, with the rates that the machine allows, by contestant: the table gets a column of shares."""
        return replace(self, results=tuple(replace(r, limit=limits.get(r.name, r.limit)) for r in self.results))

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON: every rate of every turn, and the medians."""
        return asdict(self) | {"medians": {r.name: r.median for r in self.results if r.rates}}

    def as_json(self) -> str:
        return as_json(self.as_dict(), indent=2)

    def as_markdown(self) -> str:
        """A table: median, least and most of each, the ratio of ours to it, the share of the limit if there is one."""
        machine = ", ".join(f"{value}" for value in self.machine.values())
        columns = ["", self.unit, "from", "to", "ours is"]
        limited = any(result.limit for result in self.results)
        rows = [columns + ["of the limit"] * limited, ["---"] * (len(columns) + limited)]
        for result in self.results:
            if not result.rates:
                rows.append([result.name, f"absent: {result.absent}", *[""] * (len(rows[0]) - 2)])
                continue
            figures = [figure(rate) for rate in (result.median, min(result.rates), max(result.rates))]
            row = [result.name, *figures, f"{self.ratio(result):.2f}×" if self.results[0].rates else ""]
            if limited:
                row.append(f"{result.median / result.limit:.0%}" if result.limit else "")
            rows.append(row)
        return "\n".join([f"{self.task} ({machine})", "", *table(rows)])


NO_TIME = "there was no time left"


@dataclass(frozen=True)
class Allowance:
    """How long turns may be begun, by time.monotonic(), and who is told after each what there is by then."""

    until: float = math.inf
    after_turn: Callable[[Sequence[Comparison]], None] = lambda found: None

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.until

    def patience(self, most: float) -> float:
        """Seconds that a process may take: what is left, but not more than `most`."""
        return max(0.0, min(most, self.until - time.monotonic()))


UNBOUNDED = Allowance()


def figure(rate: float) -> str:
    """A rate with at least three digits, so that a percent of a small one shows."""
    return f"{rate:,.1f}" if rate >= 10 else f"{rate:.3f}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return ["|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in rows]


def compare(
    task: str,
    unit: str,
    contestants: Mapping[str, Run | str],
    *,
    turns: int = 5,
    say: Say = silent,
    allowance: Allowance = UNBOUNDED,
) -> Comparison:
    """Let `contestants` take `turns` turns each; a text instead of a function says why one is absent."""

    def as_runs(run: Run) -> Runs:
        return lambda: (run(),)

    several = {name: run if isinstance(run, str) else as_runs(run) for name, run in contestants.items()}
    return compare_measures([Measure(task, unit)], several, turns=turns, say=say, allowance=allowance)[0]


def compare_measures(
    measures: Sequence[Measure],
    contestants: Mapping[str, Runs | str],
    *,
    turns: int = 5,
    say: Say = silent,
    allowance: Allowance = UNBOUNDED,
) -> list[Comparison]:
    """As `compare`, where each turn of a contestant gives one rate for each of `measures`.

    A contestant that raises Absent takes no further turn, and those it took do not count, unless the `allowance` has
    ended, which may be why; one that has had no turn by then is absent too. Raises UsageError if there are no turns.
    """
    if turns < 1:
        raise UsageError(f"--turns {turns}: at least one is needed")
    rates: dict[str, list[Sequence[float]]] = {name: [] for name in contestants}
    absent = {name: run for name, run in contestants.items() if isinstance(run, str)}
    for turn in range(turns):
        for name, run in contestants.items():
            if isinstance(run, str) or name in absent or allowance.is_over:
                continue
            try:
                rates[name].append(run())
            except Absent as reason:
                if allowance.is_over:
                    continue
                rates[name], absent[name] = [], " ".join(str(reason).split())
                say(f"{name} is absent: {absent[name]}")
                continue
            said = zip(rates[name][-1], measures, strict=True)
            say(f"turn {turn + 1} of {turns}: {name} {', '.join(f'{figure(rate)} {m.unit}' for rate, m in said)}")
            allowance.after_turn(tables(measures, rates, absent))
    return tables(measures, rates, absent)


def tables(
    measures: Sequence[Measure], rates: Mapping[str, Sequence[Sequence[float]]], absent: Mapping[str, str]
) -> list[Comparison]:
    """What there is of each of `measures`, of the turns that contestants have taken."""
    here, why = machine(), {name: absent.get(name, "" if taken else NO_TIME) for name, taken in rates.items()}
    return [
        Comparison(
            measure.task,
            measure.unit,
            here,
            tuple(Result(name, tuple(turn[n] for turn in taken), why[name]) for name, taken in rates.items()),
            measure.less_is_better,
        )
        for n, measure in enumerate(measures)
    ]


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": f"{os.cpu_count()} cores",
        "system": platform.system(),
        "python": f"Python {platform.python_version()}",
        "load": f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


PYTHON = sys.executable
PRIMEGPT = [PYTHON, "-m", "primegpt"]


def asked_threads(threads: int | None) -> int:
    """How many threads every contestant gets: as many as this process may use, where nothing is said."""
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: at least one is needed")
    return threads or available_cores()


def missing(module: str) -> str:
    """Why a peer is absent that is a Python package: "" if it is there. Nothing is imported."""
    return "" if importlib.util.find_spec(module) else f"no package {module} is installed"


def environment(threads: int | None = None) -> dict[str, str]:
    """What a contestant is started with: this process's, without what `primegpt` has set there for itself."""
    own = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    return own | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def output_of(
    command: Sequence[str],
    *,
    threads: int | None = None,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
    patience: float | None = None,
) -> str:
    """What `command` writes to standard output, with more environment `variables` if given.

    Raises Absent, with the last line of its complaint, if it fails, or is not done after `patience` seconds.
    """
    given: dict[str, Any] = {"cwd": folder, "env": environment(threads) | dict(variables or {}), "timeout": patience}
    try:
        done = subprocess.run(command, **given, capture_output=True, encoding="utf-8", errors="replace")
    except subprocess.TimeoutExpired:
        raise Absent(f"it was not done after {patience:.0f} seconds") from None
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Absent(f"{Path(command[0]).name} {' '.join(command[1:3])} failed: {last[:200]}")
    return done.stdout


def milliseconds_of(command: Sequence[str], *, threads: int | None = None) -> float:
    """Wall-clock time of a whole process."""
    start = time.perf_counter()
    output_of(command, threads=threads)
    return 1000 * (time.perf_counter() - start)


def milliseconds_to_output(command: Sequence[str]) -> float:
    """Wall-clock time from the start of `command` to the first byte that it writes."""
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        elapsed = 1000 * (time.perf_counter() - start)
        process.communicate()
    if not first:
        raise Absent(f"{' '.join(command[1:4])} wrote nothing (exit code {process.returncode})")
    return elapsed
