"""The files of a run outside its checkpoints: where each lies, the lines of metrics.jsonl, and the seal of them.

metrics.jsonl has one JSON object a line, with the step that it is about. MANIFEST.json has the size and the hash of it,
of data.json and of the samples, so that damage shows.
"""

import json
import os
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from primegpt.config import read_toml
from primegpt.errors import CheckpointError
from primegpt.run import atomic
from primegpt.run.atomic import FileRecord, Growing, read_sealed, record_of, seal
from primegpt.run.checkpoint import MANIFEST, list_checkpoints, step_name
from primegpt.run.lock import RunLock
from primegpt.terminal import finite

# What MANIFEST.json has the hashes of, beside those in the checkpoints.
SEALED = ("metrics.jsonl", "data.json", "prompts.jsonl", "extension.py", "samples/step-*.txt", "carried/*")
MOST_STEPS = 2**53  # beyond that a number is no count of steps


EARLY = "early/"  # before the names of what an evaluation before the first regular one has found, on a part of the sets

# What a line of training always has; what else it has are figures of its objective.
TRAIN_KEYS = frozenset(
    {"step", "tokens", "seconds", "train/loss", "lr", "grad_norm", "tokens_per_sec", "mfu", "memory_mb"}
)


class Lines(NamedTuple):
    """What can be read of metrics.jsonl: each line as it stands, with its values."""

    read: list[tuple[bytes, dict[str, Any]]]
    lost: int
    """Lines that are no longer what was written; the last one, which a crash may have torn, does not count."""


def lines_of(data: bytes) -> Lines:
    """The lines in the bytes of metrics.jsonl."""
    *whole, last = data.split(b"\n")
    rows = [(line + b"\n", _row_in(line)) for line in [*whole, last]]
    lost = sum(row is None and line != b"\n" for line, row in rows[:-1])
    return Lines([(line, row) for line, row in rows if row is not None], lost)


def _row_in(line: bytes) -> dict[str, Any] | None:
    try:
        row = finite(json.loads(line))
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return row if type(step) is int and 0 <= step < MOST_STEPS else None


def line_of(row: Mapping[str, Any]) -> bytes:
    """A row as a line; NaN and infinities become null."""
    return (json.dumps(finite(row), allow_nan=False) + "\n").encode("ascii")


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """What an objective has measured of the steps of a line of training; of other lines, nothing."""
    return {key: value for key, value in row.items() if key not in TRAIN_KEYS} if "lr" in row else {}


