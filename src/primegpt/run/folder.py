"""A run on disk: what lies where, who may write to it, and what was measured.

run = RunFolder.create(next_run_path("shakespeare"))
with run.lock():
    run.append_metrics({"step": 0, "val/loss": 4.17})
"""

import json
import math
import os
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from typing import Any, Literal

from primegpt.errors import CheckpointError, RunFolderError, nearest
from primegpt.run import atomic, retention
from primegpt.run.checkpoint import (
    Checkpoint,
    Warn,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    newest_good,
    step_name,
    step_of,
    verify_checkpoint,
)

LOCK_SECONDS = 0.5  # how long a process that is just ending is waited for

Pointer = Literal["best", "last"]

# All that a run consists of, and so all that `overwrite` may delete. config.toml is deleted last, so that a folder
# whose deletion was cut short is still known for what it was.
CONTENTS = (
    *("checkpoints/step-*", "checkpoints/.trash-step-*", "checkpoints/.tmp-*", "best", "last", "metrics.jsonl"),
    *("samples/step-*.txt", "loss.png", "report.html", "data.json", "base", "adapter/*", "tokenizer/*", ".tmp-*"),
    "tensorboard/events.out.tfevents.*",
    "config.toml",
)
LOCK_FILES = (".lock", ".lock.pid")


