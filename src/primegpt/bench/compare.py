"""Side-by-side measurements: contestants in alternating turns on one machine, medians, spread, ratios.

A figure alone says little on a machine that also does other things. Contestants take turns, so that a busy minute hits
all of them, and what is reported is the ratio of medians.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Run = Callable[[], float]  # does the work once and returns its rate, in the unit of the comparison


@dataclass(frozen=True)
class Result:
    """The rates of one contestant, one a turn; none if it is absent, and then why."""

    name: str
    rates: tuple[float, ...]
    absent: str = ""

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

    def ratio(self, result: Result) -> float:
        """How many times as fast as `result` we are."""
        return self.results[0].median / result.median

    def as_json(self) -> str:
        return json.dumps(asdict(self) | {"medians": {r.name: r.median for r in self.results if r.rates}}, indent=2)

    def as_markdown(self) -> str:
        """A table: median, least and most of each, and the ratio of ours to it."""
        machine = ", ".join(f"{value}" for value in self.machine.values())
        lines = [
            f"{self.task} ({machine})",
            "",
            f"| | {self.unit} | from | to | ours is |",
            "| --- | --- | --- | --- | --- |",
        ]
        for result in self.results:
            if not result.rates:
                lines.append(f"| {result.name} | absent: {result.absent} | | | |")
                continue
            figures = " | ".join(f"{rate:,.1f}" for rate in (result.median, min(result.rates), max(result.rates)))
            lines.append(f"| {result.name} | {figures} | {self.ratio(result):.2f}× |")
        return "\n".join(lines)


def compare(
    task: str,
    unit: str,
    contestants: Mapping[str, Run | str],
    *,
    turns: int = 5,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Let `contestants` take `turns` turns each; a text instead of a function says why one is absent."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(turns):
        for name, run in contestants.items():
            if callable(run):
                rates[name].append(run())
                say(f"turn {turn + 1} of {turns}: {name} {rates[name][-1]:,.1f} {unit}")
    results = [Result(name, tuple(rates[name]), "" if callable(run) else run) for name, run in contestants.items()]
    return Comparison(task, unit, machine(), tuple(results))


def machine() -> dict[str, Any]:
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
