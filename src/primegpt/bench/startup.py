"""How long commands take before they work: to the first text, and after a kill to the next step; and checkpoints.

Starting up is timed beside Python itself, and what any program of the kind imports; checkpoints beside bare files. Ours
are synced to the disk, hashed when written, and verified when read; what the safetensors library writes by itself is
neither synced nor hashed. (torch.save is no contestant: it pickles, and nothing here does.)
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from primegpt.bench.compare import (
    PRIMEGPT,
    PYTHON,
    Comparison,
    Measure,
    Runs,
    compare_measures,
    environment,
    milliseconds_of,
    milliseconds_to_output,
    missing,
    seconds,
)
from primegpt.bench.random_run import GPT2_124M, save_random_run
from primegpt.config import ModelConfig, resolve, write_toml
from primegpt.errors import PrimegptError
from primegpt.run.checkpoint import list_checkpoints, load_checkpoint
from primegpt.run.folder import RunFolder
from primegpt.run.saving import save_checkpoint
from primegpt.terminal import Say, silent

AUTO_MODEL = "import torch; from transformers import AutoModelForCausalLM"
TINY = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64, "vocab_size": 512}


def bench_startup(*, turns: int = 5, alone: bool = False, say: Say = silent) -> list[Comparison]:
    """Milliseconds of `primegpt --help`, of `import primegpt`, and of `primegpt generate` to its first text.

    `alone` leaves Transformers out.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = save_random_run(Path(folder) / "run", TINY)
        peer = missing("transformers")
        help_page = {"primegpt --help": whole([*PRIMEGPT, "--help"]), "python -c pass": statement("pass")}
        package = {
            "import primegpt": statement("import primegpt"),
            "import torch": statement("import torch"),
            **({} if alone else {"import transformers": peer or statement("import transformers")}),
        }
        command = [*PRIMEGPT, "generate", str(run), "--max-new-tokens", "8"]
        text = {
            "primegpt generate, to its first text": lambda: (milliseconds_to_output(command),),
            "import torch": statement("import torch"),
            **({} if alone else {"import torch, AutoModelForCausalLM": peer or statement(AUTO_MODEL)}),
        }
        tasks = {"The help page": help_page, "Importing the package": package, "A tiny model's first text": text}
        return [
            compare_measures([Measure(task, "ms", less_is_better=True)], runs, turns=turns, say=say)[0]
            for task, runs in tasks.items()
        ]


def whole(command: list[str]) -> Runs:
    return lambda: (milliseconds_of(command),)


def statement(code: str) -> Runs:
    return whole([PYTHON, "-c", code])


PATIENCE = 120.0  # seconds after which a training that does not get on has failed
POLL = 0.005
TEXT = "the river ran under a bridge of stone and the song went on until morning\n"

TINY_RUN = {
    "model": {"preset": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64},
    "tokenizer": {"kind": "char"},
    "train": {
        "batch_size": 4,
        "max_steps": 10**6,
        "eval_interval": 10**6,
        "early_evaluations": [0],
        "sample_interval": 10**6,
        "checkpoint_interval": 50,
        "log_interval": 1,
        "attention": "sdpa",
        "precision": "fp32",
        "threads": 1,
    },
    "generate": {"max_new_tokens": 1},
}


def bench_resume(*, turns: int = 3, sizes: Mapping[str, int] | None = None, say: Say = silent) -> list[Comparison]:
    """Milliseconds from `primegpt train --resume` to a killed run's next step; MB/s of saving and of loading.

    The checkpoint is that of a model of GPT-2's 124M with other `sizes` where they are given, without its optimizer.
    """
    config = resolve({"model": {**GPT2_124M, **(sizes or {})}}).model
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        say("training a tiny run, to be killed")
        killed = killed_run(folder)
        contestants: dict[str, Runs | str] = {
            "primegpt train --resume": lambda: (1000 * seconds_to_next_step(killed, folder / "resumed"),),
            "python -c 'import torch'": lambda: (milliseconds_of([PYTHON, "-c", "import torch"]),),
        }
        task = Measure("From the command to the next step of a killed tiny run", "ms", less_is_better=True)
        resumed = compare_measures([task], contestants, turns=turns, say=say)
        return resumed + compare_checkpoints(folder, config, turns, say)


def killed_run(folder: Path) -> RunFolder:
    """A run that was ended in the middle of its training, after its first checkpoint but one."""
    text, toml, run = folder / "text.txt", folder / "tiny.toml", RunFolder(folder / "killed")
    text.write_text(TEXT * 200, encoding="utf-8")
    toml.write_text(write_toml(resolve({**TINY_RUN, "data": {"sources": [str(text)]}})), encoding="utf-8")
    trained(["train", str(toml), "--out", str(run.path)], lambda: max(list_checkpoints(run.checkpoints_dir), default=0))
    return run


def seconds_to_next_step(killed: RunFolder, path: Path) -> float:
    """From the start of the command that resumes a copy of `killed` to the line of its first new step."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(killed.path, path)
    run = RunFolder(path)
    step = max(list_checkpoints(run.checkpoints_dir))
    run.truncate_metrics(lambda row: row["step"] <= step)  # so that every later line is a new one
    beyond = run.metrics_path.stat().st_size
    return trained(["train", "--resume", str(path)], lambda: run.metrics_path.stat().st_size > beyond)


def trained(command: list[str], until: Callable[[], object]) -> float:
    """Start a training, kill it when `until` is true, and return the seconds that this took."""
    start = time.perf_counter()
    with subprocess.Popen(
        [*PRIMEGPT, *command], env=environment(1), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while not until():
            if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                process.kill()
                last = (process.communicate()[1].decode("utf-8", "replace").strip() or "no word").splitlines()[-1]
                raise PrimegptError(f"primegpt {' '.join(command)} did not get on: {last}")
            time.sleep(POLL)
        elapsed = time.perf_counter() - start
        process.kill()
        process.communicate()
    return elapsed


def compare_checkpoints(folder: Path, config: ModelConfig, turns: int, say: Say = silent) -> list[Comparison]:
    """Saving and loading the same tensors, by ours and by the bare library."""
    from safetensors.torch import load_file, save_file

    from primegpt.model.gpt import GPT

    tensors = GPT(config).weights()
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / 1e6
    theirs = folder / "model.safetensors"
    saved = save_checkpoint(folder / "checkpoints", 0, {"model": tensors}, {})

    def ours() -> tuple[float, float]:
        saving = seconds(lambda: save_checkpoint(folder / "checkpoints", 0, {"model": tensors}, {}))
        return megabytes / saving, megabytes / seconds(lambda: load_checkpoint(saved))

    def bare(sync: bool) -> Runs:
        def save() -> None:
            save_file(tensors, theirs)
            if sync:
                with theirs.open("rb+") as file:
                    os.fsync(file.fileno())

        def load() -> None:
            for tensor in load_file(theirs).values():
                tensor.sum()  # the library maps the file: it is read when it is used

        return lambda: (megabytes / seconds(save), megabytes / seconds(load))

    contestants: dict[str, Runs | str] = {
        "primegpt, synced and verified": ours,
        "safetensors, not synced": bare(False),
        "safetensors, synced": bare(True),
    }
    measures = [
        Measure(f"Saving a checkpoint of {megabytes:,.1f} MB", "MB/s"),
        Measure(f"Loading a checkpoint of {megabytes:,.1f} MB", "MB/s"),
    ]
    return compare_measures(measures, contestants, turns=turns, say=say)