class RunFolder:
    """One run's folder. It can be copied or renamed as a whole; nothing in it names a place outside."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.followers: list[Callable[[Mapping[str, Any]], None]] = []  # are told each line of metrics.jsonl

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
        """Raise RunFolderError where `create` would, so that one is told before any long preparation."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file", "choose another folder with --out")
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
        if run.config_path.is_file():
            return run
        what = f"{run.path} is not a run: it has no config.toml" if run.path.exists() else f"there is no run {run.path}"
        runs = [str(found) for base in dict.fromkeys([run.path.parent, Path("runs")]) for found in _runs_in(base)]
        raise RunFolderError(what, nearest(str(run.path), runs) if runs else "make one with `primegpt train SOURCE`")

    @property
    def config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def tokenizer_dir(self) -> Path:
        return self.path / "tokenizer"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples_dir(self) -> Path:
        return self.path / "samples"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def base_dir(self) -> Path:
        """Of a fine-tuned run: the run that it started from, weights only."""
        return self.path / "base"

    @property
    def adapter_dir(self) -> Path:
        """Of a run with adapters: these alone, as PEFT reads them."""
        return self.path / "adapter"

    @property
    def data_path(self) -> Path:
        return self.path / "data.json"

    @property
    def loss_png(self) -> Path:
        return self.path / "loss.png"

    @property
    def tensorboard_dir(self) -> Path:
        return self.path / "tensorboard"

    @contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Be the one process that writes to this run, and clear what a dead one left half done.

        The system drops the lock when the process ends, however it ends; the file stays and means nothing. Raises
        RunFolderError when another process has it.
        """
        from filelock import FileLock, Timeout

        lock, owner = FileLock(self.path / ".lock"), self.path / ".lock.pid"
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            what = f"{self.path} is in use by another process{_owner(owner)}"
            raise RunFolderError(what, "wait for it to end, or stop it") from error
        except OSError as error:
            raise RunFolderError(f"could not lock {self.path}: {atomic.reason(error)}", "is it read-only?") from error
        try:
            with suppress(OSError):  # it only serves the message above
                owner.unlink(missing_ok=True)  # a dead process's, or a link to who knows where
                owner.write_text(f"{os.getpid()}\n", encoding="utf-8")
            self._tidy()
            yield
        finally:
            with suppress(OSError):
                owner.unlink(missing_ok=True)
            lock.release()

    def in_use(self) -> bool:
        """Whether a process has the lock at this moment."""
        from filelock import FileLock, Timeout

        if not (self.path / ".lock.pid").exists():  # nobody, or one that died: nothing is made in a folder at rest
            return False
        try:
            with FileLock(self.path / ".lock", timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that cannot be written to
            return False

    def _tidy(self) -> None:
        retention.tidy(self.checkpoints_dir)
        with atomic.io_errors(f"tidy {self.path}"):
            for pattern in (".tmp-*", "tokenizer/.tmp-*", "samples/.tmp-*"):
                for unfinished in self.path.glob(pattern):
                    atomic.remove(unfinished)

    # Metrics: one JSON object a line

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl, there to be read at once; NaN and infinities become null."""
        row = _finite(row)
        line = json.dumps(row, allow_nan=False) + "\n"
        with atomic.io_errors(f"write {self.metrics_path}"), open(self.metrics_path, "ab") as file:
            atomic.perform(file.write, line.encode("ascii"))
            atomic.perform(file.flush)
        for follow in self.followers:
            follow(row)

    def sync_metrics(self) -> None:
        """Wait until metrics.jsonl is on the disk, so that no checkpoint outlives the lines that led to it."""
        with atomic.io_errors(f"write {self.metrics_path}"), open(self.metrics_path, "ab") as file:
            atomic.perform(os.fsync, file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, in order; a line that a crash tore is left out."""
        return [row for _, row in self._metrics_lines()]

    def truncate_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Keep only the rows for which `keep` holds, byte for byte, and no torn line."""
        lines = self._metrics_lines()
        kept = b"".join(line for line, row in lines if keep(row))
        if self.metrics_path.exists():
            atomic.write_bytes_atomic(self.metrics_path, kept)

    def _metrics_lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        if not self.metrics_path.exists():
            return []
        with atomic.io_errors(f"read {self.metrics_path}"):
            lines = self.metrics_path.read_bytes().split(b"\n")
        rows = []
        for line in lines:
            with suppress(ValueError):  # torn, or empty
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append((line + b"\n", row))
        return rows

    # Checkpoints

    def discard(self, step: int) -> None:
        """Delete the checkpoint of `step`, whatever else there is: it turned out to be worth nothing."""
        with atomic.io_errors(f"delete step {step} in {self.checkpoints_dir}"):
            retention.delete(self.checkpoints_dir / step_name(step))
        for newest in list(list_checkpoints(self.checkpoints_dir))[-1:]:
            self.point("last", newest)

    def point(self, name: Pointer, step: int) -> None:
        """Let `best` or `last` name the checkpoint of `step`. A small text file: links do not work everywhere."""
        atomic.write_text_atomic(self.path / name, f"{step_name(step)}\n")

    def pointed(self, name: Pointer) -> int | None:
        """The step that `best` or `last` names; None if there is no such file, or nothing sensible in it."""
        try:
            text = (self.path / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        return step_of(Path(text.strip()))

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

    def load_checkpoint(self, which: int | str, warn: Warn, names: Collection[str] | None = None) -> Checkpoint:
        """Read and verify a checkpoint, or the files `names` of it, to use its weights.

        A damaged "best" or "last" falls back to the newest good one with a line to `warn`; a damaged step that was
        asked for by number raises CheckpointError.
        """
        path = self.checkpoint_path(which)
        if which not in ("best", "last"):
            return load_checkpoint(path, names)
        best = self.pointed("best")
        if which == "best" and best is not None:
            try:
                return load_checkpoint(self.checkpoints_dir / step_name(best), names)
            except CheckpointError as error:
                warn(f"{error.what}; using the last checkpoint instead of the best")
        newest = load_newest(self.checkpoints_dir, warn, names, resumable=False)
        assert newest is not None  # checkpoint_path found some
        return newest

    def verified_checkpoint(self, which: int | str, warn: Warn) -> Path:
        """Where a checkpoint lies whose every byte was just verified, for reading it piece by piece.

        Falls back, and raises, as `load_checkpoint` does.
        """
        path = self.checkpoint_path(which)
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            if which not in ("best", "last"):
                raise
            newest = newest_good(self.checkpoints_dir, lambda message: None, resumable=False)
            assert newest is not None  # checkpoint_path found some
            warn(f"{error.what}; using {newest.name} instead")
            return newest
        return path

    def prune(self, keep_last: int = 3, keep_milestones: bool = False) -> None:
        """Delete all checkpoints but the last few and the best; milestones may keep their weights."""
        assert keep_last >= 1
        steps = list(list_checkpoints(self.checkpoints_dir))
        keep, best = set(steps[-keep_last:]), self.pointed("best")
        if best is not None:
            keep.add(best)
        retention.prune(self.checkpoints_dir, keep, retention.milestones(steps) if keep_milestones else ())


class WatchedRun(RunFolder):
    """A run as those processes see it that only compute: one other writes, and what these would write is dropped."""

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        pass

    def sync_metrics(self) -> None:
        pass

    def truncate_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        pass

    def discard(self, step: int) -> None:
        pass

    def point(self, name: Pointer, step: int) -> None:
        pass

    def prune(self, keep_last: int = 3, keep_milestones: bool = False) -> None:
        pass


def next_run_path(name: str, base: Path = Path("runs")) -> Path:
    """`base/NAME-N` with the smallest N from 1 that is free. Nothing is made."""
    numbered = (Path(base) / f"{name}-{number}" for number in count(1))
    return next(path for path in numbered if not os.path.lexists(path))


def latest_run(base: Path = Path("runs")) -> Path:
    """The run in `base` that was last written to. Raises RunFolderError if there is none."""
    runs = _runs_in(Path(base))
    if not runs:
        raise RunFolderError(f"there is no run in {base}", "make one with `primegpt train SOURCE`, or name its folder")
    return max(runs, key=_last_written)


def _runs_in(base: Path) -> list[Path]:
    return [path for path in sorted(base.glob("*")) if (path / "config.toml").is_file()]


def _last_written(run: Path) -> float:
    files = [run / "config.toml", run / "metrics.jsonl"]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


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


def _owner(file: Path) -> str:
    try:
        return f" (pid {int(file.read_text(encoding='utf-8'))})"
    except (OSError, ValueError):
        return ""


def _parse_step(which: int | str) -> int | None:
    digits = str(which).removeprefix("step-")
    return int(digits) if digits.isdecimal() else None


def _finite(value: Any) -> Any:
    """`value` with null for every NaN and infinity in it, which JSON cannot spell."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
