"""A run that learns from rewards, killed with SIGKILL and resumed, is the run that was left alone, bit for bit.

Ten runs are killed: while they write, while they learn, in saves and in evaluations; every third of them twice. Steps
share completions and have a reference, so that a checkpoint has to keep both; adapters learn. Two saboteurs show that
the comparison would notice.
"""

import json
import os
import random
import runpy
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from primegpt import api
from primegpt.run.checkpoint import list_checkpoints
from primegpt.training.progress import TIMING_KEYS

begin = runpy.run_path(str(Path(__file__).with_name("warm.py")))["begin"]

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL"),
]

KILLS, STEPS, EVAL_INTERVAL = 10, 24, 6
WORDS = ["river", "stone", "light", "song", "winter", "road"]
FLAGS = [
    *(
        "--reward",
        "own.py:vowels",
        "--lora",
        "--train.max_steps",
        str(STEPS),
        "--train.eval_interval",
        str(EVAL_INTERVAL),
    ),
    *("--train.checkpoint_interval", "4", "--train.sample_interval", "8", "--train.log_interval", "1"),
    *("--train.threads", "1", "--train.learning_rate", "1e-2", "--reinforce.num_iterations", "3"),
    *("--reinforce.beta", "0.05", "--reinforce.num_generations", "4", "--reinforce.prompts_per_step", "4"),
    *("--reinforce.max_new_tokens", "16"),
]
REWARD = """
def vowels(prompt, completion, record):
    return sum(letter in "aeiou" for letter in completion) / max(1, len(completion))
"""
# Marks in a file whatever it begins, so that a kill can be placed; the same code otherwise.
MARKING = """
import os, sys
from primegpt.cli.main import main
from primegpt.training import rollouts, trainer

kind, place = sys.argv.pop(1), sys.argv.pop(1)
def marked(what, function):
    def run(*arguments, **options):
        with open(place, "a") as file:
            file.write(what + "\\n")
        try:
            return function(*arguments, **options)
        finally:
            with open(place, "a") as file:
                file.write("\\n")
    return run
rollouts.Rollouts.roll_out = marked("rollout", rollouts.Rollouts.roll_out)
trainer.compute_gradients = marked("update", trainer.compute_gradients)
trainer.Trainer.evaluate = marked("evaluation", trainer.Trainer.evaluate)
trainer.Trainer.save = marked("save", trainer.Trainer.save)
if kind == "completions are forgotten":
    rollouts.Rollouts.load_state = lambda self, state: None
elif kind == "streams know no step":
    write, began = rollouts.Author.write, []
    def since_start(self, prompts, *scope, samples=1):
        began.append(1)
        return write(self, prompts, *scope[:1], len(began), samples=samples)
    rollouts.Author.write = since_start
main()
"""
PLACES = ("rollout", "update", "evaluation", "save")


