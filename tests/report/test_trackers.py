"""What a tracker holds must be what metrics.jsonl holds, after any number of sessions; here of TensorBoard's files."""

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from primegpt.config import Config, write_toml
from primegpt.report.trackers import TensorBoard, _flat, track
from primegpt.report.tracking import warning
from primegpt.run.folder import RunFolder

LINES = [{"step": step, "seconds": float(step), "train/loss": 1 / (step + 1)} for step in range(10)]


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def read_events(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """As TensorBoard itself reads them; every event it finds, not a sample."""
    events = EventAccumulator(str(folder.tensorboard_dir), size_guidance={"scalars": 0}).Reload()
    return {key: [(event.step, event.value) for event in events.Scalars(key)] for key in events.Tags()["scalars"]}


def test_every_value_is_there_under_its_own_name(folder):
    lines = [line | {"val/loss": 2.0 * line["step"], "grad_norm": None} for line in LINES]
    track(TensorBoard(folder, Config()), [*lines, {"step": 9, "final/step": 3, "final/val/loss": 1.5}], 0.0)
    events = read_events(folder)
    assert set(events) == {"seconds", "train/loss", "val/loss", "final/val/loss"}
    assert events["val/loss"] == [(step, 2.0 * step) for step in range(10)]
    assert events["train/loss"][-1] == (9, pytest.approx(0.1))
    assert events["final/val/loss"] == [(9, 1.5)]


def test_early_evaluations_belong_to_the_curve_of_all(folder):
    lines = [{"step": 1, "early/val/loss": 3.0}, {"step": 5, "val/loss": 2.0}]
    track(TensorBoard(folder, Config()), lines, 0.0)
    assert read_events(folder) == {"val/loss": [(1, 3.0), (5, 2.0)]}


def test_a_line_can_be_seen_at_once(folder):
    tracker = TensorBoard(folder, Config())
    tracker.write(3, {"train/loss": 0.5}, 1000.0)
    assert read_events(folder) == {"train/loss": [(3, 0.5)]}
    tracker.close(finished=False)


def test_a_session_leaves_no_trace_of_what_was_undone(folder):
    track(TensorBoard(folder, Config()), [line | {"lr": 0.1} for line in LINES], 0.0)
    track(TensorBoard(folder, Config()), [line | {"lr": 0.25} for line in LINES[:7]], 0.0)
    assert read_events(folder)["lr"] == [(step, 0.25) for step in range(7)]
    assert len(list(folder.tensorboard_dir.iterdir())) == 1


class Recorder:
    """A tracker that notes what it is asked to do."""

    place, last_step = "here", -1

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.ends: list[bool] = []

    def write(self, step: int, values: Mapping[str, float], at: float) -> None:
        self.steps.append(step)

    def close(self, finished: bool) -> None:
        self.ends.append(finished)


@pytest.mark.parametrize(
    ("last", "finished"),
    [
        ([], False),
        ([{"step": 9, "final/step": 3, "final/val/loss": 1.5}], True),
        ([{"step": 9, "final/step": 3, "final/val/loss": 1.5}, {"step": 9, "base/loss_before": 2.0}], True),
    ],
)
def test_a_run_is_finished_once_it_has_its_result_whatever_follows(last, finished):
    recorder = Recorder()
    track(recorder, [*LINES, *last], 0.0)
    assert recorder.ends == [finished]


FAILING = """
import sys
from pathlib import Path
from primegpt.report import trackers

class Failing:
    place, last_step = "here", -1
    def __init__(self, folder, config):
        self.path = folder.path
    def write(self, step, values, at):
        raise RuntimeError("no network.")
    def close(self, finished):
        (self.path / "closed").write_text(str(finished))
        raise RuntimeError("nor here")

trackers.TRACKERS["failing"] = Failing
trackers.main("failing", sys.argv[1], "0")
"""


def test_one_that_fails_while_it_writes_is_closed_too(folder):
    folder.config_path.write_text(write_toml(Config()), encoding="utf-8")
    command = [sys.executable, "-c", FAILING, str(folder.path)]
    said = subprocess.run(command, input=json.dumps(LINES[0]), capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [f"{'tracked':<10} here", warning("failing", "fails: no network", folder)]
    assert (folder.path / "closed").read_text(encoding="utf-8") == "False"


def test_what_a_tracker_has_already_it_is_not_given_again(folder):
    tracker = TensorBoard(folder, Config())
    tracker.last_step = 6
    track(tracker, LINES, 0.0)
    assert [step for step, _ in read_events(folder)["train/loss"]] == [6, 7, 8, 9]


def test_times_are_those_spent_in_training(folder):
    track(TensorBoard(folder, Config()), LINES, 500.0)
    events = EventAccumulator(str(folder.tensorboard_dir)).Reload().Scalars("train/loss")
    assert [event.wall_time for event in events] == [500.0 + step for step in range(10)]


def test_settings_go_by_their_whole_names():
    settings = {"train": {"seed": 1, "track": [], "patience": None, "average": 0.0}, "extension": None}
    assert _flat(settings) == [("train.seed", "1"), ("train.average", "0.0")]
