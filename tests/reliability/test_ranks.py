"""Several ranks on one machine, started by torchrun as a user would: the same numbers, exact resumes, clean ends.

One process is the oracle. Sums are made in another order by several, so that its figures are met to a tolerance; the
same number of ranks gives the same bits.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from primegpt.config import resolve
from primegpt.data.batching.batches import IGNORED, Batch
from primegpt.model.gpt import GPT
from primegpt.run.checkpoint import list_checkpoints, verify_checkpoint
from primegpt.run.folder import RunFolder
from primegpt.training.progress import TIMING_KEYS
from primegpt.training.step import Precision, compute_gradients

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL"),
]

SETTINGS = """
[model]
n_layer = 2
n_head = 2
n_embd = 32
block_size = 32
[tokenizer]
kind = "char"
[data]
sources = ["text.txt"]
val_tokens = 1000
[train]
batch_size = 4
gradient_accumulation_steps = 6
max_steps = 50
learning_rate = 3e-3
eval_interval = 10
early_evaluations = [3]
sample_interval = 25
log_interval = 1
keep_checkpoints = 20
device = "cpu"
precision = "fp32"
attention = "sdpa"
threads = 1
[generate]
max_new_tokens = 10
"""
WORDS = ["river", "moon", "letter", "night", "song", "road", "light", "stone", "wind", "sea"]


class Place:
    """A folder with one text and one configuration, in which runs are made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        drawn = random.Random(1)
        lines = (" ".join(drawn.choice(WORDS) for _ in range(6)) for _ in range(1500))
        (path / "text.txt").write_text("\n".join(lines))
        (path / "run.toml").write_text(SETTINGS)
        self.environment = os.environ | {"PRIMEGPT_CACHE": str(path / "cache"), "OMP_NUM_THREADS": "1"}

    def start(self, log: str, *arguments: str, ranks: int, restarts: int = 0) -> subprocess.Popen:
        """`primegpt train` on so many ranks; 0 for a process without torchrun."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        torchrun += [f"--max-restarts={restarts}"]
        program = [sys.executable, *(torchrun if ranks else ()), "-m", "primegpt", "train", *arguments]
        with open(self.path / f"{log}.log", "ab") as file:
            return subprocess.Popen(
                program, cwd=self.path, env=self.environment, stdout=file, stderr=file, start_new_session=True
            )

    def train(self, run: str, *arguments: str, ranks: int) -> Path:
        """Begin or resume `run`, to its end."""
        begun = (self.path / run / "config.toml").exists()
        first = ("--resume", run) if begun else ("run.toml", "--out", run)
        code = self.start(run, *first, *arguments, ranks=ranks).wait(200)
        assert code == 0, self.log(run)[-3000:]
        return self.path / run

    def log(self, run: str) -> str:
        return (self.path / f"{run}.log").read_text(errors="replace")

    def messages(self, run: str) -> list[str]:
        """What primegpt itself said of an error."""
        return [line for line in self.log(run).splitlines() if line.startswith(("primegpt:", "primegpt, rank"))]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone(place) -> Path:
    """The oracle: one process."""
    return place.train("alone", ranks=0)


def logged(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING_KEYS} for line in lines]


def assert_same_curves(run: Path, expected: Path, tolerance: float) -> None:
    found, wanted = logged(run), logged(expected)
    assert [(line["step"], *sorted(line)) for line in found] == [(line["step"], *sorted(line)) for line in wanted]
    worst = 0.0
    for line, other in zip(found, wanted, strict=True):
        for key in line.keys() & {"train/loss", "val/loss", "train/eval_loss", "final/val/loss"}:
            worst = max(worst, abs(line[key] - other[key]))
        assert (line.get("tokens"), line.get("lr")) == (other.get("tokens"), other.get("lr"))
    print(f"{run.name}: losses differ from {expected.name} by at most {worst:.1e}")
    assert worst <= tolerance


def weights(run: Path) -> list[bytes]:
    """The files of the last checkpoint that hold tensors, in order."""
    last = list(list_checkpoints(run / "checkpoints").values())[-1]
    return [path.read_bytes() for path in sorted(last.glob("*.safetensors"))]


def stopped_at(run: Path, step: int, copy: Path) -> Path:
    """A copy of a run as it was when it had just saved `step`."""
    shutil.copytree(run, copy)
    for later, path in list_checkpoints(copy / "checkpoints").items():
        if later > step:
            shutil.rmtree(path)
    return copy


# ---- The same numbers ------------------------------------------------------------------------------------------------

MODEL = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 50}
GRADIENTS = """
import os
import sys
sys.path.insert(0, sys.argv[2])
from test_ranks import configuration, ragged
from primegpt.model.gpt import GPT
from primegpt.parallel.distributed import join
from primegpt.training.step import Precision
from primegpt.parallel.world import whole
from primegpt.training.step import compute_gradients
from safetensors.torch import save_file

