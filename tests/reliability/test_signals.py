"""SIGTERM and SIGINT at inconvenient moments: out within seconds, with the right code, and nothing lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from primegpt.run.checkpoint import list_checkpoints
from primegpt.training.progress import TIMING_KEYS

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
]

SETTINGS = """
[model]
n_layer = 2
n_head = 2
n_embd = 48
block_size = 64
dropout = 0.1
[tokenizer]
kind = "char"
[data]
sources = ["text.txt"]
val_tokens = 40000
[train]
batch_size = 2
gradient_accumulation_steps = 64
max_steps = 4
eval_interval = 2
early_evaluations = [1]
log_interval = 1
device = "cpu"
precision = "fp32"
attention = "sdpa"
threads = 1
[generate]
max_new_tokens = 20
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    draw = random.Random(0)
    words = [
        draw.choice(["river", "stone", "light", "song", "winter", "road", "the", "a", "of"]) for _ in range(120_000)
    ]
    (folder / "text.txt").write_text(" ".join(words) + "\n", encoding="utf-8")
    (folder / "run.toml").write_text(SETTINGS, encoding="utf-8")
    return folder


def start(place: Path, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"PRIMEGPT_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "primegpt", "train", *arguments]
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def await_that(condition: Callable[[], object], process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def stop(process: subprocess.Popen, *numbers: signal.Signals) -> tuple[float, int, str]:
    """Send the signals; the seconds until the process was gone, its exit code, and its last line."""
    sent = time.monotonic()
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.05)  # the system merges what comes at once
    said = process.communicate(timeout=60)[1]
    assert "Traceback" not in said
    return time.monotonic() - sent, process.returncode, said.splitlines()[-1]


def metrics(run: Path) -> list[dict]:
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{key: value for key, value in row.items() if key not in TIMING_KEYS} for row in rows]


def newest(run: Path) -> Path:
    return max(list_checkpoints(run / "checkpoints").items())[1]


def finish(place: Path, *arguments: str) -> str:
    process = start(place, *arguments)
    said = process.communicate(timeout=280)[1]
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def uninterrupted(place) -> tuple[list[dict], bytes]:
    finish(place, "run.toml", "--out", "uninterrupted")
    run = place / "uninterrupted"
    return metrics(run), (newest(run) / "model.safetensors").read_bytes()


def in_a_step(run: Path) -> bool:
    """In the middle of the second step, or soon."""
    return any(row["step"] == 1 for row in metrics(run))


def in_an_evaluation(run: Path) -> bool:
    """In the evaluation that follows the second step."""
    path = run / "checkpoints" / "step-000002"
    return path.exists() and not (path / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("moment", "number", "code", "step"),
    [
        (in_a_step, signal.SIGTERM, 143, 1),
        (in_an_evaluation, signal.SIGTERM, 143, 2),
        (in_a_step, signal.SIGINT, 130, 1),
        (in_an_evaluation, signal.SIGINT, 130, 2),
    ],
)
def test_a_run_is_left_and_resumed(place, uninterrupted, moment, number, code, step):
    run = place / f"{moment.__name__}-{number.name}"
    process = start(place, "run.toml", "--out", str(run))
    await_that(lambda: moment(run), process)
    time.sleep(0.1)
    logged = metrics(run)
    seconds, returned, line = stop(process, number)
    print(f"{run.name}: exit {returned} after {seconds:.2f} s")
    assert returned == code
    assert seconds < 10
    assert line == f"primegpt: stopped at step {step}, saved; continue with: primegpt train --resume {run}"
    assert newest(run).name == f"step-{step:06d}"
    assert not (newest(run) / "evaluation.json").exists()
    assert metrics(run) == logged  # the step, or the evaluation, that was under way left no trace
    finish(place, "--resume", str(run))
    assert (metrics(run), (newest(run) / "model.safetensors").read_bytes()) == uninterrupted


def test_a_second_sigint_does_not_wait(place):
    """Not even for a micro-batch of a second: nothing more is saved, and nothing that was is lost."""
    run = place / "impatient"
    large = ["--train.batch_size", "1024", "--train.gradient_accumulation_steps", "1", "--train.max_steps", "100"]
    process = start(place, "run.toml", "--out", str(run), *large)
    await_that(lambda: (run / "samples" / "step-000000.txt").exists(), process)
    time.sleep(0.3)
    seconds, code, line = stop(process, signal.SIGINT, signal.SIGINT)
    print(f"second SIGINT: exit {code} after {seconds:.2f} s")
    assert code in (130, -signal.SIGINT)  # the second, if it comes while Python takes itself down: to a shell 130 too
    assert seconds < 5  # milliseconds, unless the machine is very busy
    assert "saved" not in line
    assert newest(run).name == "step-000000"


@pytest.fixture(scope="module")
def long_text(tmp_path_factory) -> Path:
    """24 MB of 150,000 different words, which keep both kinds of preparation busy."""
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlucmfwypvbgkjqxz", k=draw.randint(2, 11))) for _ in range(150_000)]
    path = tmp_path_factory.mktemp("long") / "long.txt"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(60):
            file.write("\n\n".join(" ".join(draw.choices(words, k=400)) for _ in range(135)) + "\n\n")
    return path


@pytest.mark.parametrize(
    ("tokenizer", "moment"),
    [
        (["--tokenizer.kind", "char"], "data/*.partial/train"),  # while it tokenizes
        (["--tokenizer.kind", "bpe", "--tokenizer.vocab_size", "16384"], "data/*.partial"),  # while it learns merges
    ],
    ids=["char", "bpe"],
)
def test_a_preparation_is_left_and_done_again(place, long_text, tokenizer, moment):
    sizes = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "16"]
    run = place / f"long-{tokenizer[1]}"
    arguments = [str(long_text), "--out", str(run), *tokenizer, *sizes, "--train.max_steps", "1"]
    process = start(place, *arguments)
    await_that(lambda: list((place / "cache").glob(moment)), process)
    time.sleep(0.0 if "char" in tokenizer else 1.0)
    seconds, code, _ = stop(process, signal.SIGTERM)
    print(f"preparation, {tokenizer[1]}: exit {code} after {seconds:.2f} s")
    assert code == 143
    assert seconds < 10
    assert not run.exists()
    assert list((place / "cache").glob("data/*.partial")), "it was done before the signal came"
    if tokenizer[1] == "char":
        finish(place, *arguments)
