"""Training neither waits for a tracker nor ends with it, and a run that goes on is tracked as the same one."""

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from primegpt.config import Config, resolve, write_toml
from primegpt.errors import UsageError
from primegpt.jobs.training import train
from primegpt.report import tracking
from primegpt.report.tracking import Mirror, require_trackers, tracked
from primegpt.run.folder import RunFolder
from primegpt.signals import Interrupted

LINES = [{"step": step, "seconds": float(step), "train/loss": 1 / (step + 1)} for step in range(10)]
CONFIG = resolve({"train": {"track": "tensorboard"}})
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run")
    folder.config_path.write_text(write_toml(CONFIG), encoding="utf-8")
    return folder


def mirror_of(folder: RunFolder) -> Mirror:
    return next(each for each in folder.followers if isinstance(each, Mirror))


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def losses(folder: RunFolder) -> list[tuple[int, float]]:
    """As TensorBoard itself reads them; every event it finds, not a sample."""
    events = EventAccumulator(str(folder.tensorboard_dir), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def test_a_run_that_goes_on_is_tracked_as_if_it_had_never_stopped(folder):
    said: list[str] = []
    with tracked(folder, CONFIG, said.append):
        for line in LINES:
            folder.append_metrics(line)
    folder.truncate_metrics(lambda row: row["step"] <= 4)  # as a resume from a checkpoint at step 4 does
    with tracked(folder, CONFIG, said.append):
        for step in range(5, 12):
            folder.append_metrics({"step": step, "seconds": float(step), "train/loss": 2.0})
    folder.append_metrics({"step": 12, "train/loss": 3.0})  # no longer followed
    kept = [(line["step"], pytest.approx(line["train/loss"])) for line in LINES[:5]]
    assert losses(folder) == [*kept, *((step, 2.0) for step in range(5, 12))]
    places = [line for line in said if not line.startswith("waiting")]  # as a slow machine does
    assert places == [f"{'tracked':<10} tensorboard --logdir {folder.path.parent}"] * 2


def test_without_being_asked_nothing_is_begun(folder):
    with tracked(folder, Config(), print):
        folder.append_metrics(LINES[0])
    assert not folder.tensorboard_dir.exists()


def test_an_overwritten_run_takes_its_events_along(folder):
    with tracked(folder, CONFIG, print):
        folder.append_metrics(LINES[0])
    assert list(folder.tensorboard_dir.glob("*"))
    again = RunFolder.create(folder.path, overwrite=True)
    assert not list(again.tensorboard_dir.glob("*"))


def test_a_missing_package_is_told_before_anything_is_read_or_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    config = resolve({"data": {"sources": [str(tmp_path / "nowhere.txt")]}, "train": {"track": "wandb"}})
    with pytest.raises(UsageError, match=r"train.track = 'wandb' needs the package.*pip install 'primegpt\[wandb\]'"):
        train(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_called_as_a_package_is_none(tmp_path, monkeypatch):
    """wandb writes into wandb/, which `python -m primegpt` finds in the current folder."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UsageError, match="which is not installed"):
        require_trackers(resolve({"train": {"track": "wandb"}}))
    (tmp_path / "wandb" / "__init__.py").touch()
    importlib.invalidate_caches()
    require_trackers(resolve({"train": {"track": "wandb"}}))


def test_one_that_cannot_be_begun_is_one_warning(folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(folder.path / "nowhere"))
    said: list[str] = []
    with tracked(folder, CONFIG, said.append):
        for line in LINES:
            folder.append_metrics(line)
    assert folder.read_metrics() == LINES
    assert said == [tracking.warning("tensorboard", "cannot be begun: No such file or directory", folder)]


def test_one_that_cannot_write_is_a_warning_and_no_more(folder):
    folder.tensorboard_dir.write_text("a file", encoding="utf-8")
    said: list[str] = []
    with tracked(folder, CONFIG, said.append):
        for line in LINES:
            folder.append_metrics(line)
    assert folder.read_metrics() == LINES
    (warning,) = [line for line in said if line.startswith("warning")]
    assert warning.startswith("warning: train.track: tensorboard fails: ")
    assert warning.endswith(f"; the run goes on, and {folder.metrics_path} has every line")


@posix
def test_one_that_hangs_holds_nothing_up(folder, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE", 0.5)
    said: list[str] = []
    with tracked(folder, CONFIG, said.append):
        folder.append_metrics(LINES[0])
        mirror = mirror_of(folder)
        os.kill(mirror.process.pid, signal.SIGSTOP)
        started = time.monotonic()
        for step in range(3000):  # more than a pipe takes
            mirror(LINES[1] | {"step": step})
        assert time.monotonic() - started < 1
    assert time.monotonic() - started < 10
    assert any("tensorboard does not answer, 0.5 seconds after the end" in line for line in said)
    assert mirror.process.returncode == -signal.SIGKILL


@posix
def test_one_that_dies_is_a_warning(folder):
    said: list[str] = []
    with tracked(folder, CONFIG, said.append):
        folder.append_metrics(LINES[0])
        mirror_of(folder).process.kill()
        for line in LINES[1:]:
            folder.append_metrics(line)
    assert said == [tracking.warning("tensorboard", "ended with exit code -9", folder)]


@posix
def test_those_that_hang_are_waited_for_at_the_same_time(folder, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE", 1.0)
    monkeypatch.setattr(tracking, "SILENCE", 0.1)
    said: list[str] = []
    with tracked(folder, resolve({"train": {"track": "tensorboard mlflow wandb trackio"}}), said.append):
        folder.append_metrics(LINES[0])
        mirrors = [each for each in folder.followers if isinstance(each, Mirror)]
        for mirror in mirrors:
            os.kill(mirror.process.pid, signal.SIGSTOP)
        started = time.monotonic()
    assert 1.0 <= time.monotonic() - started < 3
    assert said[0] == f"{'waiting':<10} for tensorboard, mlflow, wandb, trackio, 1.0 seconds at most; Ctrl-C ends it"
    assert [mirror.process.returncode for mirror in mirrors] == [-signal.SIGKILL] * 4


@posix
def test_ctrl_c_ends_the_waiting_and_not_the_word_on_why_the_run_has_stopped(folder):
    said: list[str] = []

    def stopped() -> None:
        with tracked(folder, CONFIG, said.append):
            folder.append_metrics(LINES[0])
            os.kill(mirror_of(folder).process.pid, signal.SIGSTOP)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            raise Interrupted(signal.SIGINT, "stopped at step 0, saved")

    started = time.monotonic()
    with pytest.raises(Interrupted, match="stopped at step 0, saved"):
        stopped()
    assert time.monotonic() - started < 10
    assert said[-1] == tracking.warning("tensorboard", "was not waited for", folder)


def test_it_imports_nothing_from_the_current_folder(folder, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(7)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with tracked(folder, CONFIG, print):
        folder.append_metrics(LINES[0])
    assert [step for step, _ in losses(folder)] == [0]


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_ends_the_training_leaves_it_the_last_lines(name, folder):
    """Terminals and schedulers send it to both, and the training has something to save and to say yet."""
    with tracked(folder, CONFIG, print):
        folder.append_metrics(LINES[0])
        wait_until(lambda: list(folder.tensorboard_dir.glob("*")))
        os.kill(mirror_of(folder).process.pid, getattr(signal, name))
        folder.append_metrics(LINES[1])
    assert [step for step, _ in losses(folder)] == [0, 1]


@posix
def test_one_whose_training_is_killed_ends_by_itself_with_every_line(folder):
    with tracked(folder, CONFIG, print):
        for line in LINES:
            folder.append_metrics(line)
        process = mirror_of(folder).process
        wait_until(lambda: list(folder.tensorboard_dir.glob("*")))
        process.stdin.close()  # as the system does
        assert process.wait(30) == 0
    assert len(losses(folder)) == len(LINES)