config = configuration(sys.argv[1])
with join(config) as world:
    model, batches = world.shard(GPT(config.model, 3)).train(), ragged()
    mine = len(batches) // world.size
    own = batches[world.rank * mine : (world.rank + 1) * mine]
    total, supervised, _ = compute_gradients(model, own, Precision("fp32", "cpu"), 0, 0, world=world)
    gradients = {name: whole(p.grad) for name, p in model.named_parameters()}
    if world.rank == 0:
        save_file({name: g.contiguous() for name, g in gradients.items()}, sys.argv[3])
        print("LOSS", total / supervised)
    world.leave()
sys.stdout.flush()
os._exit(0)  # as the command does: gloo's threads may outlive the interpreter
"""


def configuration(parallel: str = "auto"):
    return resolve({"model": MODEL, "train": {"parallel": parallel, "device": "cpu", "precision": "fp32"}})


def ragged() -> list[Batch]:
    """Eight micro-batches with very unequal numbers of targets; the first has none."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for i, share in enumerate(torch.linspace(0.0, 0.9, 8)):
        ids, targets = torch.randint(0, 50, (2, 3, 16), generator=generator)
        kept = torch.rand(3, 16, generator=generator) < share
        made.append(Batch(ids, targets.masked_fill(~kept, IGNORED), None, None, 3 * i))
    return made


