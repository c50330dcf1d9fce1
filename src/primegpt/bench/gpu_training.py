"""What `bench gpu` measures of training: steps of GPT-2's 124M beside nanoGPT's, compiled and not, and a whole recipe.

Each contestant is a process of its own, as users start it. The rate of large bf16 products is measured on the same GPU,
and the share of it that a step reaches is the model FLOPs utilisation.
"""

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from primegpt.bench.compare import (
    PRIMEGPT,
    PYTHON,
    Absent,
    Allowance,
    Comparison,
    Run,
    compare,
    figure,
    output_of,
    table,
)
from primegpt.bench.train import parse_iterations
from primegpt.config import Config, resolve
from primegpt.device import matmul_rate
from primegpt.model.size import flops_per_token, human_count, parameter_count
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say, silent

ITERATION = re.compile(r"time per iteration: ([\d.]+)ms")
PATIENCE = 300.0  # seconds that a process may take, compiling included
ROWS = 12  # of a curve that are shown
NO_CHECKOUT = "no checkout given (--nanogpt)"
QUICK = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 64, "vocab_size": 320}


@dataclass(frozen=True)
class Job:
    """What is measured, and on what."""

    device: str
    name: str
    """That the device has."""
    sizes: Mapping[str, int]
    batch_size: int
    steps: int
    turns: int
    recipe_minutes: float
    source: str | None = None
    nanogpt: Path | None = None
    quick: bool = False
    say: Say = silent

    def made_quick(self) -> "Job":
        """The same with next to nothing to do, and nothing compiled: whether all of it runs."""
        return replace(self, sizes=QUICK, batch_size=2, steps=8, turns=1, recipe_minutes=0.01, quick=True)

    @property
    def compile(self) -> bool:
        return not self.quick

    @property
    def threads(self) -> int | None:
        """Of the CPU; tiny networks only lose time to the hand-over between two."""
        return 1 if self.quick else None

    @property
    def repeats(self) -> int:
        return 1 if self.quick else 20

    def setup(self) -> dict[str, Any]:
        """What figures depend on."""
        names = ("sizes", "batch_size", "steps", "quick")
        text = Path(self.source).name if self.source else "songbook"
        return {name: getattr(self, name) for name in names} | {"sizes": dict(self.sizes), "text": text}

    @cached_property
    def peak(self) -> float:
        """FLOP/s of large products in bf16."""
        return matmul_rate(self.device, torch.bfloat16)

    def config(self, preset: str, batch_size: int, compile: bool, attention: str) -> Config:
        """Of the process that trains: fused attention, unless asked otherwise, and fused AdamW, in bf16."""
        train = {"batch_size": batch_size, "device": self.device, "precision": "bf16"}
        train |= {"attention": attention, "compile": compile, "threads": self.threads}
        bias = {"bias": False} if preset == "gpt2" else {}
        return resolve({"model": {"preset": preset, **bias, **self.sizes}, "train": train})


def training(job: Job, allowance: Allowance, keep: Callable[[Sequence[Any]], None]) -> Sequence[Comparison]:
    """Both presets, and nanoGPT's own benchmark with the same batch; MFU as the share of the limit."""
    ours = {f"primegpt, {preset}": our_steps(job, allowance, preset) for preset in ("gpt2", "prime")}
    theirs = nanogpt_steps(job, allowance) if job.nanogpt else NO_CHECKOUT
    compiled = ", compiled" if job.compile else ""
    title = f"Training steps of {shape(job)}, batch {job.batch_size} × {job.sizes['block_size']}, bf16{compiled}"
    # nanoGPT's network is that of our preset of the same name.
    presets = {**dict(zip(ours, ("gpt2", "prime"), strict=True)), "nanoGPT": "gpt2"}
    limits = {name: job.peak / flops(job, preset) for name, preset in presets.items()}
    bounded = replace(allowance, after_turn=lambda found: keep([each.with_limits(limits) for each in found]))
    found = compare(title, "tok/s", {**ours, "nanoGPT": theirs}, turns=job.turns, say=job.say, allowance=bounded)
    return [found.with_limits(limits)]


def compiling(job: Job, allowance: Allowance, keep: Callable[[Sequence[Any]], None]) -> Sequence[Comparison]:
    """What a compiler, the fused kernel and a larger batch are worth to a whole step."""
    contestants = {
        **({"compiled": our_steps(job, allowance, "gpt2")} if job.compile else {}),
        "as written": our_steps(job, allowance, "gpt2", compile=False),
        "as written, explicit attention": our_steps(job, allowance, "gpt2", compile=False, attention="explicit"),
        "prime, as written": our_steps(job, allowance, "prime", compile=False),
    }
    if job.compile:
        contestants["compiled, four times the batch"] = our_steps(job, allowance, "gpt2", batch_size=4 * job.batch_size)
    title = f"Steps of {shape(job)} by what is compiled and fused"
    return [compare(title, "tok/s", contestants, turns=job.turns, say=job.say, allowance=allowance)]


