"""A run killed with SIGKILL and resumed must be indistinguishable from one that was left alone.

Thirty real runs are killed: at any time of their life, before the first checkpoint, inside a save, inside an
evaluation; a third of them twice. Each is then resumed to its end, and every logged value (timing keys aside), every
sample, the decision to stop early and the bytes of the final checkpoint are compared with an uninterrupted run's.
Dropout, accumulation and patience are on, and patience does end the run.

Where a kill struck is read from what it left on the disk, and counted. The same comparison must fail for saboteurs who
break one rule each; otherwise it would prove nothing.
"""

import json
import os
import random
import runpy
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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

EVAL_INTERVAL = 6
EARLY = [1, 2, 5]
SETTINGS = f"""
[model]
n_layer = 1
n_head = 2
n_embd = 32
block_size = 32
dropout = 0.1
[tokenizer]
kind = "char"
[data]
sources = ["text.txt"]
val_fraction = 0.5
val_tokens = 3000
[train]
batch_size = 4
gradient_accumulation_steps = 3
max_steps = 200
learning_rate = 1e-2
schedule = "constant"
warmup_steps = 0
eval_interval = {EVAL_INTERVAL}
early_evaluations = {EARLY}
checkpoint_interval = 4
sample_interval = 14
log_interval = 1
patience = 3
device = "cpu"
precision = "fp32"
attention = "sdpa"
threads = 1
[generate]
max_new_tokens = 20
"""

SABOTEUR = """
import sys
from primegpt.cli.main import main
from primegpt.data.batching.batches import Batches
from primegpt.training import trainer
from primegpt.training.state import EarlyStopping
from primegpt.training.optimizers import Optimizers

kind = sys.argv.pop(1)
micro_batches, restore, evaluate_loss = Batches.micro_batches, trainer.Trainer.restore, trainer.evaluate_loss
if kind == "seed ignores step":
    first = []
    def since_start(self, step):  # counts from where this process began, as a sampler with lost state would
        first.append(step)
        return micro_batches(self, step - first[0])
    Batches.micro_batches = since_start
elif kind == "no optimizer state":
    Optimizers.load_state = lambda self, tensors: None
elif kind == "evaluation shares the training stream":
    drawn = 0
    def drawing(*arguments, **options):
        global drawn
        drawn += 1
        return evaluate_loss(*arguments, **options)
    def behind_evaluations(self, step):
        return micro_batches(self, step + drawn)
    def with_stream(self, checkpoint):  # the stream stands where it stood when the checkpoint was written
        global drawn
        restore(self, checkpoint)
        drawn = 2 * (-(-checkpoint.step // EVAL_INTERVAL) + sum(step < checkpoint.step for step in EARLY))
    trainer.evaluate_loss, Batches.micro_batches = drawing, behind_evaluations
    trainer.Trainer.restore = with_stream
elif kind == "early stopping is forgotten":
    def forgetful(self, checkpoint):
        restore(self, checkpoint)
        self.state.early_stopping = EarlyStopping(self.state.early_stopping.patience)
    trainer.Trainer.restore = forgetful
else:
    sys.exit(f"no such saboteur: {kind}")
main()
""".replace("EVAL_INTERVAL", str(EVAL_INTERVAL)).replace("EARLY", str(EARLY))
SABOTAGE = {  # and behind which evaluation to kill: the last when something is waited for
    "seed ignores step": 12,
    "no optimizer state": 12,
    "evaluation shares the training stream": 12,
    "early stopping is forgotten": 48,
}

FIRST, SAVE, EVALUATION = "before the first checkpoint", "in a save", "in an evaluation"