@pytest.mark.parametrize(("ranks", "parallel"), [(2, "ddp"), (4, "ddp"), (2, "fsdp"), (4, "fsdp")])
def test_gradients_of_a_ragged_step_are_those_of_one_process(tmp_path, ranks, parallel):
    model = GPT(configuration().model, 3).train()
    total, supervised, _ = compute_gradients(model, ragged(), Precision("fp32", "cpu"), 0, 0)
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script)]
    done = subprocess.run(
        [*program, parallel, str(Path(__file__).parent), str(tmp_path / "gradients.safetensors")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout.split("LOSS ")[1]) == pytest.approx(total / supervised, abs=1e-6)
    found = load_file(tmp_path / "gradients.safetensors")
    own = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == own.keys()
    worst = max((found[name] - own[name]).abs().max().item() for name in own)
    print(f"largest difference of a gradient: {worst:.1e}")
    assert worst <= 1e-6
    assert max(gradient.abs().max().item() for gradient in own.values()) > 0.01


def fifty_steps(place: Place, parallel: str, ranks: int) -> Path:
    """A whole run, made when it is first asked for."""
    run = place.path / f"{parallel}-{ranks}"
    return run if run.exists() else place.train(run.name, "--train.parallel", parallel, ranks=ranks)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_curves_of_fifty_steps_are_those_of_one_process(place, alone, parallel, ranks):
    assert logged(alone)[-2]["val/loss"] < 0.8 * logged(alone)[0]["val/loss"]
    run = fifty_steps(place, parallel, ranks)
    assert_same_curves(run, alone, 1e-4)
    assert (run / "samples" / "step-000000.txt").exists()
    for path in list_checkpoints(run / "checkpoints").values():
        names = {
            f"{stem}-{i + 1:05d}-of-{ranks:05d}.safetensors" for stem in ("model", "optimizer") for i in range(ranks)
        }
        assert verify_checkpoint(path).files.keys() == {*names, "state.json"}  # a share of each rank


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_weights_that_are_kept_early_are_those_of_one_process(place, parallel):
    """And the steps that follow: an evaluation without a save before it left sharded weights gathered."""
    short = ("--train.max_steps", "8", "--train.keep_checkpoints", "milestones", "--train.parallel", parallel)
    kept = []
    for ranks in (0, 2):
        run = RunFolder(place.train(f"early-{parallel}-{ranks}", *short, ranks=ranks))
        kept.append(run.load_checkpoint(3, pytest.fail, ("model",)))
    one, two = kept
    assert [one.resumable, two.resumable] == [False, False]
    for name, weight in one.tensors["model"].items():
        torch.testing.assert_close(two.tensors["model"][name], weight, atol=1e-4, rtol=0)


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler is on this machine")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_compiled_ranks_learn_what_one_process_learns(place, alone, parallel):
    run = place.train(f"{parallel}-compiled", "--train.parallel", parallel, "--train.compile", ranks=2)
    assert "compile = true" in (run / "config.toml").read_text()
    assert_same_curves(run, alone, 1e-4)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_of_two_ranks_goes_on_with_any_number(place, parallel, ranks):
    whole = fifty_steps(place, parallel, 2)
    copy = stopped_at(whole, 20, place.path / f"resumed-{parallel}-{ranks}")
    resumed = place.train(copy.name, ranks=0 if ranks == 1 else ranks)
    log = place.log(copy.name)
    assert "continuing at step 20 of 50" in log
    assert_same_curves(resumed, whole, 1e-4)
    if ranks == 2:
        assert logged(resumed) == logged(whole)
        assert weights(resumed) == weights(whole)
        assert "not bit for bit" not in log
    else:
        assert f"not bit for bit the same as before: ranks was 2, is {ranks}" in log


# ---- Ends ------------------------------------------------------------------------------------------------------------


def ranks_of(torchrun: subprocess.Popen) -> list[int]:
    """Process ids of the ranks, in order."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(torchrun.pid)], capture_output=True, text=True).stdout
    return sorted(map(int, listed.split()))


def wait_for(condition, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def steps_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count('"lr"') if path.exists() else 0


KILLED = ("--train.max_steps", "120", "--model.dropout", "0.1", "--train.eval_interval", "25")


@pytest.fixture(scope="module")
def undisturbed(place) -> Path:
    return place.train("undisturbed", *KILLED, ranks=2)


@pytest.mark.parametrize("trial", range(int(os.environ.get("PRIMEGPT_KILLS", "3"))))
def test_when_a_rank_is_killed_the_others_leave_and_the_run_goes_on_exactly(place, undisturbed, trial):
    """Every other trial saves behind its steps."""
    chance = random.Random(trial)
    run, name, victim = place.path / f"killed-{trial}", f"killed-{trial}", chance.randrange(2)
    behind = ("--train.async_checkpoint=true",) if trial % 2 else ()
    begun = place.start(name, "run.toml", "--out", name, *KILLED, *behind, ranks=2)
    after = chance.randrange(1, 110)
    wait_for(lambda: steps_of(run) >= after)
    os.kill(ranks_of(begun)[victim], signal.SIGKILL)
    struck = time.monotonic()
    assert begun.wait(60) != 0
    took = time.monotonic() - struck
    print(f"rank {victim} killed behind step {after}: all gone {took:.1f} s later")
    assert took < 30
    said = place.messages(name)
    assert any(f"rank {victim} is gone; start again with" in line for line in said), said
    assert len(said) == 1
    resumed = place.train(name, ranks=2)
    assert logged(resumed) == logged(undisturbed)
    assert weights(resumed) == weights(undisturbed)


def test_torchrun_starts_again_by_itself(place, undisturbed):
    run = place.path / "restarted"
    begun = place.start("restarted", "run.toml", "--out", "restarted", *KILLED, ranks=2, restarts=1)
    wait_for(lambda: steps_of(run) >= 60)
    os.kill(ranks_of(begun)[1], signal.SIGKILL)
    assert begun.wait(120) == 0, place.log("restarted")[-3000:]
    assert logged(run) == logged(undisturbed)
    assert weights(run) == weights(undisturbed)


def test_a_signal_to_torchrun_saves_on_all_ranks_and_stops(place, undisturbed):
    run = place.path / "stopped"
    begun = place.start("stopped", "run.toml", "--out", "stopped", *KILLED, ranks=2)
    wait_for(lambda: steps_of(run) >= 40)
    begun.send_signal(signal.SIGTERM)
    begun.wait(60)
    said = place.messages("stopped")
    assert len(said) == 1
    assert "saved; continue with: primegpt train --resume stopped" in said[0]
    assert logged(place.train("stopped", ranks=2)) == logged(undisturbed)
    assert weights(run) == weights(undisturbed)


def test_a_rank_that_hangs_is_named(place):
    run = place.path / "hung"
    begun = place.start("hung", "run.toml", "--out", "hung", "--train.rank_timeout", "4", *KILLED, ranks=2)
    wait_for(lambda: steps_of(run) >= 5)
    stopped = ranks_of(begun)[1]
    os.kill(stopped, signal.SIGSTOP)
    wait_for(lambda: place.messages("hung"), 30)
    os.kill(stopped, signal.SIGKILL)  # torchrun would, 30 s later
    assert begun.wait(60) != 0
    assert "rank 1 did not answer for 4 s; start again with" in place.messages("hung")[0]


# ---- Beginnings ------------------------------------------------------------------------------------------------------


def start_by_hand(place: Place, flags: list[list[str]], folders: list[Path]) -> list[tuple[int, str]]:
    """Two ranks on "two machines", each with flags and a working folder of its own; exit codes and messages."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        ours = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
        environment = place.environment | {name: str(value) for name, value in ours.items()}
        environment |= {"MASTER_ADDR": "127.0.0.1", "PRIMEGPT_CACHE": str(folders[rank] / f"cache-{rank}")}
        program = [sys.executable, "-m", "primegpt", "train", "run.toml", *flags[rank]]
        started.append(subprocess.Popen(program, cwd=folders[rank], env=environment, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=100)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def test_other_settings_are_refused_before_the_first_step(place):
    flags = [["--out", "odd"], ["--out", "odd", "--train.learning_rate", "0.1"]]
    (first, _), (second, said) = start_by_hand(place, flags, [place.path, place.path])
    assert (first, second) == (2, 2)
    assert "primegpt, rank 1: train.learning_rate is 0.1 on rank 1" in said
    assert "and 0.003 on rank 0; give all ranks the same configuration and text" in said
    assert not (place.path / "odd").exists()


def test_another_text_is_refused_before_the_first_step(place, tmp_path):
    shutil.copy(place.path / "run.toml", tmp_path)
    (tmp_path / "text.txt").write_text((place.path / "text.txt").read_text()[:-100])
    flags = [["--out", "odd"], ["--out", "odd"]]
    (first, _), (second, said) = start_by_hand(place, flags, [place.path, tmp_path])
    assert (first, second) == (2, 2)
    assert "primegpt, rank 1: the " in said
    assert "on rank 0; give all ranks the same configuration and text" in said
    assert not (place.path / "odd").exists()
