"""A run on disk: how it is made, opened and locked, and its checkpoints by name. files.py has its other files.

run = RunFolder.create(next_run_path("shakespeare"))
with run.lock():
    run.append_metrics({"step": 0, "val/loss": 4.17})
"""

import os
import secrets
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from typing import Any, Literal

from primegpt.errors import CheckpointError, MismatchError, RunFolderError, nearest, quoted
from primegpt.run import atomic, saving
from primegpt.run.checkpoint import (
    EVALUATION,
    MANIFEST,
    Checkpoint,
    fingerprint_of,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    read_evaluation,
    step_name,
    step_of,
)
from primegpt.run.files import RunFiles
from primegpt.run.lock import LOCK_FILES
from primegpt.terminal import Say, silent

Pointer = Literal["best", "last"]

# All that a run consists of, and so all that `overwrite` may delete. config.toml is deleted last, so that a folder
# whose deletion was cut short is still known for what it was.
CONTENTS = (
    *("checkpoints/step-*", "checkpoints/.trash-step-*", "checkpoints/.tmp-*", "best", "last", MANIFEST),
    "metrics.jsonl",
    *("samples/step-*.txt", "loss.png", "report.html", "data.json", "sessions.jsonl"),
    *("prompts.jsonl", "extension.py", "base"),
    *("adapter/*", "tokenizer/*", "carried/*", ".tmp-*"),
    "tensorboard/events.out.tfevents.*",
    "config.toml",
)


def refuse_unwritable(path: Path, what: str) -> None:
    """Raise RunFolderError where no folder `path` can be written, so that it is known before the work that fills it."""
    with atomic.io_errors(f"make a {what} at {path}", RunFolderError):  # a name may be too long to ask
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file", "choose another folder with --out")
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            why = "may not be written to" if there.is_dir() else "is a file"
            raise RunFolderError(f"{there} {why}, so there can be no {what} {path}", "choose another --out")