@dataclass
class Workplace:
    """Where runs are made, with one text and one configuration for all."""

    path: Path
    life: float = 0.0
    """Seconds that a whole run takes ..."""
    youth: float = 0.0
    """... and its time until the first checkpoint."""
    first: dict[str, Any] = field(default_factory=dict)
    """What a run came to that had to prepare the text, which those that are timed and killed do not."""

    def start(self, run: Path, sabotage: str | None = None) -> Any:
        """Begin a run, or continue it, as its user would: one that was killed at once has to be begun again."""
        program = ["-m", "primegpt"] if sabotage is None else ["saboteur.py", sabotage]
        begun = (run / "config.toml").exists()
        arguments = ["--resume", str(run)] if begun else ["run.toml", "--out", str(run)]
        environment = os.environ | {"PRIMEGPT_CACHE": str(self.path / "cache"), "OMP_NUM_THREADS": "1"}
        return begin([*program, "train", *arguments], self.path, environment, run.with_suffix(".log"))

    def finish(self, run: Path, sabotage: str | None = None) -> dict[str, Any]:
        code = self.start(run, sabotage).wait(300)
        assert code == 0, run.with_suffix(".log").read_text()[-2000:]
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
        "weights": (last / "model.safetensors").read_bytes(),
        "optimizer": (last / "optimizer.safetensors").read_bytes(),
    }


