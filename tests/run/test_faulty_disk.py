"""Let the n-th operation on the disk fail, for every n, in every way: a whole checkpoint is always left.

All that changes the disk goes through `atomic.perform`, which these tests replace.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from primegpt.errors import PrimegptError
from primegpt.run import atomic
from primegpt.run.checkpoint import commit_evaluation, list_checkpoints, load_checkpoint, newest_good, read_evaluation
from primegpt.run.saving import prune, save_checkpoint, tidy


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug is only pulled in play, so no real disk has to be waited for."""

    def fsync(descriptor: int) -> None: ...

    monkeypatch.setattr(os, "fsync", fsync)


class Crash(BaseException):
    """The process is gone: nothing after this runs, so nothing may catch it."""


class FaultyDisk:
    """Performs operations until the `fail_at`-th, which fails as `fault` says; writes and deletions fail half done.

    "once": an OSError, then all is well. "for good": every later operation fails too. "crash": the process ends there.
    "power": as crash, and all that was not synced is lost: names vanish or come back, contents are cut short.
    """

    def __init__(self, fault: str, fail_at: int, number: int = errno.ENOSPC) -> None:
        self.fault, self.fail_at, self.number = fault, fail_at, number
        self.calls = 0
        self.unsynced_names: list[tuple[int, Callable[[], None]]] = []  # (folder's inode, how to undo)
        self.unsynced_contents: dict[int, Path] = {}  # by inode

    @property
    def failed(self) -> bool:
        return self.calls >= self.fail_at

    def perform(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == self.fail_at or (self.failed and self.fault != "once"):
            self._do_half(operation, args)
            raise OSError(self.number, os.strerror(self.number)) if self.fault in ("once", "for good") else Crash
        observe = getattr(self, f"observe_{operation.__name__.strip('_')}", None)
        return observe(operation, *args, **kwargs) if observe else operation(*args, **kwargs)

    def _do_half(self, operation: Any, args: Any) -> None:
        if operation.__name__ == "write":
            operation(args[0][: len(args[0]) // 2])
        if operation.__name__ == "rmtree":
            for path in sorted(args[0].iterdir())[-1:]:
                path.unlink()

    def observe_create(self, operation: Any, path: Path) -> Any:
        file = operation(path)
        inode = path.stat().st_ino
        self.unsynced_contents[inode] = path.parent
        self._undoable(path, lambda: self._find(inode).unlink())
        return file

    def observe_mkdir(self, operation: Any, *args: Any, **kwargs: Any) -> None:
        path = args[0] if args else operation.__self__
        operation(*args, **kwargs)
        self._undoable(path, lambda: shutil.rmtree(path, ignore_errors=True))

    def observe_fsync(self, operation: Any, descriptor: int) -> None:
        operation(descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self.unsynced_names = [(folder, undo) for folder, undo in self.unsynced_names if folder != status.st_ino]
        else:
            self.unsynced_contents.pop(status.st_ino, None)

    def observe_rename(self, operation: Any, source: Path, target: Path) -> None:
        operation(source, target)
        self._undoable(target, lambda: os.rename(target, source))

    def observe_replace(self, operation: Any, source: Path, target: Path) -> None:
        old = target.read_bytes() if target.exists() else None

        def undo() -> None:
            os.rename(target, source)
            if old is not None:
                target.write_bytes(old)

        operation(source, target)
        self._undoable(target, undo)

    def _undoable(self, path: Path, undo: Callable[[], Any]) -> None:
        self.unsynced_names.append((path.parent.stat().st_ino, undo))

    def pull_the_plug(self, root: Path) -> None:
        self.root = root
        for inode in self.unsynced_contents:
            with suppress(StopIteration):
                path = self._find(inode)
                os.truncate(path, path.stat().st_size // 2)
        for _, undo in reversed(self.unsynced_names):
            with suppress(OSError, StopIteration):
                undo()

    def _find(self, inode: int) -> Path:
        return next(path for path in self.root.rglob("*") if path.stat().st_ino == inode)


FAULTS = ["once", "for good", "crash", pytest.param("power", marks=pytest.mark.skipif(os.name == "nt", reason="POSIX"))]


def sweep(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    prepare: Callable[[Path], None],
    act: Callable[[Path], Any],
    check: Callable[[Path, bool, Exception | None], None],
) -> None:
    """Fail the n-th operation of `act`, n = 1, 2, ... until none is left, and `check` after each, tidied or not."""
    for fail_at in range(1, 200):
        folder = tmp_path / f"{fail_at}" / "checkpoints"
        folder.mkdir(parents=True)
        prepare(folder)
        disk = FaultyDisk(fault, fail_at, [errno.ENOSPC, errno.EIO][fail_at % 2])
        error = None
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "perform", disk.perform)
            try:
                act(folder)
                done = True
            except (PrimegptError, Crash) as raised:
                done, error = False, raised if isinstance(raised, PrimegptError) else None
        if fault == "power":
            disk.pull_the_plug(folder)
        check(folder, done, error)
        tidy(folder)
        check(folder, done, error)
        assert not list(folder.rglob(".*"))
        if not disk.failed:
            assert done
            assert fail_at > 5
            return
    raise AssertionError("it never finished")


def save(folder: Path, step: int, version: str) -> Path:
    tensors = {stem: {"w": torch.full((5,), float(len(version)))} for stem in ("model", "optimizer")}
    return save_checkpoint(folder, step, tensors, {"version": version})


def version_of(path: Path) -> str:
    checkpoint = load_checkpoint(path)
    assert {float(named["w"].mean()) for named in checkpoint.tensors.values()} == {
        float(len(checkpoint.state["version"]))
    }
    return checkpoint.state["version"]


def quiet(message: str) -> None:
    raise AssertionError(f"nothing should be damaged: {message}")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("before", [[], [2], [1, 2, 3]])
def test_every_failure_of_a_save_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, before: list[int]
) -> None:
    """Saving step 2: as the first checkpoint, in place of the only one, in place of one among several."""

    def prepare(folder: Path) -> None:
        for step in before:
            save(folder, step, "old")

    def check(folder: Path, done: bool, error: Exception | None) -> None:
        existing = list_checkpoints(folder)
        versions = {step: version_of(path) for step, path in existing.items()}
        old = dict.fromkeys(before, "old")
        new = {**old, 2: "newer"}
        assert versions in ([new] if done else [old, new])
        good = newest_good(folder, quiet)
        assert good == (existing[max(existing)] if existing else None)
        if fault == "once":  # and the process lives on: it has put everything back itself
            assert not list(folder.glob(".tmp-*"))
            assert all(path.name.startswith("step-") for path in existing.values())
        if error:
            last = f"last good is step {max(versions)}" if versions else "no earlier checkpoint is whole"
            assert "could not save step 2 in" in str(error)
            assert str(error).endswith((f"No space left on device; {last}", f"Input/output error; {last}"))
            assert getattr(error, "exit_code", None) == 1
        else:
            assert done or fault in ("crash", "power")

    sweep(tmp_path, monkeypatch, fault, prepare, lambda folder: save(folder, 2, "newer"), check)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_save_into_a_folder_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def check(folder: Path, done: bool, error: Exception | None) -> None:
        good = newest_good(folder, quiet)
        assert good is not None or not done

    sweep(tmp_path, monkeypatch, fault, Path.rmdir, lambda folder: save(folder, 2, "new"), check)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_failure_of_pruning_leaves_what_was_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def prepare(folder: Path) -> None:
        for step in (1, 2, 4):
            commit_evaluation(save(folder, step, "kept"), {"val/loss": step})

    def check(folder: Path, done: bool, error: Exception | None) -> None:
        assert newest_good(folder, quiet) == folder / "step-000004"
        existing = list_checkpoints(folder)
        assert {step: version_of(existing[step]) for step in (1, 4)} == {1: "kept", 4: "kept"}
        assert read_evaluation(existing[1], quiet) == {"val/loss": 1}
        for path in existing.values():
            assert version_of(path) == "kept"
        if done and fault != "power":
            assert [step for step, path in existing.items() if path.name.startswith("step")] == [1, 4]
        if error:
            assert "could not delete old checkpoints in" in str(error)

    sweep(tmp_path, monkeypatch, fault, prepare, lambda folder: prune(folder, {4}, slim={1}), check)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("old", [None, {"val/loss": 2.0}])
def test_every_failure_of_a_committed_evaluation_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, old: dict[str, float] | None
) -> None:
    new = {"val/loss": 1.0}

    def prepare(folder: Path) -> None:
        path = save(folder, 1, "only")
        if old:
            commit_evaluation(path, old)

    def check(folder: Path, done: bool, error: Exception | None) -> None:
        path = newest_good(folder, quiet)
        assert path is not None
        assert read_evaluation(path, quiet) in ([new] if done else [old, new])

    sweep(tmp_path, monkeypatch, fault, prepare, lambda folder: commit_evaluation(folder / "step-000001", new), check)


@pytest.mark.parametrize("fault", ["for good", "crash"])
def test_every_failure_of_tidying_can_be_tidied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """What a crash left: a half-built step 3, a step 2 whose replacement never came, a step 1 half deleted."""

    def prepare(folder: Path) -> None:
        for step in (1, 2, 3):
            save(folder, step, "old")
        (folder / "step-000003").rename(folder / ".tmp-step-000003-7")
        (folder / "step-000002").rename(folder / ".trash-step-000002-7")
        (folder / "step-000001").rename(folder / ".trash-step-000001-7")
        (folder / ".trash-step-000001-7" / "MANIFEST.json").unlink()

    def check(folder: Path, done: bool, error: Exception | None) -> None:
        good = newest_good(folder, quiet)
        assert good is not None
        assert version_of(good) == "old"
        assert list(list_checkpoints(folder)) == [2]

    for fail_at in range(1, 20):
        folder = tmp_path / str(fail_at)
        prepare(folder)
        disk = FaultyDisk(fault, fail_at)
        with monkeypatch.context() as patch, suppress(PrimegptError, Crash):
            patch.setattr(atomic, "perform", disk.perform)
            tidy(folder)
        check(folder, False, None)
        tidy(folder)
        check(folder, True, None)
        assert os.listdir(folder) == ["step-000002"]
    assert not disk.failed
