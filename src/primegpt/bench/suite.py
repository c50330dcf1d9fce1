"""All benchmarks of our own, one turn after another: each is the command, in a process of the checkout in question.

So two commits are measured in turns on one machine, each by its own code:

    git worktree add ../earlier COMMIT
    primegpt bench all --against ../earlier

A checkout is what has `src/primegpt`. All run on the Python, and the libraries, that this process runs on.
"""

import datetime
import json
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import primegpt
from primegpt.bench.compare import PRIMEGPT, PYTHON, Absent, machine, output_of
from primegpt.bench.random_run import made_up_tokenizer
from primegpt.bench.sheet import Figure, Sheet, short
from primegpt.device import available_cores, matmul_rate
from primegpt.errors import UsageError, nearest
from primegpt.run.atomic import io_errors
from primegpt.terminal import Say, silent
from primegpt.tokenizers import store

OWN = Path(primegpt.__file__).parents[1]  # the folder that holds this package
PIECES = 1024  # ids of the tokenizer that text is prepared with
FORMATS = {"bf16": "bfloat16", "fp32": "float32"}

# What is measured, the most telling first; SOURCE, TEXT (none where it is the songbook) and TOKENIZER are filled in.
BENCHES = {
    "small": "train TEXT --configurations small --steps 200 --alone",
    "medium": "train TEXT --configurations medium --steps 12 --alone",
    "race": "race TEXT --minutes 0.1",
    "decode": "decode --precisions bf16,int8,int4 --streams 1,16 --prompt 128 --tokens 32 --alone",
    "startup": "startup --alone",
    "resume": "resume",
    "tokenize": "tokenize SOURCE --tokenizer TOKENIZER --megabytes 20",
}
TINY = "--shape.n_layer 1 --shape.n_head 2 --shape.n_embd 32 --shape.block_size 64 --shape.vocab_size 320"
QUICK = {
    "small": "train TEXT --configurations small --steps 8 --alone",
    "medium": "train TEXT --configurations small --steps 8 --alone",
    "race": "race TEXT --minutes 0.01",
    "decode": f"decode --precisions bf16,int4 --streams 1,2 --prompt 4 --tokens 4 --alone {TINY}",
    "startup": "startup --alone",
    "resume": f"resume {TINY}",
    "tokenize": "tokenize SOURCE --tokenizer TOKENIZER --megabytes 0.2",
}


@dataclass
class Checkout:
    """Where a commit lies, and what was measured of it so far."""

    source: Path
    """The folder that holds the package."""
    cache: Path
    """Of its own, so that it measures for itself what it remembers."""
    commit: str = field(init=False)
    """When it began."""
    figures: dict[str, Figure] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit = commit_of(self.source)

    def output_of(self, command: Sequence[str]) -> str:
        """What a process of this commit prints. Raises Absent."""
        return output_of(command, variables={"PYTHONPATH": str(self.source), "PRIMEGPT_CACHE": str(self.cache)})

    def take_turn(self, name: str, arguments: Sequence[str]) -> None:
        """Measure once more, unless it was found that this commit cannot."""
        if name in self.absent:
            return
        try:
            found = json.loads(self.output_of([*PRIMEGPT, "bench", *arguments, "--turns", "1", "--json"]))
        except Absent as reason:
            self.absent[name] = str(reason)
            return
        for comparison in found if isinstance(found, list) else [found]:
            self.note(comparison)

    def note(self, comparison: Mapping[str, Any]) -> None:
        """Take in the rates of a table, ours and those it stands beside."""
        for result in comparison["results"]:
            if not result["rates"]:
                continue
            name = f"{comparison['task']}: {result['name']}"
            if min(result["rates"]) <= 0:
                self.absent[name] = "it was measured as 0"  # no ratio can be taken of it
                continue
            known = self.figures.get(name)
            if known and known.unit != comparison["unit"]:
                continue  # the same once more, as milliseconds
            turns = [*(known.turns if known else []), *map(short, result["rates"])]
            less = comparison["less_is_better"]
            self.figures[name] = Figure(unit=comparison["unit"], less_is_better=less, turns=turns)


def commit_of(source: Path) -> str:
    """Of the package in `source`: twelve digits, with a plus where the source has changed; a version without git."""
    try:
        if source.name != "src":  # installed, perhaps beneath a repository of something else
            raise OSError
        digits = git(source.parent, "rev-parse", "--short=12", "HEAD")
        return digits + "+" * bool(git(source.parent, "status", "--porcelain", "--", "src"))
    except (OSError, subprocess.CalledProcessError):
        return f"version-{primegpt.__version__}"


