"""Training steps of the same GPT on the same text: ours, nanoGPT, a plain Transformers loop, each in its own process.

Every contestant is the program that its users run. Its first steps are not counted; what evaluates, saves or starts up
is not either.
"""

import json
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from primegpt.bench.compare import (
    PRIMEGPT,
    PYTHON,
    Absent,
    Comparison,
    Measure,
    Runs,
    asked_threads,
    compare_measures,
    missing,
    output_of,
)
from primegpt.config import resolve, write_toml
from primegpt.data.reading.sources import read_documents
from primegpt.errors import PrimegptError, UsageError, nearest
from primegpt.inference.run import load_config
from primegpt.planning.compiling import NOT_COMPILED
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say, silent

ITERATION = re.compile(r"^iter (\d+): loss (\S+), time (\S+?)ms", re.MULTILINE)
WARM_UP = 10  # steps that are not counted, at most a quarter of all
WINDOW = 10  # steps over which one time is taken, since ours are logged in whole milliseconds
LAST = 20  # steps whose mean is the loss that is reported
SONGS = 2000  # of the songbook, when no text is given


@dataclass(frozen=True)
class Shape:
    """A network and its batch, without biases and tied, as nanoGPT has it."""

    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    batch_size: int

    def __str__(self) -> str:
        return (
            f"{self.n_layer} layers, {self.n_embd} wide, {self.n_head} heads, "
            f"context {self.block_size}, batch {self.batch_size}"
        )


SHAPES = {
    "small": Shape(n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12),  # nanoGPT's for CPUs
    "medium": Shape(n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=16),
}


@dataclass(frozen=True)
class Recipe:
    """What all contestants are given: the optimisation of nanoGPT's character model, over so many steps.

    Without its warm-up, which is as long as a short bench.
    """

    shape: Shape
    steps: int
    dropout: float
    threads: int

    @property
    def optimisation(self) -> dict[str, object]:
        """In nanoGPT's names, where they differ from ours."""
        return {
            "learning_rate": 1e-3,
            "min_lr": 1e-4,
            "beta2": 0.99,
            "weight_decay": 0.1,
            "grad_clip": 1.0,
            "warmup_iters": 0,
            "lr_decay_iters": self.steps,
        }


