"""A run of preferences killed with SIGKILL and resumed is one that was left alone, bit for bit.

Ten real runs of DPO, every other one with adapters, are killed while the reference is computed, before the first
checkpoint, in saves, in evaluations and in between, each with a cache of its own; then resumed to their ends. Every
logged value (timing keys aside), every sample, the reference and the bytes of the weights are compared.
"""

import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from primegpt.run.checkpoint import list_checkpoints
from primegpt.training.progress import TIMING_KEYS

begin = runpy.run_path(str(Path(__file__).with_name("warm.py")))["begin"]

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL"),
]

BASE = """
[model]
n_layer = 1
n_head = 2
n_embd = 32
block_size = 64
[tokenizer]
kind = "char"
[data]
sources = ["answers.jsonl"]
template = "response"
[train]
batch_size = 8
max_steps = 60
learning_rate = 3e-3
device = "cpu"
precision = "fp32"
attention = "sdpa"
threads = 1
"""
PAIRS = """
[data]
sources = ["pairs.jsonl"]
val_fraction = 0.3
[train]
objective = "dpo"
batch_size = 4
gradient_accumulation_steps = 2
max_steps = 60
learning_rate = 1e-3
eval_interval = 6
early_evaluations = [1, 3]
checkpoint_interval = 4
sample_interval = 14
log_interval = 1
device = "cpu"
precision = "fp32"
attention = "sdpa"
threads = 1
[generate]
max_new_tokens = 12
"""
WORDS = ["river", "stone", "light", "song", "winter", "road"]


