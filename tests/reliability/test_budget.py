"""A budget of time beside other programs, and memory over many lengths of records: whole commands, on this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from primegpt.inference.run import load_config
from primegpt.run.folder import RunFolder
from primegpt.training.state import TrainState

pytestmark = [pytest.mark.reliability, pytest.mark.alone]

SIZES = {"small": (64, 1), "medium": (128, 3), "large": (256, 4)}  # width, layers


def train(out: Path, *flags: str, seconds: float) -> str:
    """The lines on standard error of `primegpt train songbook`."""
    command = [sys.executable, "-m", "primegpt", "train", "songbook", "--out", str(out), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


def steps_of(folder: RunFolder) -> tuple[list[dict[str, Any]], float]:
    """The lines of training, and the seconds that their steps took by themselves."""
    lines = [line for line in folder.read_metrics() if "lr" in line]
    before = [0, *(line["tokens"] for line in lines)]
    return lines, sum((line["tokens"] - n) / line["tokens_per_sec"] for line, n in zip(lines, before, strict=False))


@pytest.mark.parametrize("size", SIZES)
def test_a_budget_beside_two_busy_programs(size, tmp_path):
    """At least half of the steps that the time allowed at their real pace, and the learning rate at its end."""
    width, layers = SIZES[size]
    flags = ["--data.songs", "500", "--model.n_embd", str(width), "--model.n_layer", str(layers), "--model.n_head", "1"]
    train(tmp_path / "first", *flags, "--train.max_steps", "1", seconds=250)  # text and timing are known then
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    started = time.monotonic()
    try:
        train(tmp_path / "run", *flags, "--minutes", "0.75", seconds=250)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    took = time.monotonic() - started
    folder = RunFolder.open(tmp_path / "run")
    config = load_config(folder)
    lines, in_steps = steps_of(folder)
    steps, budget = lines[-1]["step"], config.plan.training_seconds
    print(
        f"{size}: {config.train.max_steps} planned, {steps} made, {budget * steps / in_steps:.0f} allowed, {took:.0f} s"
    )
    saved = json.loads((folder.checkpoint_path("last") / "state.json").read_text(encoding="utf-8"))["train"]
    state = TrainState.saved(saved)
    assert state.step == steps
    assert in_steps > 0.5 * budget or steps < 5
    assert lines[-1]["lr"] <= 0.05 * config.train.learning_rate or steps < 20  # linear to nothing
    assert lines[-1]["seconds"] < 1.3 * max(budget, state.seconds_before) + 3  # or until it began, if that took longer


@pytest.mark.skipif(sys.platform != "linux", reason="forecast for Linux")
@pytest.mark.parametrize(
    "settings",
    [
        {"model.n_layer": 3, "model.n_embd": 128, "model.n_head": 4},
        {"model.n_layer": 6, "model.n_embd": 384, "model.n_head": 6, "data.template": "song"},
        {"model.n_layer": 6, "model.n_embd": 384, "model.n_head": 6, "train.activation_checkpointing": True},
    ],
    ids=["small", "records", "checkpointing"],
)
def test_a_whole_run_holds_the_memory_that_its_plan_says(settings, tmp_path):
    """Only a training step was counted: a process of half a gigabyte was forecast with 59 MB."""
    flags = [f"--{name}={value}" for name, value in settings.items()]
    flags += ["--model.block_size=256", "--train.batch_size=16", "--data.songs=1000", "--train.max_steps=6"]
    train(tmp_path / "run", *flags, seconds=250)
    folder = RunFolder.open(tmp_path / "run")
    peak = max(line["memory_mb"] for line in folder.read_metrics() if "lr" in line)
    assert load_config(folder).plan.expected_memory_mb == pytest.approx(peak, rel=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_flat_over_records_of_all_lengths(tmp_path):
    """bf16 kernels were kept for each length: 4.6 GB after 250 steps, and the growth did not end.

    What is resident after all lengths were there is what is resident at the end.
    """
    flags = ["--data.template", "song", "--data.songs", "400", "--data.prompt_dropout", "0.3"]
    flags += ["--model.n_layer", "2", "--model.n_embd", "64", "--model.n_head", "2", "--model.block_size", "512"]
    flags += ["--train.precision", "bf16", "--train.batch_size", "4", "--train.eval_interval", "160"]
    train(tmp_path / "run", *flags, "--train.max_steps", "160", "--train.log_interval", "10", seconds=290)
    memory = [line["memory_mb"] for line in RunFolder(tmp_path / "run").read_metrics() if "lr" in line]
    assert memory[-1] - memory[len(memory) // 2] < 80  # a length or two that had not been there, at 15 MB