def refuse_no_text(source: str | None) -> None:
    """Raise UsageError where `source` is given and is no file."""
    if source and not Path(source).is_file():
        raise UsageError(f"{source}: {'not a text file' if Path(source).exists() else 'no such file'}")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, encoding="utf-8", check=True)
    return done.stdout.strip()


def bench_all(
    source: str | None = None,
    *,
    against: Path | None = None,
    only: Sequence[str] = (),
    turns: int = 3,
    quick: bool = False,
    out: Path | None = None,
    say: Say = silent,
) -> list[Sheet]:
    """Run every benchmark, or those named, `turns` times; of the checkout `against` too, whose sheet comes first.

    `quick` has tiny sizes, whose figures mean nothing. `out` is where sheets will be written, and is made
    before anything is measured. Raises UsageError for what is not there.
    """
    if wrong := [name for name in only if name not in BENCHES]:
        raise UsageError(f"--only: {wrong[0]!r} is no benchmark", nearest(wrong[0], BENCHES))
    if turns < 1:
        raise UsageError(f"--turns {turns}: at least one is needed")
    refuse_no_text(source)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        checkouts = [Checkout(checked_source(against), folder / "before")] if against else []
        checkouts.append(Checkout(OWN, folder / "after"))
        for checkout in checkouts:
            refuse_another(checkout)
        if len({checkout.commit for checkout in checkouts}) < len(checkouts):
            checkouts[0].commit += "-before"  # a file, and a column, of its own
        if out:
            with io_errors(f"make the folder {out}", UsageError):
                out.mkdir(parents=True, exist_ok=True)
        store.save(made_up_tokenizer(PIECES), folder / "tokenizer")
        commands = {name: (QUICK if quick else BENCHES)[name] for name in only or BENCHES}
        given = {"SOURCE": source or "songbook", "TEXT": source or "", "TOKENIZER": str(folder / "tokenizer")}
        load, rates = str(machine()["load"]), {}
        for turn in range(turns):
            for name, rate in machine_rates(8 if quick else 512).items():
                rates.setdefault(name, []).append(short(rate))
            order = checkouts[:: -1 if turn % 2 else 1]  # so that none is always the one after
            for name, command in commands.items():
                arguments = [given.get(word, word) for word in command.split()]
                for checkout in order:
                    say(f"turn {turn + 1} of {turns}: {name}{f' of {checkout.commit}' if against else ''}")
                    checkout.take_turn(name, [word for word in arguments if word])
        return [sheet_of(checkout, load, rates, commands) for checkout in checkouts]


def checked_source(checkout: Path) -> Path:
    """The folder of a checkout that holds the package."""
    if not (checkout / "src" / "primegpt" / "__init__.py").is_file():
        raise UsageError(f"--against {checkout}: no src/primegpt is there", "name a checkout, as of `git worktree add`")
    return (checkout / "src").resolve()


def refuse_another(checkout: Checkout) -> None:
    """Raise UsageError where a process would not run this checkout's package but another one."""
    try:
        found = checkout.output_of([PYTHON, "-c", "import primegpt; print(primegpt.__file__)"]).strip()
    except Absent as reason:
        raise UsageError(f"{checkout.source.parent}: its package cannot be imported: {reason}") from None
    if Path(found).resolve().parents[1] != checkout.source.resolve():
        raise UsageError(f"Python takes {Path(found).parent}, not {checkout.source}", "start it from another folder")


def machine_rates(megabytes: int) -> dict[str, float]:
    """What the machine can do now: its products a second, and how fast it reads a buffer of so many megabytes."""
    import torch

    from primegpt.bench.decode import read_bandwidth

    torch.set_num_threads(available_cores())
    products = {name: matmul_rate("cpu", getattr(torch, dtype)) for name, dtype in FORMATS.items()}
    rates = {f"{name} GFLOP/s": rate / 1e9 for name, rate in products.items()}
    return rates | {"GB/s read": read_bandwidth(megabytes) / 1e9}


def sheet_of(checkout: Checkout, load: str, rates: Mapping[str, list[float]], commands: Mapping[str, str]) -> Sheet:
    here = machine()
    return Sheet(
        commit=checkout.commit,
        date=datetime.date.today().isoformat(),
        machine={name: str(here[name]) for name in ("processor", "cores", "system")},
        load=load.removeprefix("load "),
        rates=dict(rates),
        versions={"python": f"Python {platform.python_version()}", "torch": f"torch {version('torch')}"},
        commands=dict(commands),
        figures=checkout.figures,
        absent=checkout.absent,
    )
