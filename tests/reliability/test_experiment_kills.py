"""An experiment that is killed comes to the results of one that is not, byte for byte."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from glob import glob
from pathlib import Path

import pytest

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(900)]

FILE = """
name = "kills"
seeds = 2
budget.seconds = 1.0
measure = ["text.loss", "val/loss"]
[data]
sources = ["songbook"]
songs = 200
[model]
n_layer = 1
n_head = 2
n_embd = 32
block_size = 64
[train]
batch_size = 4
threads = 1
checkpoint_interval = 5
eval_interval = 20
[[arm]]
name = "with"
[[arm]]
name = "without"
model.qk_norm = false
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "kills.toml").write_text(FILE, encoding="utf-8")
    command = [sys.executable, "-c", "from primegpt.cli.main import main; main()", "experiment", "kills.toml"]

    def start(out: str, *more: str) -> subprocess.Popen:
        process = [*command, "--out", out, *more]
        return subprocess.Popen(process, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    return start


def finished(process: subprocess.Popen) -> None:
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told


def lines(folder: Path) -> int:
    """How far the runs of an experiment are, in lines of metrics."""
    return sum(path.read_bytes().count(b"\n") for path in map(Path, glob(f"{folder}/made/*/metrics.jsonl")))


def wait_for(process: subprocess.Popen, folder: Path, count: int) -> None:
    """Until the runs of an experiment have `count` lines."""
    while lines(folder) < count and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, f"it ended before: {process.communicate()[1]}"


def killed_after(process: subprocess.Popen, folder: Path, more: int) -> None:
    wait_for(process, folder, lines(folder) + more)
    process.kill()
    process.communicate()


@pytest.fixture
def whole(start, tmp_path):
    finished(start("whole"))
    return tmp_path / "whole"


def begun(whole: Path, name: str) -> Path:
    """A folder with the plan of `whole`: how many steps its budget is, is measured."""
    out = whole.parent / name
    out.mkdir()
    shutil.copy(whole / "plan.json", out)
    return out


def test_killed_twice_it_ends_the_same(start, whole):
    out, draw = begun(whole, "killed"), random.Random(0)
    for _ in range(2):
        killed_after(start("killed"), out, draw.randrange(4, 20))
    finished(start("killed"))
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def test_processes_end_with_the_one_that_started_them_and_find_the_same(start, whole):
    out = begun(whole, "several")
    process = start("several", "--processes", "2")
    wait_for(process, out, 8)
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    pids = [int(pid) for pid in listed.split()]
    process.kill()
    process.communicate()
    assert len(pids) >= 2
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process outlived the one that started it"
        time.sleep(0.1)
    finished(start("several", "--processes", "2"))
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()  # of one that nobody has waited for


def test_interrupted_it_says_so_and_goes_on(start, tmp_path):
    for more in ((), ("--processes", "2")):
        out = f"interrupted{len(more)}"
        process = start(out, *more)
        wait_for(process, tmp_path / out, 3)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 143, told
        assert "Traceback" not in told
        finished(start(out, *more))