def logged(run: Path) -> int:
    """Whole lines of metrics.jsonl."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def unfinished_saves(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(".tmp-step-*"))


def is_evaluating(run: Path) -> bool:
    """Whether the newest checkpoint waits for its evaluation."""
    step, path = max(list_checkpoints(run / "checkpoints").items(), default=(1, run))
    return step % EVAL_INTERVAL == 0 and not (path / "evaluation.json").exists()


def struck(run: Path) -> set[str]:
    """Where a kill has hit, as the folder shows."""
    places = {
        FIRST: not list_checkpoints(run / "checkpoints"),
        SAVE: bool(unfinished_saves(run)),
        EVALUATION: is_evaluating(run),
    }
    return {place for place, hit in places.items() if hit}


@dataclass
class Trial:
    """One run that was killed, where, and what became of it."""

    run: Path
    kills: list[set[str]] = field(default_factory=list)
    result: dict[str, Any] | None = None


def kill(process: Any, run: Path, moment: Iterator[float]) -> set[str] | None:
    """Let `moment` choose the time, then SIGKILL; where it struck, or None if the process was done before."""
    for pause in moment:
        time.sleep(pause)
        if process.poll() is not None:
            break
    process.send_signal(signal.SIGKILL)
    code = process.wait(30)
    assert code in (0, -signal.SIGKILL), run.with_suffix(".log").read_text()[-2000:]
    return struck(run) if code else None


Moment = Callable[[Workplace, Path, Any, random.Random], Iterator[float]]


def in_life(place: Workplace, run: Path, process: Any, draw: random.Random) -> Iterator[float]:
    yield draw.uniform(0.0, place.life)


def in_youth(place: Workplace, run: Path, process: Any, draw: random.Random) -> Iterator[float]:
    yield draw.uniform(0.0, place.youth)


def when(event: Callable[[Path], Any], longest: float) -> Moment:
    """In the first `event` after a random number of steps, up to `longest` seconds behind its beginning.

    The process is halted and looked at: where the event was over by then, the next one is waited for.
    """

    def moment(place: Workplace, run: Path, process: Any, draw: random.Random) -> Iterator[float]:
        lines = draw.randrange(60)
        while True:
            while logged(run) < lines or not event(run):
                yield 0.0005
            yield draw.uniform(0.0, longest)
            process.send_signal(signal.SIGSTOP)
            yield 0.001  # a signal takes its time
            if event(run):
                return
            process.send_signal(signal.SIGCONT)

    return moment


in_training, in_a_save, in_an_evaluation = (
    when(lambda run: logged(run) > 0, 0.05),
    when(unfinished_saves, 0.01),
    when(is_evaluating, 0.02),
)
TRIALS = [in_life] * 6 + [in_youth] * 4 + [in_training] * 4 + [in_a_save] * 8 + [in_an_evaluation] * 8


def attempt(place: Workplace, number: int) -> Trial:
    """Kill a run as trial `number` says, every third twice, and let it finish."""
    draw = random.Random(time.time_ns() + number)
    for retry in range(10):
        trial = Trial(place.path / f"killed-{number}-{retry}")
        for moment in [TRIALS[number], in_life][: 2 if number % 3 == 0 else 1]:
            process = place.start(trial.run)
            where = kill(process, trial.run, moment(place, trial.run, process, draw))
            trial.kills += [] if where is None else [where]
        if trial.kills:
            trial.result = place.finish(trial.run)
            return trial
    raise AssertionError("ten runs were done before they were killed")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workplace:
    folder = tmp_path_factory.mktemp("kill")
    draw = random.Random(0)
    (folder / "text.txt").write_text("".join(draw.choices("abcdefgh    ", k=6000)) + "\n", encoding="utf-8")
    (folder / "run.toml").write_text(SETTINGS, encoding="utf-8")
    (folder / "saboteur.py").write_text(SABOTEUR, encoding="utf-8")
    return Workplace(folder)


@pytest.fixture(scope="module")
def uninterrupted(place) -> dict[str, Any]:
    place.first = place.finish(place.path / "first")
    run, started = place.path / "uninterrupted", time.monotonic()
    process = place.start(run)
    while not list_checkpoints(run / "checkpoints"):
        assert process.poll() is None, run.with_suffix(".log").read_text()
        time.sleep(0.001)
    place.youth = time.monotonic() - started
    assert process.wait(300) == 0
    place.life = time.monotonic() - started
    return outcome(run)


@pytest.fixture(scope="module")
def trials(place, uninterrupted) -> list[Trial]:
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda number: attempt(place, number), range(len(TRIALS))))


def test_the_run_is_one_that_patience_ends(uninterrupted):
    """Otherwise equal decisions would mean little: it waits in vain, is rewarded, and at last gives up."""
    waited, state = [], uninterrupted["state"]["early_stopping"]
    losses = [line["val/loss"] for line in uninterrupted["metrics"] if "val/loss" in line]
    for i, loss in enumerate(losses):
        waited.append(0 if loss == min(losses[: i + 1]) else waited[-1] + 1)
    assert uninterrupted["state"]["step"] < 200
    assert waited[-4:] == [0, 1, 2, 3]
    assert 2 in waited[:-4]
    assert state["waited"] == 2  # as it was saved, before the evaluation that ended it


def test_the_kills_struck_everywhere(trials):
    where = Counter(place for trial in trials for hit in trial.kills for place in hit)
    elsewhere = sum(not hit for trial in trials for hit in trial.kills)
    print(f"{sum(len(trial.kills) for trial in trials)} kills: {dict(where)}, {elsewhere} elsewhere")
    assert len(trials) == 30
    assert sum(len(trial.kills) == 2 for trial in trials) >= 4
    assert where[FIRST] >= 4
    assert where[SAVE] >= 5
    assert where[EVALUATION] >= 6
    assert elsewhere >= 1


@pytest.mark.parametrize("number", range(len(TRIALS)))
def test_killed_and_resumed_equals_uninterrupted(trials, uninterrupted, number):
    assert_equal(trials[number].result, uninterrupted)


def test_two_uninterrupted_runs_are_equal(place, uninterrupted):
    assert_equal(place.first, uninterrupted)


def assert_equal(result: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, value in expected.items():
        assert result[key] == value, key


@pytest.fixture(scope="module")
def sabotaged(place) -> dict[str, list[dict[str, Any]]]:
    """Of each saboteur the outcome of a run that was left alone, and of one that was killed behind an evaluation."""

    def outcomes(sabotage: str) -> list[dict[str, Any]]:
        name = sabotage.replace(" ", "-")
        whole, killed = place.path / f"{name}-whole", place.path / f"{name}-killed"
        process = place.start(killed, sabotage)

        def behind_evaluation() -> Iterator[float]:
            step = SABOTAGE[sabotage]
            # Step 0 is evaluated too, some early ones are, and one step more is made.
            while logged(killed) < step + step // EVAL_INTERVAL + len(EARLY) + 2:
                yield 0.0005

        assert kill(process, killed, behind_evaluation()) is not None
        return [place.finish(run, sabotage) for run in (whole, killed)]

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SABOTAGE, pool.map(outcomes, SABOTAGE), strict=True))


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_the_comparison_detects_sabotage(sabotaged, sabotage):
    whole, killed = sabotaged[sabotage]
    with pytest.raises(AssertionError):
        assert_equal(killed, whole)
    if sabotage == "early stopping is forgotten":
        assert killed["state"]["step"] > whole["state"]["step"]