def shape(job: Job) -> str:
    return f"{job.sizes['n_layer']} layers, {job.sizes['n_embd']} wide, on {job.name}"


def flops(job: Job, preset: str) -> float:
    return flops_per_token(job.config(preset, 1, False, "sdpa").model, job.sizes["block_size"])


def our_steps(
    job: Job,
    allowance: Allowance,
    preset: str,
    batch_size: int | None = None,
    compile: bool | None = None,
    attention: str = "sdpa",
) -> Run:
    """Tokens a second of the step of `primegpt train`."""
    rows = batch_size or job.batch_size
    config = job.config(preset, rows, job.compile if compile is None else compile, attention)
    given = config.model_dump(mode="json", exclude_unset=True)
    command = [PYTHON, "-m", "primegpt.bench.process", "steps", json.dumps(given), str(job.steps)]
    tokens = rows * job.sizes["block_size"]

    def run() -> float:
        said = output_of(command, patience=allowance.patience(PATIENCE))
        return 1000 * tokens / parse_iterations(said).milliseconds

    return run


def nanogpt_steps(job: Job, allowance: Allowance) -> Run:
    """Its own benchmark, whose network is GPT-2's 124M."""
    flags = {
        "real_data": False,
        "batch_size": job.batch_size,
        "block_size": job.sizes["block_size"],
        "dtype": "bfloat16",
        "device": job.device,
        "compile": job.compile,
    }
    command = [PYTHON, "bench.py", *(f"--{name}={value}" for name, value in flags.items())]

    def run() -> float:
        told = output_of(command, folder=job.nanogpt, patience=allowance.patience(PATIENCE))
        if not (said := ITERATION.findall(told)):
            raise Absent("its bench.py printed no time per iteration")
        return 1000 * job.batch_size * job.sizes["block_size"] / float(said[-1])

    return run


# ---- a whole recipe ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Validation loss against seconds of training, of a command with nothing said but its minutes."""

    task: str
    network: str
    seconds: float
    """Of the whole command."""
    final_loss: float | None
    points: tuple[tuple[float, int, float], ...]
    """Seconds, step, loss."""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def as_markdown(self) -> str:
        shown = self.points[:: -(-len(self.points) // ROWS)] if self.points else ()
        rows = [["seconds of training", "step", "validation loss"], ["---:"] * 3]
        rows += [[figure(seconds), f"{step:,}", f"{loss:.4f}"] for seconds, step, loss in shown]
        final = "none" if self.final_loss is None else f"{self.final_loss:.4f}"
        end = f"The whole command took {self.seconds:.0f} s; the loss of all validation text is {final}."
        return "\n".join([f"{self.task}: {self.network}", "", *table(rows), "", end])


def recipe(job: Job, allowance: Allowance, keep: Callable[[Sequence[Any]], None]) -> Sequence[Curve]:
    """What `primegpt train TEXT --minutes` plans for this GPU, and where it gets."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        flags = ["--minutes", str(job.recipe_minutes), "--train.device", job.device, "--out", str(out)]
        flags += ["--train.threads", str(job.threads)] if job.threads else []
        start = time.perf_counter()
        patience = allowance.patience(PATIENCE + 60 * job.recipe_minutes)
        output_of([*PRIMEGPT, "train", job.source or "songbook", *flags], patience=patience)
        seconds, run = time.perf_counter() - start, RunFolder.open(out)
        rows = run.read_metrics()
        model = load_model(run)
    losses = ((row["seconds"], row["step"], row["val/loss"]) for row in rows if "val/loss" in row)
    final = [row["final/val/loss"] for row in rows if "final/val/loss" in row]
    task = f"`primegpt train {Path(job.source).name if job.source else 'songbook'} --minutes {job.recipe_minutes:g}`"
    return [Curve(task, model, seconds, final[-1] if final else None, tuple(losses))]


def load_model(run: RunFolder) -> str:
    """The network that was planned, in words."""
    from primegpt.inference.run import load_config

    config = load_config(run)
    model, train = config.model, config.train
    what = f"{model.preset}, {human_count(parameter_count(model))} parameters, {model.n_layer} × {model.n_embd}"
    return f"{what}, batch {train.batch_size} × {config.sequence_length}, {train.precision}, {train.attention}"