def start(folder: Path, run: Path, kind: str = "as it is") -> Any:
    begun = (run / "config.toml").exists()
    arguments = ["--resume", str(run)] if begun else ["base", "prompts.jsonl", *FLAGS, "--out", str(run)]
    environment = os.environ | {"PRIMEGPT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    program = ["marking.py", kind, str(run.with_suffix(".marks")), "reinforce", *arguments]
    return begin(program, folder, environment, run.with_suffix(".log"))


def finish(folder: Path, run: Path, kind: str = "as it is") -> dict[str, Any]:
    assert start(folder, run, kind).wait(300) == 0, run.with_suffix(".log").read_text()[-2000:]
    return outcome(run)


def outcome(run: Path) -> dict[str, Any]:
    """All that must not depend on interruptions."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = max(list_checkpoints(run / "checkpoints").items())[1]
    state = json.loads((last / "state.json").read_bytes())["train"]
    return {
        "metrics": [{key: value for key, value in line.items() if key not in TIMING_KEYS} for line in lines],
        "state": {key: value for key, value in state.items() if key not in TIMING_KEYS},
        "pointers": [(run / name).read_text(encoding="utf-8") for name in ("best", "last")],
        "samples": {path.name: path.read_bytes() for path in (run / "samples").iterdir()},
        "tensors": {path.name: path.read_bytes() for path in last.glob("*.safetensors")},
    }


def doing(run: Path) -> str:
    """What the run is in the middle of."""
    try:
        marks = run.with_suffix(".marks").read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return ""
    open_: list[str] = []
    for mark in marks:
        if mark:
            open_.append(mark)
        elif open_:
            open_.pop()
    return open_[-1] if open_ else ""


def kill(process: Any, run: Path, place: str, after: int) -> str | None:
    """SIGKILL inside the first `place` after so many of its beginnings; where it struck, or None if it was done."""
    while process.poll() is None:
        begun = run.with_suffix(".marks").read_text().count(place) if run.with_suffix(".marks").exists() else 0
        if begun > after and doing(run) == place:
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.01)
            if doing(run) == place:
                break
            process.send_signal(signal.SIGCONT)
        time.sleep(0.0005)
    where = doing(run)
    process.send_signal(signal.SIGKILL)
    return where if process.wait(30) == -signal.SIGKILL else None


def killed(folder: Path, number: int) -> tuple[list[str], dict[str, Any]]:
    """Where run `number` was killed, and what became of it."""
    draw = random.Random(number)
    for retry in range(5):
        run, struck = folder / f"killed-{number}-{retry}", []
        for _ in range(2 if number % 3 == 0 else 1):
            most = {"rollout": STEPS // 3 - 1, "update": STEPS - 1, "evaluation": 3, "save": 6}
            place = PLACES[(number + len(struck)) % len(PLACES)]
            run.with_suffix(".marks").unlink(missing_ok=True)
            where = kill(start(folder, run), run, place, draw.randrange(most[place] if not struck else 2))
            struck += [] if where is None else [where]
        run.with_suffix(".marks").unlink(missing_ok=True)
        result = finish(folder, run)
        if struck:
            return struck, result
    raise AssertionError("five runs were done before they were killed")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rewards")
    rows = [{"prompt": f"say {word}", "response": f"{word} {word}"} for word in WORDS * 6]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked = [{"prompt": f"say {word} {n}"} for n, word in enumerate(WORDS * 6)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    (folder / "own.py").write_text(REWARD, encoding="utf-8")
    (folder / "marking.py").write_text(MARKING, encoding="utf-8")
    settings = {
        "model": {"preset": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 48},
        "tokenizer": {"kind": "char"},
        "data": {"template": "response"},
        "train": {"max_steps": 60, "eval_interval": 60, "batch_size": 8, "threads": 1},
    }
    api.train(folder / "answers.jsonl", out=folder / "base", settings=settings, quiet=True)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(place) -> dict[str, Any]:
    return finish(place, place / "uninterrupted")


@pytest.fixture(scope="module")
def trials(place, uninterrupted) -> list[tuple[list[str], dict[str, Any]]]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda number: killed(place, number), range(KILLS)))


def assert_equal(result: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, value in expected.items():
        assert result[key] == value, key


def test_the_kills_struck_everywhere(trials) -> None:
    where = Counter(place for struck, _ in trials for place in struck)
    print(f"{sum(where.values())} kills: {dict(where)}")
    assert sum(where.values()) >= KILLS
    assert all(where[place] >= 2 for place in ("rollout", "update", "evaluation"))


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_and_resumed_equals_uninterrupted(trials, uninterrupted, number) -> None:
    assert_equal(trials[number][1], uninterrupted)


def test_what_was_compared_is_a_run_that_learns(uninterrupted) -> None:
    kl = [line["kl"] for line in uninterrupted["metrics"] if "kl" in line]
    assert len(kl) == STEPS
    assert kl[0] < 1e-9 < 1e-4 < kl[-1]
    assert "rollouts.safetensors" in uninterrupted["tensors"]
    rewards = [line["val/reward"] for line in uninterrupted["metrics"] if "val/reward" in line]
    assert max(rewards) > rewards[0]


@pytest.mark.parametrize("kind", ["completions are forgotten", "streams know no step"])
def test_the_comparison_detects_sabotage(place, uninterrupted, kind) -> None:
    run = place / kind.replace(" ", "-")
    whole = uninterrupted if kind == "completions are forgotten" else finish(place, place / f"{run.name}-whole", kind)
    assert kill(start(place, run, kind), run, "update", 10) is not None  # step 8 is saved, in the midst of three
    run.with_suffix(".marks").unlink()
    with pytest.raises(AssertionError):
        assert_equal(finish(place, run, kind), whole)
