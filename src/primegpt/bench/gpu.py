"""All that is to be known of one GPU, for a machine that is lent for a quarter of an hour: `primegpt bench gpu`.

OUT/NAME.json     what was measured by that name, written after every turn
OUT/report.md     the same to read

The most important measurement comes first, and one is begun only if it is likely to end in the time that is left.
Asked once more with the same OUT, the command goes on with those that are missing. So whatever ends it, what was
measured is kept.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

import primegpt
from primegpt.bench import gpu_training
from primegpt.bench.compare import NO_TIME, Allowance, Comparison
from primegpt.bench.decode import bench_decode
from primegpt.bench.exactness import check_exactness
from primegpt.bench.gpu_training import Job
from primegpt.bench.kernels import bench_attention, bench_loss
from primegpt.bench.random_run import GPT2_124M
from primegpt.bench.suite import OWN, commit_of, refuse_no_text
from primegpt.device import choose_device
from primegpt.errors import UsageError, nearest
from primegpt.run.atomic import io_errors, write_text_atomic
from primegpt.terminal import Say, as_json, silent

PROMPT = 32  # ids before what `decoding` writes


class Table(Protocol):
    """What a measurement gives."""

    def as_dict(self) -> dict[str, object]: ...
    def as_markdown(self) -> str: ...


Keep = Callable[[Sequence[Table]], None]


class Measurement(NamedTuple):
    """One of them: what it takes on a GPU of today, in seconds, and how it is done."""

    needs: Callable[[Job], float]
    perform: Callable[[Job, Allowance, Keep], Sequence[Table]]


def exactness(job: Job, allowance: Allowance, keep: Keep) -> Sequence[Table]:
    found: list[Table] = []
    for checks in check_exactness(job.device, job.name, compile=job.compile):
        keep(found := [checks])
    if broken := [check.name for check in checks.checks if not check.holds]:
        job.say(f"exactness: {len(broken)} of {len(checks.checks)} do not hold: {', '.join(broken)}")
    return found


def decoding(job: Job, allowance: Allowance, keep: Keep) -> Sequence[Table]:
    """Texts of the same random weights, beside Transformers."""
    return bench_decode(
        prompt=4 if job.quick else PROMPT,
        tokens=8 if job.quick else 128,
        streams=(1, 2) if job.quick else (1, 16, 64),
        precisions=("bf16", "fp32"),
        sizes=job.sizes,
        turns=job.turns,
        threads=job.threads,
        device=job.device,
        buffer_megabytes=8 if job.quick else 2048,
        say=job.say,
        allowance=allowance,
    )


def attention(job: Job, allowance: Allowance, keep: Keep) -> Sequence[Table]:
    return bench_attention(
        job.sizes, job.batch_size, job.device, turns=job.turns, repeats=job.repeats, say=job.say, allowance=allowance
    )


def loss(job: Job, allowance: Allowance, keep: Keep) -> Sequence[Table]:
    return bench_loss(
        job.sizes,
        job.batch_size,
        job.device,
        turns=job.turns,
        compile=job.compile,
        repeats=job.repeats,
        say=job.say,
        allowance=allowance,
    )


# By importance. Seconds are a guess: a process of its own starts in 10, and compiles in 40 the first time.
MEASUREMENTS: dict[str, Measurement] = {
    "exactness": Measurement(lambda job: 75, exactness),
    "training": Measurement(lambda job: 90 + 60 * job.turns, gpu_training.training),
    "recipe": Measurement(lambda job: 60 * job.recipe_minutes + 45, gpu_training.recipe),
    "decoding": Measurement(lambda job: 75, decoding),
    "compiling": Measurement(lambda job: 30 + 45 * job.turns, gpu_training.compiling),
    "attention": Measurement(lambda job: 15, attention),
    "loss": Measurement(lambda job: 45, loss),
}


def bench_gpu(
    source: str | None = None,
    *,
    out: Path = Path("bench-gpu"),
    nanogpt: Path | None = None,
    only: Sequence[str] = (),
    minutes: float = 12,
    batch_size: int = 12,
    steps: int = 40,
    turns: int = 2,
    device: str = "cuda",
    quick: bool = False,
    say: Say = silent,
) -> "Report":
    """Measure what is not in `out` yet, or of that what is named, and begin nothing that would not end in `minutes`.

    Raises UsageError where there is no GPU, and where `out` holds what was measured otherwise.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA GPU is here", "`primegpt bench train` measures on the CPU")
    device = choose_device(device)
    if device == "cpu" and not quick:
        raise UsageError("--device cpu: with --quick alone", "`primegpt bench train` measures on the CPU")
    if nanogpt and not (nanogpt / "bench.py").is_file():
        raise UsageError(f"--nanogpt {nanogpt}: no bench.py is there", "name a checkout of nanoGPT")
    if wrong := [name for name in only if name not in MEASUREMENTS]:
        raise UsageError(f"--only: {wrong[0]!r} is no measurement", nearest(wrong[0], MEASUREMENTS))
    if batch_size < 1 or steps < 8 or turns < 1 or minutes <= 0:
        raise UsageError("--batch-size and --turns: at least 1; --steps: at least 8; --minutes: more than 0")
    refuse_no_text(source)
    job = Job(
        device=device,
        name=torch.cuda.get_device_name() if device == "cuda" else device,
        sizes=GPT2_124M,
        batch_size=batch_size,
        steps=steps,
        turns=turns,
        recipe_minutes=2.0,
        source=source,
        nanogpt=nanogpt,
        say=say,
    )
    report = Report(out, job.made_quick() if quick else job)
    report.complete(only or list(MEASUREMENTS), time.monotonic() + 60 * minutes)
    return report


