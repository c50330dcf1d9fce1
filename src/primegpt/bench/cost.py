"""How cost grows: time and memory of a training step with width, context and threads; of preparing data with its size.

Every measurement is a process of its own, so that its memory is known, and all of them take turns.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from primegpt.bench.compare import PYTHON, Measure, Result, Runs, compare_measures, figure, output_of
from primegpt.config import Config, resolve
from primegpt.data.reading.sources import read_documents
from primegpt.device import available_cores
from primegpt.errors import UsageError
from primegpt.model.memory import training_memory
from primegpt.planning.recipe import heads
from primegpt.report.pictures import GREY, PALETTE, figure_of, save
from primegpt.terminal import Say, silent
from primegpt.terminal import as_json as to_json

LAYERS, TOKENS, CHARACTERS = 4, 2048, 65  # of every model; of every step; of its vocabulary
WIDTH, CONTEXT = 256, 128  # where something else is varied
PROCESS = [PYTHON, "-m", "primegpt.bench.process"]
AS_IN_TRAINING = {"GOMP_SPINCOUNT": "10000"}  # what the command line sets for itself


class Setup(NamedTuple):
    """What a step is measured of; all but one of these are the same in a table."""

    width: int
    context: int
    threads: int

    def __str__(self) -> str:
        return f"{self.width} wide, context {self.context}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def config(self) -> Config:
        """The preset that `train` has by default, with fused attention, in the precision that suits the machine."""
        if self.context < 1 or TOKENS % self.context:
            raise UsageError(
                f"a context of {self.context} does not divide the {TOKENS} tokens of a step", "take a power of two"
            )
        sizes = {"n_layer": LAYERS, "n_head": heads(self.width), "n_embd": self.width, "block_size": self.context}
        step = {"batch_size": TOKENS // self.context, "attention": "sdpa", "threads": self.threads, "device": "cpu"}
        return resolve({"model": {"preset": "prime", "vocab_size": CHARACTERS, **sizes}, "train": step})


@dataclass(frozen=True)
class Cost:
    """What was measured at one value of what is varied."""

    value: float
    work: float
    """Tokens of a step, or megabytes of text."""
    time: Result
    memory: Result
    """Megabytes; 0 where the system does not tell."""
    forecast: float | None = None


@dataclass(frozen=True)
class Growth:
    """Costs over what is varied: a table, and a panel of the picture."""

    title: str
    varied: str
    unit: str
    """Of time."""
    scale: float
    """How many of it are a second."""
    rate: str
    """The unit of the work that is done in a second."""
    machine: Mapping[str, Any]
    costs: tuple[Cost, ...]

    def as_markdown(self) -> str:
        """A row a value: median, least and most of the time; the rate and the memory by their medians."""
        forecast = any(cost.forecast for cost in self.costs)
        heading = [self.varied, self.unit, "from", "to", self.rate, "MB", *["MB by forecast"] * forecast]
        rows = [heading, ["---:"] * len(heading)]
        for cost in self.costs:
            times, memory = cost.time.rates, cost.memory
            if not times:
                rows.append([f"{cost.value:g}", f"absent: {cost.time.absent}", *[""] * (len(heading) - 2)])
                continue
            row = [f"{cost.value:g}", *(figure(time) for time in (cost.time.median, min(times), max(times)))]
            row.append(f"{cost.work * self.scale / cost.time.median:,.0f}")
            row.append(f"{memory.median:,.0f}" if memory.median else "unknown")
            rows.append(row + [f"{cost.forecast or 0:,.0f}"] * forecast)
        table = ["|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in rows]
        return "\n".join([f"{self.title} ({', '.join(str(value) for value in self.machine.values())})", "", *table])


def bench_cost(
    *,
    widths: Sequence[int],
    contexts: Sequence[int],
    threads: Sequence[int] | None = None,
    megabytes: Sequence[int] = (),
    turns: int = 3,
    say: Say = silent,
) -> list[Growth]:
    """Measure steps over each of the three, and preparing so many megabytes of text if there are any.

    `threads` are the powers of two up to all that the process may use, and these, when None. Raises UsageError for
    sizes that no model can have, before anything is measured.
    """
    cores = available_cores()
    threads = threads or sorted({cores, *(2**n for n in range(cores.bit_length()) if 2**n < cores)})
    if wrong := [number for number in threads if not 1 <= number <= cores]:
        raise UsageError(f"--threads {wrong[0]}: this process may use 1 to {cores}")
    if wrong := [size for size in megabytes if size < 1]:
        raise UsageError(f"--data {wrong[0]}: at least one megabyte is needed")
    varied = {
        "width": {width: Setup(width, CONTEXT, cores) for width in widths},
        "context": {context: Setup(WIDTH, context, cores) for context in contexts},
        "threads": {number: Setup(WIDTH, CONTEXT, number) for number in threads},
    }
    return [*steps(varied, turns, say), *([preparing(megabytes, turns, say)] if megabytes else [])]


def steps(varied: Mapping[str, Mapping[int, Setup]], turns: int, say: Say) -> list[Growth]:
    """The cost of a training step; what stands in several tables is measured once."""
    setups = {str(setup): setup for table in varied.values() for setup in table.values()}
    configs = {name: setup.config() for name, setup in setups.items()}
    runs = {name: in_process(["step", json.dumps(_plain(config))], 1000) for name, config in configs.items()}
    time, memory = compare_measures([Measure("", "ms a step"), Measure("", "MB")], runs, turns=turns, say=say)
    times = {result.name: result for result in time.results}
    memories = {result.name: result for result in memory.results}

    def cost(value: int, name: str) -> Cost:
        return Cost(value, TOKENS, times[name], memories[name], training_memory(configs[name]).total / 1e6)

    what = f"Training step over {{}}: {LAYERS} layers, {TOKENS:,} tokens"
    fixed = {"width": f"context {CONTEXT}", "context": f"{WIDTH} wide", "threads": f"{WIDTH} wide, context {CONTEXT}"}
    return [
        Growth(
            f"{what.format(name)}, {fixed[name]}",
            name,
            "ms a step",
            1000,
            "tok/s",
            time.machine,
            tuple(cost(value, str(setup)) for value, setup in table.items()),
        )
        for name, table in varied.items()
    ]


def preparing(megabytes: Sequence[int], turns: int, say: Say) -> Growth:
    """The cost of preparing so many megabytes of songs, the same ones again and again, as characters."""
    sample = "".join(document.text for document in read_documents(["songbook"], songs=2000))
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)

        def run(size: int) -> Runs:
            text = folder / f"{size}.txt"
            measure = in_process(["data", str(text), str(folder / "cache")], 1)

            def turn() -> Sequence[float]:
                write_text(text, sample, size)
                try:
                    return measure()
                finally:
                    text.unlink()
                    shutil.rmtree(folder / "cache", ignore_errors=True)

            return turn

        runs = {f"{size} MB of text": run(size) for size in megabytes}
        time, memory = compare_measures([Measure("", "s"), Measure("", "MB")], runs, turns=turns, say=say)
    results = zip(megabytes, time.results, memory.results, strict=True)
    costs = tuple(Cost(size, size, seconds, peak) for size, seconds, peak in results)
    return Growth("`data prepare` over the size of a text", "MB of text", "s", 1, "MB/s", time.machine, costs)


def in_process(arguments: Sequence[str], scale: float) -> Runs:
    """A measurement by process.py: `scale` times its seconds, and megabytes."""

    def turn() -> Sequence[float]:
        seconds, memory = json.loads(output_of([*PROCESS, *arguments], variables=AS_IN_TRAINING))
        return scale * seconds, (memory or 0) / 1e6

    return turn


def write_text(path: Path, sample: str, megabytes: int) -> None:
    """`sample` again and again, until there are `megabytes`."""
    piece, left = sample.encode(), megabytes * 1_000_000
    with path.open("wb") as file:
        while left > 0:
            left -= file.write(piece[:left])


def _plain(config: Config) -> dict[str, object]:
    return config.model_dump(mode="json", exclude_unset=True)


# ---- The picture -------------------------------------------------------------------------------------------------


def plot_growths(growths: Sequence[Growth], path: Path) -> None:
    """Draw a panel for each of `growths` into the PNG at `path`: time for steps, memory for data."""
    figure, panels = figure_of(3.1 * len(growths), 3, dpi=120, panels=len(growths))
    for axes, growth in zip(panels, growths, strict=True):
        costs = [cost for cost in growth.costs if cost.time.rates]
        of_data = growth.varied == "MB of text"
        results = [cost.memory if of_data else cost.time for cost in costs]
        values, medians = [cost.value for cost in costs], [result.median for result in results]
        axes.plot(values, medians, "o-", color=PALETTE[1 if of_data else 0], linewidth=1.5, markersize=4)
        for value, result in zip(values, results, strict=True):
            axes.plot([value, value], [min(result.rates), max(result.rates)], color=GREY, linewidth=1.2, zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel(growth.varied)
        axes.set_ylabel("MB of memory" if of_data else growth.unit)
    save(figure, path)


def as_json(growths: Sequence[Growth]) -> str:
    """Every figure of every turn."""
    return to_json([asdict(growth) for growth in growths], indent=2)