class RunFolder(RunFiles):
    """One run's folder. It can be copied or renamed as a whole; nothing in it names a place outside."""

    @classmethod
    def create(cls, path: Path, overwrite: bool = False) -> "RunFolder":
        """Make a new run at `path`. Raises RunFolderError if something else is there.

        `overwrite` deletes a run that is there, file by file: what a run does not consist of stays.
        """
        run = cls(path)
        run.refuse_unless_free(overwrite)
        with atomic.io_errors(f"create the run {run.path}", RunFolderError):
            for folder in (run.path, run.checkpoints_dir, run.samples_dir):
                atomic.make_folder(folder)
        if overwrite:
            with run.lock(), atomic.io_errors(f"overwrite {run.path}"):
                run._delete_contents()
        return run

    def refuse_unless_free(self, overwrite: bool = False) -> None:
        """Raise RunFolderError where `create` would, so that it is known before any long preparation."""
        refuse_unwritable(self.path, "run")
        if _holds_run(self.path):
            if not overwrite:
                remedy = f"continue it with `--resume {self.path}`, or replace it with `--overwrite`"
                raise RunFolderError(f"{self.path} already holds a run", remedy)
            self.refuse_if_in_use()
        elif self.config_path.exists() or _foreign_entries(self.path):
            raise RunFolderError(f"{self.path} is not empty and holds no run", "choose another folder with --out")

    def refuse_if_in_use(self) -> None:
        """Raise RunFolderError if another process writes to this run."""
        with self.lock():
            pass

    def _delete_contents(self) -> None:
        for pattern in CONTENTS:
            for path in self.path.glob(pattern):
                atomic.remove(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The run that is at `path`. Raises RunFolderError naming the nearest run there is."""
        run = cls(path)
        with atomic.io_errors(f"open the run {run.path}", RunFolderError):
            if run.config_path.is_file():
                return run
        what = f"{run.path} is not a run: it has no config.toml" if run.path.exists() else f"there is no run {run.path}"
        if list_checkpoints(run.checkpoints_dir):
            raise RunFolderError(what, "put it back: each checkpoint has it, as `config` in state.json")
        runs = [str(found) for base in dict.fromkeys([run.path.parent, Path("runs")]) for found in _runs_in(base)]
        raise RunFolderError(what, nearest(str(run.path), runs) if runs else "make one with `primegpt train SOURCE`")

    @contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Be the one process that writes to this run, and clear what a dead one left half done. As `RunLock.hold`."""
        with self.run_lock.hold():
            self._tidy()
            yield

    def in_use(self) -> bool:
        """Whether a process has the lock at this moment."""
        return self.run_lock.is_held()

    def was_killed(self) -> bool:
        """Whether the last process that wrote to it had no time to say that it ends, and none writes now."""
        return self.run_lock.was_left() and not self.in_use()

    def _tidy(self) -> None:
        saving.tidy(self.checkpoints_dir)
        with atomic.io_errors(f"tidy {self.path}"):
            for pattern in (".tmp-*", "tokenizer/.tmp-*", "samples/.tmp-*"):
                for unfinished in self.path.glob(pattern):
                    atomic.remove(unfinished)

    def discard(self, step: int) -> None:
        """Delete the checkpoint of `step`, whatever else there is: it turned out to be worth nothing."""
        self.run_lock.require()
        with atomic.io_errors(f"delete step {step} in {self.checkpoints_dir}"):
            saving.delete(self.checkpoints_dir / step_name(step))
        left = list_checkpoints(self.checkpoints_dir).items()
        for newest in [step for step, path in left if not saving.is_weights_only(path)][-1:]:
            self.point("last", newest)

    def undo_after(self, step: int) -> None:
        """Delete the weights that were kept after `step`, from which a run goes on: it comes to others of its own."""
        self.run_lock.require()
        for later, path in list_checkpoints(self.checkpoints_dir).items():
            if later > step and saving.is_weights_only(path):
                with atomic.io_errors(f"delete step {later} in {self.checkpoints_dir}"):
                    saving.delete(path)

    def point(self, name: Pointer, step: int) -> None:
        """Let `best` or `last` name the checkpoint of `step`. A small text file: links do not work everywhere."""
        self.run_lock.require()
        atomic.write_text_atomic(self.path / name, f"{step_name(step)}\n")

    def pointed(self, name: Pointer) -> int | None:
        """The step that `best` or `last` names; None if there is no such file, or nothing sensible in it."""
        try:
            text = (self.path / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        return step_of(Path(text.strip()))

    def best_step(self, warn: Say, newest: Checkpoint | None = None) -> int | None:
        """The best evaluation's step, as the `newest` checkpoint has counted; as `best` says where none has.

        A line to `warn` where the two differ.
        """
        newest = newest or self.load_newest(warn, (), resumable=False)
        pointed, stopping = self.pointed("best"), newest and newest.state.get("train", {}).get("early_stopping")
        if not newest or not stopping:
            return pointed
        best, loss = stopping["best_step"], stopping["best_loss"]
        last = read_evaluation(newest.path, silent)
        if last and (loss is None or last["val/loss"] < loss):
            best = newest.step
        if best == pointed or (pointed == newest.step and not last and (newest.path / EVALUATION).exists()):
            return pointed  # in the second case it alone knows: that evaluation is damaged
        if best is not None:
            was = "is missing or damaged" if pointed is None else f"names {step_name(pointed)}"
            warn(f"{self.path / 'best'} {was}, but the best evaluation was that of {step_name(best)}, which is used")
        return best

    def checkpoint_path(self, which: int | str = "best") -> Path:
        """Where "best" (or "last" without one), "last" or the checkpoint of a step lies, unverified.

        Raises RunFolderError naming the steps there are. "last" is the highest of them, whatever the file says.
        """
        existing = list_checkpoints(self.checkpoints_dir)
        if not existing:
            raise RunFolderError(
                f"{self.path} has no checkpoint yet", f"train it: `primegpt train --resume {self.path}`"
            )
        step = _parse_step(which)
        if which in ("best", "last"):
            best = self.pointed("best") if which == "best" else None
            step = best if best in existing else max(existing)
        if step not in existing:
            steps = ", ".join(map(str, existing))
            raise RunFolderError(f"{self.path} has no checkpoint {which!r}", f"ask for best, last or a step: {steps}")
        return existing[step]

    def load_checkpoint(
        self, which: int | str, warn: Say, names: Collection[str] | None = None, *, lazily: bool = False
    ) -> Checkpoint:
        """Read and verify a checkpoint, or the files `names` of it, to use its weights.

        `lazily` all files are verified, and tensors are read when asked for. A "best" or "last" that is damaged, or
        another run's, falls back to the newest good one with a line to `warn`; a step that was asked for by number
        raises CheckpointError.
        """
        path, run = self.checkpoint_path(which), self.identity
        if which not in ("best", "last"):
            return load_checkpoint(path, names, lazily=lazily, run=run)
        best = self.best_step(warn) if which == "best" else None
        if best is not None:
            try:
                return load_checkpoint(self.checkpoints_dir / step_name(best), names, lazily=lazily, run=run)
            except CheckpointError as error:
                warn(f"{error.what}; using the last checkpoint instead of the best")
        newest = self.load_newest(warn, names, resumable=False, lazily=lazily)
        assert newest is not None  # checkpoint_path found some
        return newest

    def load_newest(
        self, warn: Say, names: Collection[str] | None = None, *, resumable: bool = True, lazily: bool = False
    ) -> Checkpoint | None:
        """The newest checkpoint of this run that is whole, as the function of this name has it; None without any."""
        run = self.identity
        return load_newest(self.checkpoints_dir, warn, names, resumable=resumable, lazily=lazily, run=run)

    def base(self, fingerprint: str = "") -> "RunFolder":
        """The run in base/. Raises RunFolderError if it is missing, MismatchError if it is another one."""
        if not self.base_dir.is_dir():
            what = f"{self.base_dir} is missing: the model that this run was fine-tuned from"
            raise RunFolderError(what, "put it back from a copy of the run")
        base = RunFolder.open(self.base_dir)
        if fingerprint and (found := fingerprint_of(base.checkpoint_path())) != fingerprint:
            what = f"{self.base_dir} is not what this run was fine-tuned from: its fingerprint is {found}"
            raise MismatchError(f"{what}, not {fingerprint}", "put it back from a copy of the run")
        return base

    def prune(self, keep_last: int = 3, keep_milestones: bool = False) -> None:
        """Delete all checkpoints but the last few to go on from and the best; milestones may keep their weights."""
        assert keep_last >= 1
        existing = list_checkpoints(self.checkpoints_dir)
        whole = [step for step, path in existing.items() if not saving.is_weights_only(path)]
        keep, best = set(whole[-keep_last:]), self.pointed("best")
        if best is not None:
            keep.add(best)
        saving.prune(self.checkpoints_dir, keep, saving.milestones(existing) if keep_milestones else ())


class WatchedRun(RunFolder):
    """A run as those processes see it that only compute: one other writes, and what these would write is dropped."""

    def append_metrics(self, row: Mapping[str, object]) -> None:
        pass

    def sync_metrics(self) -> None:
        pass

    def truncate_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        pass

    def seal(self, metrics: bytes | None = None) -> None:
        pass

    def discard(self, step: int) -> None:
        pass

    def undo_after(self, step: int) -> None:
        pass

    def point(self, name: Pointer, step: int) -> None:
        pass

    def prune(self, keep_last: int = 3, keep_milestones: bool = False) -> None:
        pass


def new_identity() -> str:
    """A name for a run that no other has; it says nothing, so that a folder can be renamed and copied."""
    return secrets.token_hex(8)


def next_run_path(name: str, base: Path = Path("runs")) -> Path:
    """`base/NAME-N` with the smallest N from 1 that is free. Nothing is made."""
    numbered = (Path(base) / f"{name}-{number}" for number in count(1))
    return next(path for path in numbered if not os.path.lexists(path))


def latest_run(base: Path = Path("runs")) -> Path:
    """The run in `base` that was last written to. Raises RunFolderError if there is none."""
    runs = _runs_in(Path(base))
    if not runs:
        raise RunFolderError(f"there is no run in {base}", "make one with `primegpt train SOURCE`, or name its folder")
    return max(runs, key=lambda path: RunFolder(path).last_written())


def _runs_in(base: Path) -> list[Path]:
    return [path for path in sorted(base.glob("*")) if (path / "config.toml").is_file()]


def _holds_run(path: Path) -> bool:
    """Whether there is a run to lose at `path`; a config.toml on its own may be anybody's."""
    beside_config = any((path / name).exists() for name in ("checkpoints", "metrics.jsonl", "tokenizer"))
    if (path / "config.toml").is_file() and beside_config:
        return True
    return bool(list_checkpoints(path / "checkpoints")) and not _foreign_entries(path)


def _foreign_entries(path: Path) -> list[str]:
    ours = [pattern.split("/")[0] for pattern in CONTENTS] + list(LOCK_FILES)
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in ours)]


def _parse_step(which: int | str) -> int | None:
    digits = quoted(which) if isinstance(which, int) else which.removeprefix("step-")
    return int(digits) if digits.isdecimal() and len(digits) < 19 else None
