"""What is deleted, what is made light, and what never goes."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from primegpt.errors import PrimegptError
from primegpt.run import atomic
from primegpt.run.checkpoint import (
    commit_evaluation,
    list_checkpoints,
    load_checkpoint,
    newest_good,
    read_evaluation,
    verify_checkpoint,
)
from primegpt.run.saving import milestones, prune, save_checkpoint, tidy


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        tensors = {"model": {"w": torch.full((3,), step)}, "optimizer": {"m": torch.full((9,), step)}}
        save_checkpoint(folder, step, {**tensors, "ema": {"w": torch.zeros(2)}}, {"step": step})


def damage(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


def fail(message: str) -> None:
    raise AssertionError(message)


def test_milestones_are_spaced_evenly_on_a_log_scale() -> None:
    assert milestones(range(1001)) == {0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}
    assert milestones(range(0, 12_000, 300)) == {0, 300, 600, 1200, 2100, 5100, 10_200}
    assert milestones([]) == set()


@given(st.sets(st.integers(0, 10**6), max_size=60), st.integers(0, 5))
def test_milestones_do_not_depend_on_when_the_others_go(steps: set[int], last: int) -> None:
    """Pruning after every save keeps the same ones as pruning once at the end."""
    kept: list[int] = []
    for step in sorted(steps):
        kept.append(step)
        kept = sorted(milestones(kept) | set(kept[-1 - last :]))
    assert milestones(kept) == milestones(steps)


def test_only_what_is_asked_for_stays(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    prune(tmp_path, {2, 3, 99})
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "step-000002", "step-000003"]


def test_a_milestone_keeps_its_weights_and_its_evaluation(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    commit_evaluation(tmp_path / "step-000001", {"val/loss": 4.0})
    prune(tmp_path, {3}, slim={1})
    assert sorted(os.listdir(tmp_path)) == ["step-000001", "step-000003"]
    light = tmp_path / "step-000001"
    assert sorted(os.listdir(light)) == ["MANIFEST.json", "evaluation.json", "model.safetensors", "state.json"]
    assert verify_checkpoint(light).resumable is False
    checkpoint = load_checkpoint(light)
    assert (checkpoint.step, checkpoint.state, checkpoint.resumable) == (1, {"step": 1}, False)
    assert checkpoint.tensors["model"]["w"].tolist() == [1, 1, 1]
    assert read_evaluation(light, fail) == {"val/loss": 4.0}
    before = light.stat().st_mtime_ns
    prune(tmp_path, {3}, slim={1})
    assert light.stat().st_mtime_ns == before  # not written again


def test_the_last_whole_one_is_never_deleted(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4)
    damage(tmp_path / "step-000003")
    damage(tmp_path / "step-000004")
    prune(tmp_path, {4}, slim={2})
    assert list(list_checkpoints(tmp_path)) == [2, 4]
    assert newest_good(tmp_path, lambda message: None) == tmp_path / "step-000002"  # and not made light either
    damage(tmp_path / "step-000002")
    prune(tmp_path, set())
    assert list(list_checkpoints(tmp_path)) == [2, 4]  # none is whole: nothing goes


def test_a_damaged_milestone_is_left_as_it_is(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    damage(tmp_path / "step-000001")
    prune(tmp_path, {2}, slim={1})
    assert sorted(os.listdir(tmp_path / "step-000001")) == sorted(os.listdir(tmp_path / "step-000002"))
    assert sorted(os.listdir(tmp_path)) == ["step-000001", "step-000002"]


def test_a_link_is_deleted_and_its_target_kept(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere", 1)
    save(tmp_path, 2)
    try:
        (tmp_path / "step-000001").symlink_to(tmp_path / "elsewhere" / "step-000001")
    except OSError:
        pytest.skip("this system does not let us make symbolic links")
    prune(tmp_path, {2})
    assert list(list_checkpoints(tmp_path)) == [2]
    verify_checkpoint(tmp_path / "elsewhere" / "step-000001")


def test_a_disk_that_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    save(tmp_path, 1, 2)
    monkeypatch.setattr(atomic, "perform", perform)
    with pytest.raises(PrimegptError, match=r"could not delete old checkpoints in .*: Permission denied"):
        prune(tmp_path, {2})
    assert list(list_checkpoints(tmp_path)) == [1, 2]


def test_tidying_leaves_what_is_not_ours(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "step-000001" / ".tmp-evaluation.json-7").write_text("{", encoding="utf-8")
    (tmp_path / ".trash-step-notes").write_text("mine", encoding="utf-8")
    (tmp_path / ".gitignore").write_text("*", encoding="utf-8")
    tidy(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".gitignore", ".trash-step-notes", "step-000001"]
    assert sorted(os.listdir(tmp_path / "step-000001"))[0] == "MANIFEST.json"
    tidy(tmp_path / "nowhere")