class Place:
    """Where runs are made: one base, one file of pairs, one recipe; a cache for each run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        draw = random.Random(0)
        answers, pairs = [], []
        for _ in range(300):
            a, b = draw.choices(WORDS, k=2)
            answers.append({"prompt": f"say {a} and {b}", "response": f"{a}, {b}"})
            pairs.append({"prompt": f"say {a} and {b}", "chosen": f"{a}, {b}", "rejected": f"{b}" * draw.randint(1, 3)})
        for name, rows in (("answers", answers), ("pairs", pairs)):
            (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (path / "base.toml").write_text(BASE, encoding="utf-8")
        (path / "pairs.toml").write_text(PAIRS, encoding="utf-8")
        assert self.begin(path / "base", ["train", "base.toml", "--out", "base"]).wait(300) == 0

    def begin(self, run: Path, arguments: list[str]) -> Any:
        environment = os.environ | {"PRIMEGPT_CACHE": str(self.cache(run)), "OMP_NUM_THREADS": "1"}
        return begin(["-m", "primegpt", *arguments], self.path, environment, run.with_suffix(".log"))

    def cache(self, run: Path) -> Path:
        return self.path / f"cache-{run.name}"

    def start(self, run: Path, lora: bool) -> Any:
        """Begin a run, or continue it, as its user would."""
        if (run / "config.toml").exists():
            return self.begin(run, ["train", "--resume", str(run)])
        return self.begin(run, ["finetune", "base", "pairs.toml", "--out", str(run), *(["--lora"] if lora else [])])

    def finish(self, run: Path, lora: bool) -> dict[str, Any]:
        assert self.start(run, lora).wait(300) == 0, run.with_suffix(".log").read_text()[-2000:]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        last = max(list_checkpoints(run / "checkpoints").items())[1]
        return {
            "metrics": [{key: value for key, value in line.items() if key not in TIMING_KEYS} for line in lines],
            "samples": {path.name: path.read_bytes() for path in (run / "samples").iterdir()},
            "weights": {path.name: path.read_bytes() for path in last.glob("*.safetensors")},
            "reference": [path.read_bytes() for path in self.cache(run).rglob("reference-*.safetensors")],
            "pointers": [(run / name).read_text(encoding="utf-8") for name in ("best", "last")],
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("preference-kill"))


@pytest.fixture(scope="module", params=[False, True], ids=["full", "lora"])
def uninterrupted(request, place) -> tuple[bool, dict[str, Any]]:
    found = place.finish(place.path / f"whole-{request.param}", request.param)
    margins = [line["rewards/margins"] for line in found["metrics"] if "rewards/margins" in line]
    assert len(margins) == 60
    assert margins[-1] > margins[0], "it learns"
    assert len(found["reference"]) == 1
    return request.param, found


def begun(place: Place, run: Path) -> bool:
    return (run / "config.toml").exists()


def compared(place: Place, run: Path) -> bool:
    # Path.glob raises where a folder goes while it is read.
    return bool(glob(f"{place.cache(run)}/data/*/reference-*.json"))


def training(place: Place, run: Path) -> bool:
    return (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_bytes().count(b"\n") > 20


def saving(place: Place, run: Path) -> bool:
    return training(place, run) and any((run / "checkpoints").glob(".tmp-step-*"))


def evaluating(place: Place, run: Path) -> bool:
    step, path = max(list_checkpoints(run / "checkpoints").items(), default=(1, run))
    return step > 0 and step % 6 == 0 and not (path / "evaluation.json").exists()


MOMENTS: list[Callable[[Place, Path], bool]] = [begun, compared, training, saving, evaluating]


def test_the_kills_and_what_came_of_them(place, uninterrupted):
    lora, expected = uninterrupted
    struck = Counter[str]()
    for moment in MOMENTS:
        run = place.path / f"killed-{moment.__name__}-{lora}"
        for _ in range(10):
            process = place.start(run, lora)
            try:
                while process.poll() is None and not moment(place, run):
                    time.sleep(0.0005)
            finally:
                process.send_signal(signal.SIGKILL)
            if process.wait(30) == -signal.SIGKILL:
                break
            shutil.rmtree(run)
            shutil.rmtree(place.cache(run))
        struck[moment.__name__] += 1
        found = place.finish(run, lora)
        for key, value in expected.items():
            assert found[key] == value, (moment.__name__, key)
    assert len(struck) == 5
    print(f"lora={lora}: killed when {', '.join(struck)}")


def test_the_comparison_would_notice(place, uninterrupted):
    """A reference of another model changes every loss after the first."""
    lora, expected = uninterrupted
    run = place.path / f"sabotaged-{lora}"
    process = place.start(run, lora)
    while not training(place, run):
        assert process.poll() is None
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    for path in place.cache(run).rglob("reference-*"):
        path.unlink()
    code = (
        "from primegpt.jobs import reference; from primegpt.cli.main import main\n"
        "asked = reference.Reference.asked\n"
        "reference.Reference.asked = lambda self, *given: asked(self, *given) + 1e-3\n"
        "main()"
    )
    environment = os.environ | {"PRIMEGPT_CACHE": str(place.cache(run)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, "train", "--resume", str(run)]
    subprocess.run(command, cwd=place.path, env=environment, check=True, capture_output=True, timeout=300)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line.get("rewards/chosen") for line in lines] != [
        line.get("rewards/chosen") for line in expected["metrics"]
    ]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_learn_what_one_process_learns(place, parallel):
    """The reference is asked by both, each for its share; and what it gathered of the weights is let go of."""
    if not Path("/dev/shm").exists():
        pytest.skip("torchrun is tried on Linux")
    few = ["--train.max_steps", "12", "--train.parallel", parallel]
    runs = {ranks: place.path / f"{parallel}-{ranks}" for ranks in (1, 2)}
    for ranks, run in runs.items():
        many = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        arguments = [*many, "-m", "primegpt", "finetune", "base", "pairs.toml", "--out", str(run), *few]
        environment = os.environ | {"PRIMEGPT_CACHE": str(place.cache(run)), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *arguments], cwd=place.path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr[-2000:]
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for run in runs.values()
    ]
    for name in ("train/loss", "val/loss", "rewards/margins", "val/rewards/margins"):
        one, two = ([line[name] for line in each if name in line] for each in lines)
        assert len(one) >= 3
        assert two == pytest.approx(one, abs=1e-6)