class Report:
    """The folder of results, and what is still missing there."""

    def __init__(self, folder: Path, job: Job) -> None:
        """Raises UsageError where `folder` holds what was measured otherwise."""
        self.folder, self.job = folder, job
        self.setup: dict[str, Any] = {
            "commit": commit_of(OWN),
            "primegpt": primegpt.__version__,
            "torch": version("torch"),
            "device": job.name,
            **job.setup(),
        }
        for name, result in self.results():
            self._refuse_another(name, result)
        self.left_out: list[str] = []
        self.failed: list[str] = []

    def complete(self, names: Sequence[str], until: float) -> None:
        """Measure those of `names` that are missing, in their order, as far as there is time."""
        finished = {name for name, result in self.results() if result["finished"] and not self._lacks_nanogpt(result)}
        with io_errors(f"make the folder {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
        for name in (name for name in MEASUREMENTS if name in names):
            if name in finished:
                self.job.say(f"{name}: is there already, in {self.folder / name}.json")
                continue
            needs, left = 1.0 if self.job.quick else MEASUREMENTS[name].needs(self.job), until - time.monotonic()
            if needs > left:
                self.job.say(f"{name}: left out, it takes about {needs:.0f} s and {max(0, left):.0f} s are left")
                self.left_out.append(name)
            else:
                self.perform(name, until)

    def perform(self, name: str, until: float) -> None:
        """Measure, and keep what there is after every turn."""
        started, kept, before = time.monotonic(), [], dict(self.results()).get(name)
        self.job.say(f"{name}: {max(0.0, until - started) / 60:.1f} minutes are left")

        def keep(tables: Sequence[Table]) -> None:
            kept[:] = tables
            self.write(name, kept, False, time.monotonic() - started, before=before)

        try:
            keep(MEASUREMENTS[name].perform(self.job, Allowance(until, keep), keep))
        except Exception as error:  # the others are still wanted, and the machine will be gone
            self.job.say(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
            self.write(name, kept, False, time.monotonic() - started, traceback.format_exc(), before)
            self.failed.append(name)
            return
        absent = [result.absent for table in kept if isinstance(table, Comparison) for result in table.results]
        taken = self.write(name, kept, NO_TIME not in absent, time.monotonic() - started, before=before)
        if not taken:
            self.job.say(f"{name}: what was measured before has more figures, and stays")
        if not taken or NO_TIME in absent:
            self.left_out.append(name)

    def write(
        self,
        name: str,
        tables: Sequence[Table],
        finished: bool,
        seconds: float,
        error: str = "",
        before: Mapping[str, Any] | None = None,
    ) -> bool:
        """Keep a result, and the report that has it; False where the one of `before` has more figures, and stays."""
        found = [{"markdown": table.as_markdown(), **table.as_dict()} for table in tables]
        figures = {"finished": finished, "seconds": round(seconds, 1), "error": error, "tables": found}
        more_before = before is not None and amount(found) < amount(before["tables"])
        if before is not None and more_before:
            figures = {**before, "error": error or before.get("error", "")}
        write_text_atomic(self.folder / f"{name}.json", as_json({"setup": self.setup, **figures}, indent=1) + "\n")
        write_text_atomic(self.folder / "report.md", self.as_markdown())
        return not more_before

    def results(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """What is in the folder, by name."""
        for name in MEASUREMENTS:
            path = self.folder / f"{name}.json"
            if not path.exists():
                continue
            with io_errors(f"read {path}", UsageError):
                text = path.read_text(encoding="utf-8", errors="replace")
            try:
                result = json.loads(text)
                _ = result["setup"].keys(), result["finished"], [table["markdown"] for table in result["tables"]]
                amount(result["tables"])
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UsageError(
                    f"{path}: no result of `primegpt bench gpu`", "move it away, or name another --out"
                ) from None
            yield name, result

    def _lacks_nanogpt(self, result: Mapping[str, Any]) -> bool:
        """Whether there is a checkout of it now, and was none when this was measured."""
        absent = [each.get("absent") for table in result["tables"] for each in table.get("results", ())]
        return self.job.nanogpt is not None and gpu_training.NO_CHECKOUT in absent

    def _refuse_another(self, name: str, result: Mapping[str, Any]) -> None:
        before = result["setup"]
        if other := [key for key in self.setup if before.get(key) != self.setup[key]]:
            was = f"{other[0]} was {before.get(other[0])}, is {self.setup[other[0]]}"
            raise UsageError(f"{self.folder / name}.json was measured otherwise: {was}", "name another --out")

    def as_dict(self) -> dict[str, Any]:
        return {"results": dict(self.results()), "left_out": self.left_out, "failed": self.failed}

    def as_markdown(self) -> str:
        """Every table, and what was not finished."""
        batch, steps = f"batch {self.job.batch_size} × {self.job.sizes['block_size']}", f"{self.job.steps} steps"
        lines = [f"# {self.job.name}", "", f"{self.setup['commit']}, torch {self.setup['torch']}, {batch}, {steps}"]
        for name, result in self.results():
            error = result.get("error", "").strip().rpartition("\n")[2]
            state = "" if result["finished"] else f", not finished{f' ({error})' if error else ''}"
            lines += ["", f"## {name}, {result['seconds']:.0f} s{state}"]
            lines += [part for table in result["tables"] for part in ("", table["markdown"])]
        return "\n".join(lines) + "\n"


def amount(tables: Sequence[Mapping[str, Any]]) -> int:
    """How many figures were measured: rates of turns, checks, points of a curve."""
    rates = [len(result["rates"]) for table in tables for result in table.get("results", ())]
    return sum(rates) + sum(len(table.get(each, ())) for table in tables for each in ("checks", "points"))
