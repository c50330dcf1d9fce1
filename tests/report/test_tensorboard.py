"""What TensorBoard reads must be what metrics.jsonl holds, after any number of sessions."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from primegpt.config import resolve
from primegpt.errors import PrimegptError, UsageError
from primegpt.jobs.training import train
from primegpt.report import tensorboard
from primegpt.report.tensorboard import mirrored
from primegpt.run.folder import RunFolder


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def line(step: int, **values: float | None) -> dict[str, float | None]:
    return {"step": step, "seconds": float(step), "train/loss": 1 / (step + 1), **values}


def read_events(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """As TensorBoard itself reads them; every event it finds, not a sample."""
    events = EventAccumulator(str(folder.tensorboard_dir), size_guidance={"scalars": 0}).Reload()
    return {key: [(event.step, event.value) for event in events.Scalars(key)] for key in events.Tags()["scalars"]}


def expected(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    found = {}
    for row in folder.read_metrics():
        for key in row.keys() - {"step", "final/step"}:
            if row[key] is not None:
                found.setdefault(key, []).append((row["step"], pytest.approx(row[key], rel=1e-6)))  # stored in fp32
    return found


def test_every_value_is_there_under_its_own_name(folder):
    with mirrored(folder):
        for step in range(5):
            folder.append_metrics(line(step, **{"val/loss": 2.0 * step, "grad_norm": None, "mfu": float("nan")}))
        assert read_events(folder)["train/loss"][-1] == (4, pytest.approx(0.2))  # at once, for who looks on
        folder.append_metrics({"step": 4, "final/step": 3, "final/val/loss": 1.5})
    folder.append_metrics(line(5))  # no longer followed
    events = read_events(folder)
    assert set(events) == {"seconds", "train/loss", "val/loss", "final/val/loss"}
    assert [step for step, _ in events["train/loss"]] == list(range(5))
    assert events["val/loss"] == [(step, 2.0 * step) for step in range(5)]


def test_a_resumed_session_leaves_no_trace_of_what_was_undone(folder):
    with mirrored(folder):
        for step in range(10):
            folder.append_metrics(line(step, lr=0.1))
    folder.truncate_metrics(lambda row: row["step"] <= 4)  # as a resume from a checkpoint at step 4 does
    with mirrored(folder):
        for step in range(5, 12):
            folder.append_metrics(line(step, lr=0.2))
    assert read_events(folder) == expected(folder)
    assert len(list(folder.tensorboard_dir.iterdir())) == 1


def test_times_are_those_spent_in_training(folder):
    for _ in range(2):
        with mirrored(folder):
            folder.append_metrics(line(100))
        folder.append_metrics(line(50))
    events = EventAccumulator(str(folder.tensorboard_dir)).Reload().Scalars("train/loss")
    assert [round(event.wall_time - events[0].wall_time) for event in events] == [0, -50, 0]


def test_without_being_asked_nothing_is_written(folder):
    with mirrored(folder, wanted=False):
        folder.append_metrics(line(1))
    assert not folder.tensorboard_dir.exists()


def test_an_overwritten_run_takes_its_events_along(folder):
    folder.config_path.write_text("", encoding="utf-8")
    with mirrored(folder):
        folder.append_metrics(line(1))
    again = RunFolder.create(folder.path, overwrite=True)
    assert not list(again.tensorboard_dir.glob("*"))


def test_a_missing_package_is_told_before_anything_is_read_or_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    config = resolve({"data": {"sources": [str(tmp_path / "nowhere.txt")]}, "train": {"tensorboard": True}})
    with pytest.raises(UsageError, match=r"needs the package tensorboard.*pip install 'primegpt\[track\]'"):
        train(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_is_one_line(folder):
    folder.tensorboard_dir.write_text("a file", encoding="utf-8")
    with mirrored(folder), pytest.raises(PrimegptError, match="could not write"):
        folder.append_metrics(line(1))