@dataclass(frozen=True)
class Progress:
    """What a program reports of its steps: the loss of each, and when it ended, in seconds from any moment."""

    losses: Sequence[float]
    ends: Sequence[float]

    @property
    def milliseconds(self) -> float:
        """Of a step: the median over windows of steps, the first steps left out."""
        warm = min(WARM_UP, len(self.ends) // 4)
        ends = self.ends[warm:]
        window = max(1, min(WINDOW, (len(ends) - 1) // 4))
        marks = ends[::window]
        if len(marks) < 2:
            raise Absent(f"it reported only {len(self.ends)} steps")
        return statistics.median(1000 * (b - a) / window for a, b in pairwise(marks))

    @property
    def loss(self) -> float:
        """Mean training loss of the last steps."""
        return statistics.fmean(self.losses[-min(LAST, max(1, len(self.losses) // 4)) :])


def parse_iterations(output: str) -> Progress:
    """The lines `iter N: loss X, time Yms` that nanoGPT's train.py prints."""
    found = ITERATION.findall(output)
    return Progress([float(loss) for _, loss, _ in found], list(accumulate(float(ms) / 1000 for *_, ms in found)))


def bench_train(
    source: str | None = None,
    *,
    nanogpt: Path | None = None,
    shapes: Mapping[str, Shape] = SHAPES,
    configurations: Sequence[str] = ("small", "medium"),
    steps: int = 200,
    turns: int = 3,
    dropout: float = 0.0,
    threads: int | None = None,
    compiled: bool = False,
    alone: bool = False,
    say: Say = silent,
) -> list[Comparison]:
    """Milliseconds a step, tokens a second, and the training loss reached, for each of `configurations`.

    `source` is a text as for training, by default the songbook; `nanogpt` a checkout of nanoGPT, which is copied and
    not written to. `compiled` adds both with `torch.compile`; ours then comes first, as what the others are compared
    with. `alone` leaves the others out. Raises UsageError for what is not there.
    """
    if steps < 8:
        raise UsageError(f"--steps {steps}: at least 8 are needed")
    for name in configurations:
        if name not in shapes:
            raise UsageError(f"--configurations: {name!r} is not one", nearest(name, shapes))
    threads = asked_threads(threads)
    with text_and_checkout(source, nanogpt, say) as (text, checkout):
        found = []
        for name in configurations:
            recipe = Recipe(shapes[name], steps, dropout, threads)
            contestants = {
                "primegpt compiled": our_run(recipe, text, text.parent, "auto", compiled=True),
                "primegpt": our_run(recipe, text, text.parent, "auto"),
                "primegpt fp32": our_run(recipe, text, text.parent, "fp32"),
                "nanoGPT compiled": nanogpt_run(recipe, checkout, compiled=True),
                "nanoGPT": nanogpt_run(recipe, checkout),
                "Transformers fp32": transformers_run(recipe, text, "fp32"),
                "Transformers bf16": transformers_run(recipe, text, "bf16"),
            }
            if not compiled:
                contestants = {name: run for name, run in contestants.items() if not name.endswith(" compiled")}
            if alone:
                contestants = {name: run for name, run in contestants.items() if name.startswith("primegpt")}
            found += measure(contestants, recipe, turns, say)
        return found


def measure(
    contestants: Mapping[str, "Callable[[], Progress] | str"],
    recipe: Recipe,
    turns: int,
    say: Say = silent,
) -> list[Comparison]:
    """Let programs that tell their progress take turns."""

    def rates(run: Callable[[], Progress]) -> Runs:
        def turn() -> tuple[float, float, float]:
            progress = run()
            milliseconds = progress.milliseconds
            return 1000 * recipe.shape.batch_size * recipe.shape.block_size / milliseconds, milliseconds, progress.loss

        return turn

    runs = {name: run if isinstance(run, str) else rates(run) for name, run in contestants.items()}
    title = f"{recipe.shape}, dropout {recipe.dropout}, {recipe.steps} steps, {recipe.threads} threads"
    measures = [
        Measure(f"Training, {title}", "tok/s"),
        Measure(f"Training, {title}", "ms a step", less_is_better=True),
        Measure(f"Training loss at the end, {title}", "nats", less_is_better=True),
    ]
    return compare_measures(measures, runs, turns=turns, say=say)


@contextmanager
def text_and_checkout(source: str | None, nanogpt: Path | None, say: Say) -> Iterator[tuple[Path, Path | str]]:
    """The text all learn from, in a folder that goes with the block, and nanoGPT prepared with it, or why it is absent.

    Raises UsageError if `nanogpt` is no checkout.
    """
    if nanogpt and not (nanogpt / "train.py").is_file():
        raise UsageError(f"--nanogpt {nanogpt}: no train.py is there", "name a checkout of nanoGPT")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "input.txt"
        documents = read_documents([source or "songbook"], songs=SONGS)
        text.write_text("".join(document.text for document in documents), encoding="utf-8")
        absent = "no checkout given (--nanogpt)"
        checkout = prepared_checkout(nanogpt, Path(folder) / "nanoGPT", text) if nanogpt else absent
        if isinstance(checkout, str):
            say(f"nanoGPT is absent: {checkout}")
        yield text, checkout


# ---- Ours --------------------------------------------------------------------------------------------------------


def our_run(recipe: Recipe, text: Path, folder: Path, precision: str, compiled: bool = False) -> Callable[[], Progress]:
    """The command `primegpt train`, evaluating, saving and sampling at the first and the last step only."""
    optimisation = dict(recipe.optimisation)
    optimisation["warmup_steps"] = optimisation.pop("warmup_iters")
    optimisation["max_steps"] = optimisation.pop("lr_decay_iters")
    sizes = asdict(recipe.shape)
    never = dict.fromkeys(("eval_interval", "sample_interval", "checkpoint_interval"), recipe.steps)
    config = resolve(
        {
            "tokenizer": {"kind": "char"},
            "data": {"sources": [str(text)], "val_tokens": 1, "val_fraction": 0.01},  # evaluating it is not measured
            "train": {
                **optimisation,
                **never,
                "early_evaluations": [0],
                "batch_size": sizes.pop("batch_size"),
                "log_interval": 1,
                "precision": precision,
                "threads": recipe.threads,
                "compile": compiled,
            },
            "model": {"preset": "gpt2", "bias": False, "dropout": recipe.dropout, **sizes},
            "generate": {"max_new_tokens": 1},
        }
    )

    def run() -> Progress:
        toml, out = folder / f"ours-{precision}.toml", folder / f"ours-{precision}"
        toml.write_text(write_toml(config), encoding="utf-8")
        try:
            output_of([*PRIMEGPT, "train", str(toml), "--out", str(out), "--overwrite"], threads=recipe.threads)
        except Absent as error:
            raise PrimegptError(str(error)) from None
        if compiled and not (made := load_config(RunFolder.open(out))).train.compile:
            raise Absent(next((note for note in made.plan.warnings if note.startswith(NOT_COMPILED)), "not compiled"))
        rows = [row for row in RunFolder.open(out).read_metrics() if "train/loss" in row]
        return Progress([row["train/loss"] for row in rows], [row["seconds"] for row in rows])

    return run


# ---- nanoGPT -----------------------------------------------------------------------------------------------------


def prepared_checkout(checkout: Path, copy: Path, text: Path) -> Path | str:
    """A copy of `checkout` whose own prepare.py has made its data of `text`; or why that could not be."""
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "out*", "*.bin", "*.pkl"))
    data = copy / "data" / "shakespeare_char"
    if not (data / "prepare.py").is_file():
        return "its data/shakespeare_char/prepare.py is missing"
    shutil.copy(text, data / "input.txt")
    try:
        output_of([PYTHON, "data/shakespeare_char/prepare.py"], folder=copy)
    except Absent as reason:
        return str(reason)
    return copy


def nanogpt_run(recipe: Recipe, checkout: Path | str, compiled: bool = False) -> Callable[[], Progress] | str:
    """Its train.py as its README has it for CPUs (not compiled), with one batch of evaluation at the first step."""
    if isinstance(checkout, str):
        return checkout
    settings = {
        **asdict(recipe.shape),
        **recipe.optimisation,
        "device": "cpu",
        "compile": compiled,
        "eval_iters": 1,
        "eval_interval": 10**9,
        "log_interval": 1,
        "max_iters": recipe.steps - 1,  # it counts from 0 and makes the last one too
        "dropout": float(recipe.dropout),
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    command = [PYTHON, "train.py", "config/train_shakespeare_char.py", *flags]
    return lambda: parse_iterations(output_of(command, threads=recipe.threads, folder=checkout))


# ---- Transformers ------------------------------------------------------------------------------------------------


def transformers_run(recipe: Recipe, text: Path, precision: str) -> Callable[[], Progress] | str:
    """The loop that one writes by hand (process.py)."""
    given = {
        **asdict(recipe.shape),
        **recipe.optimisation,
        "steps": recipe.steps,
        "dropout": recipe.dropout,
        "text": str(text),
        "precision": precision,
    }
    command = [PYTHON, "-m", "primegpt.bench.process", "transformers", json.dumps(given)]
    return missing("transformers") or (lambda: parse_iterations(output_of(command, threads=recipe.threads)))