class RunFiles:
    """What lies in the folder of a run, where, and whether it is as it was written."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.followers: list[Callable[[Mapping[str, Any]], None]] = []  # get each line of metrics.jsonl
        self._sealed_as: str | None = None  # its identity when it was first sealed: config.toml may be edited meanwhile
        self._sealed_metrics, self._sealed = Growing(), dict[Path, FileRecord]()
        self.run_lock = RunLock(self.path)

    @property
    def config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def tokenizer_dir(self) -> Path:
        return self.path / "tokenizer"

    @property
    def carried_dir(self) -> Path:
        """Files of the folder that it was imported from, which go out again with it: licences, how to generate."""
        return self.path / "carried"

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
    def prompts_path(self) -> Path:
        """Of a run that learns from rewards: the records of its prompts."""
        return self.path / "prompts.jsonl"

    def reward_path(self, number: int) -> Path:
        """Likewise: the file that the reward of that number, from 1, is a function of, as it was then."""
        return self.path / "rewards" / f"{number}.py"

    @property
    def sessions_path(self) -> Path:
        return self.path / "sessions.jsonl"

    @property
    def extension_path(self) -> Path:
        """The file with parts of one's own that it was trained with, as it was then."""
        return self.path / "extension.py"

    @property
    def loss_png(self) -> Path:
        return self.path / "loss.png"

    @property
    def tensorboard_dir(self) -> Path:
        return self.path / "tensorboard"

    @property
    def identity(self) -> str:
        """Which run this is, as its checkpoints know it too; "" for one that began before runs had an identity."""
        plan = read_toml(self.config_path).values.get("plan") if self.config_path.exists() else None
        return str(plan.get("run", "")) if isinstance(plan, Mapping) else ""

    def last_written(self) -> float:
        """When something was last added to it: seconds since 1970."""
        files = [self.config_path, self.metrics_path]
        return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)

    # Metrics: one JSON object a line

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl, there to be read at once; NaN and infinities become null."""
        self.run_lock.require()
        row = finite(row)
        with atomic.io_errors(f"write {self.metrics_path}"), open(self.metrics_path, "ab") as file:
            atomic.perform(file.write, line_of(row))
            atomic.perform(file.flush)
        for follow in self.followers:
            follow(row)

    def sync_metrics(self) -> None:
        """Wait until metrics.jsonl is on the disk, so that no checkpoint outlives the lines that led to it."""
        self.run_lock.require()
        with atomic.io_errors(f"write {self.metrics_path}"), open(self.metrics_path, "ab") as file:
            atomic.perform(os.fsync, file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, in order; a line that cannot be read is left out (`damages` counts them)."""
        return [row for _, row in self._metrics_lines().read]

    def truncate_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Keep only the rows for which `keep` holds, byte for byte, and no torn line."""
        kept = b"".join(line for line, row in self._metrics_lines().read if keep(row))
        if self.metrics_path.exists():
            self.seal(metrics=kept)  # before: killed in between, the file still begins with what is sealed
            atomic.write_bytes_atomic(self.metrics_path, kept)

    def _metrics_lines(self) -> Lines:
        if not self.metrics_path.exists():
            return Lines([], 0)
        with atomic.io_errors(f"read {self.metrics_path}"):
            return lines_of(self.metrics_path.read_bytes())

    # Samples

    def sample_path(self, step: int) -> Path:
        return self.samples_dir / f"{step_name(step)}.txt"

    def write_sample(self, step: int, text: str) -> None:
        """Keep what the model wrote at `step`."""
        with atomic.io_errors(f"write {self.samples_dir}"):
            atomic.make_folder(self.samples_dir)
        atomic.write_text_atomic(self.sample_path(step), text)
        self._sealed.pop(self.sample_path(step), None)
        self.seal()

    # What lies outside the checkpoints

    def seal(self, metrics: bytes | None = None) -> None:
        """Write down the sizes and hashes of the files that are SEALED, so that damage shows later.

        `metrics` is what metrics.jsonl is about to hold; else it is what it holds. Lines may follow. What was sealed
        before is not read again: that would take longer each time, and seal in what was damaged since.
        """
        self._sealed_as = self.identity if self._sealed_as is None else self._sealed_as
        if metrics is not None:
            self._sealed_metrics = Growing(metrics)
        with atomic.io_errors(f"read {self.path}"):
            paths = sorted(path for pattern in SEALED for path in self.path.glob(pattern))
            records = {path.relative_to(self.path).as_posix(): self._record(path, metrics is None) for path in paths}
        atomic.write_bytes_atomic(self.path / MANIFEST, seal({"run": self._sealed_as, "files": records}))

    def _record(self, path: Path, read_on: bool) -> FileRecord:
        """What to seal `path` by. metrics.jsonl only grows, unless it is about to; data.json is small; others stay."""
        if path == self.metrics_path:
            return self._sealed_metrics.read_on(path) if read_on else self._sealed_metrics.record()
        if path == self.data_path:
            return record_of(path.read_bytes())
        if path not in self._sealed:
            self._sealed[path] = record_of(path.read_bytes())
        return self._sealed[path]

    def damages(self) -> list[str]:
        """What of the files that are SEALED is not as it was written, or gone, a line each."""
        found, lines = [], self._metrics_lines()
        if self.identity and lines.read and not list_checkpoints(self.checkpoints_dir):
            found.append(f"{self.checkpoints_dir} holds no checkpoint, though {self.metrics_path} tells of training")
        if lost := lines.lost:
            found.append(f"left out, since damaged: {lost} line{'s' * (lost > 1)} of {self.metrics_path}")
        return found + self.damages_of("*")

    def damages_of(self, names: str) -> list[str]:
        """Those of the sealed files whose path in the run is like the pattern `names`."""
        path = self.path / MANIFEST
        try:
            sealed = read_sealed(path)
            if sealed["run"] != self.identity:
                raise CheckpointError(f"{path} belongs to another run")
            records = {name: FileRecord(size=of["size"], sha256=of["sha256"]) for name, of in sealed["files"].items()}
        except (CheckpointError, KeyError, TypeError, AttributeError) as error:
            if path.exists() or (self.identity and list_checkpoints(self.checkpoints_dir)):
                return [f"{error}; what lies outside the checkpoints cannot be checked"]
            return []
        ours = {name: of for name, of in records.items() if any(fnmatch(name, pattern) for pattern in SEALED)}
        found = (self._damage(name, record) for name, record in ours.items() if fnmatch(name, names))
        return [damage for damage in found if damage]

    def _damage(self, name: str, record: FileRecord) -> str | None:
        try:
            content = (self.path / name).read_bytes()
        except OSError as error:
            return f"{self.path / name} cannot be read: {atomic.reason(error)}"
        if name == self.metrics_path.name:
            content = content[: record["size"]]
        return None if record_of(content) == record else f"{self.path / name} is not as it was written"
