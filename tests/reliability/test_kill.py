"""A run killed with SIGKILL and resumed must be indistinguishable from one that was left alone.

Each trial kills the real command at a random logged step, resumes it, and compares every logged value (timing keys
aside) and the bytes of the final weights with an uninterrupted run. Dropout, accumulation and patience are on. The
same comparison must fail for two saboteurs: a data order that ignores the step, and a resume that forgets the
optimizer; otherwise it would prove nothing.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from primegpt.training.metrics import TIMING_KEYS

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL"),
]

STEPS = 60
SETTINGS = f"""
[model]
n_layer = 2
n_head = 2
n_embd = 64
block_size = 64
dropout = 0.1
[tokenizer]
kind = "char"
[data]
sources = ["text.txt"]
val_tokens = 1024
[train]
batch_size = 4
gradient_accumulation_steps = 3
max_steps = {STEPS}
learning_rate = 2e-3
eval_interval = 16
checkpoint_interval = 8
sample_interval = 30
log_interval = 1
patience = 20
attention = "sdpa"
threads = 1
[generate]
max_new_tokens = 20
"""

SABOTEUR = """
import sys
import torch
from primegpt.cli.main import main
from primegpt.data.batches import TrainingWindows
from primegpt.training.optimizers import Optimizers

kind = sys.argv.pop(1)
if kind == "seed ignores step":
    original = TrainingWindows.micro_batches
    first = []
    def micro_batches(self, step):  # counts from where this process began, as a sampler with lost state would
        first.append(step)
        return original(self, step - first[0])
    TrainingWindows.micro_batches = micro_batches
elif kind == "no optimizer state":
    Optimizers.load_state = lambda self, tensors: None
main()
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    rng = random.Random(0)
    words = [rng.choice(["river", "stone", "light", "song", "winter", "road", "the", "a", "of"]) for _ in range(8000)]
    (folder / "text.txt").write_text(" ".join(words) + "\n", encoding="utf-8")
    (folder / "run.toml").write_text(SETTINGS, encoding="utf-8")
    (folder / "saboteur.py").write_text(SABOTEUR, encoding="utf-8")
    return folder


def start(workplace: Path, *arguments: str, sabotage: str | None = None) -> subprocess.Popen:
    program = ["-m", "primegpt"] if sabotage is None else ["saboteur.py", sabotage]
    environment = os.environ | {"PRIMEGPT_CACHE": str(workplace / "cache")}
    with (workplace / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *program, "train", *arguments], cwd=workplace, env=environment, stdout=log, stderr=log
        )


def finish(workplace: Path, *arguments: str, sabotage: str | None = None) -> None:
    assert start(workplace, *arguments, sabotage=sabotage).wait(300) == 0, (workplace / "log.txt").read_text()[-2000:]


def logged_steps(run: Path) -> list[int]:
    try:
        text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line)["step"] for line in text.splitlines(keepends=True) if line.endswith("\n")]


def kill_at(workplace: Path, run: Path, step: int, sabotage: str | None = None) -> int:
    """Start a run and SIGKILL it once `step` is logged; return the last step that it had logged."""
    process = start(workplace, "run.toml", "--out", str(run), sabotage=sabotage)
    deadline = time.monotonic() + 120
    while max(logged_steps(run), default=-1) < step:
        assert process.poll() is None, (workplace / "log.txt").read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    return max(logged_steps(run))


def fingerprint(run: Path) -> tuple[list[dict], bytes]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    logged = [{key: value for key, value in line.items() if key not in TIMING_KEYS} for line in lines]
    return logged, (run / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(workplace) -> tuple[list[dict], bytes]:
    finish(workplace, "run.toml", "--out", "uninterrupted")
    return fingerprint(workplace / "uninterrupted")


@pytest.mark.parametrize("trial", range(10))
def test_killed_and_resumed_equals_uninterrupted(workplace, uninterrupted, trial):
    run = workplace / f"killed-{trial}"
    step = random.Random(1000 + trial).choice([s for s in range(2, STEPS - 2) if s % 8 not in (0, 7)])
    last = kill_at(workplace, run, step)
    checkpoint = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    finish(workplace, "--resume", str(run))
    assert last > checkpoint, "no step was redone: the kill came at a checkpoint and tested nothing"
    assert fingerprint(run) == uninterrupted


@pytest.mark.parametrize("sabotage", ["seed ignores step", "no optimizer state"])
def test_the_comparison_detects_sabotage(workplace, uninterrupted, sabotage):
    run = workplace / sabotage.replace(" ", "-")
    kill_at(workplace, run, 21, sabotage)
    finish(workplace, "--resume", str(run), sabotage=sabotage)
    assert fingerprint(run) != uninterrupted


def test_two_uninterrupted_runs_are_equal(workplace, uninterrupted):
    finish(workplace, "run.toml", "--out", "again")
    assert fingerprint(workplace / "again") == uninterrupted
