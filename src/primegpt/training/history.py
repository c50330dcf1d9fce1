"""A run as its folder tells it: finished, stopped, training at this moment, imported, or damaged in part.

Only reads. What cannot be read is named in `remarks`, and the rest is told all the same.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from primegpt.config import Config, read_saved
from primegpt.data.audit import AuditReport
from primegpt.errors import PrimegptError
from primegpt.run.checkpoint import list_checkpoints, load_newest, step_of
from primegpt.run.folder import RunFolder
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer
from primegpt.training.early_stopping import EarlyStopping

Points = list[tuple[float, float | None]]


@dataclass
class History:
    """What is known of one run."""

    folder: RunFolder
    config: Config
    lines: list[dict[str, Any]]
    """Of metrics.jsonl, those with a step."""
    samples: dict[int, str]
    """What it wrote, by step."""
    data: dict[str, Any]
    """data.json: sizes and fingerprints of the text; empty for an imported run."""
    audit: AuditReport | None
    tokenizer: Tokenizer | None
    state: dict[str, Any]
    """The training state of the newest whole checkpoint; empty before there is one."""
    checkpoints: list[int]
    in_use: bool
    """Whether a process is writing to it."""
    remarks: list[str] = field(default_factory=list)
    """What could not be read, and why."""

    @classmethod
    def read(cls, path: Path) -> "History":
        """The run at `path`. Raises RunFolderError if there is none, ConfigError if its configuration is wrong."""
        folder = RunFolder.open(path)
        remarks: list[str] = []
        data = _read_json(folder.data_path, remarks)
        lines = [line for line in folder.read_metrics() if number(line.get("step")) is not None]
        return cls(
            folder=folder,
            config=read_saved(folder.config_path),
            lines=lines,
            samples=dict(_read_samples(folder.samples_dir, remarks)),
            data=data,
            audit=AuditReport.from_json(data.get("audit")),
            tokenizer=_read_tokenizer(folder, remarks),
            state=_newest_state(folder, remarks),
            checkpoints=list(list_checkpoints(folder.checkpoints_dir)),
            in_use=folder.in_use(),
            remarks=remarks,
        )

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name

    def points(self, key: str, x: str = "step") -> Points:
        """The curve of `key` over `x`; a value that was NaN or infinite is None."""
        rows = [(number(line.get(x)), number(line[key])) for line in self.lines if key in line]
        return [(at, value) for at, value in rows if at is not None]

    def last(self, key: str) -> float | None:
        """The last known value of `key`."""
        return next((value for _, value in reversed(self.points(key)) if value is not None), None)

    def median(self, key: str) -> float | None:
        """The middle value of `key`, zeros (unknown) left out."""
        values = sorted(value for _, value in self.points(key) if value)
        return values[len(values) // 2] if values else None

    def at_best(self, key: str) -> float | None:
        """The value of `key` at the best evaluation."""
        best = self.early_stopping.best_step
        return next((value for at, value in self.points(key) if at == best), None)

    @property
    def early_stopping(self) -> EarlyStopping:
        """The evaluations so far, counted again."""
        stopping = EarlyStopping(self.config.train.patience)
        for step, loss in self.points("val/loss"):
            if loss is not None:
                stopping.update(int(step), loss)
        return stopping

    @property
    def step(self) -> int:
        """The last step that is known to be done."""
        return max((int(line["step"]) for line in self.lines), default=max(self.checkpoints, default=0))

    @property
    def max_steps(self) -> int:
        return self.state.get("max_steps") or self.config.train.max_steps or 0

    @property
    def events(self) -> list[dict[str, Any]]:
        """What happened to the plan, up to the newest checkpoint."""
        return self.state.get("events", [])

    @property
    def unit(self) -> str:
        """What the loss is counted by."""
        return "character" if self.config.tokenizer.kind == "char" else "token"

    @property
    def status(self) -> str:
        """How things stand, in a few words."""
        stopping, of = self.early_stopping, f"of {self.max_steps:,}" if self.max_steps else ""
        if self.in_use:
            return f"training now, step {self.step:,} {of}"
        if not self.data:
            return "imported, not trained here"
        if self.last("final/val/loss") is None:
            stopped = f"stopped at step {self.step:,} {of}" if self.lines else "not begun"
            return f"{stopped}; go on with: primegpt train --resume {self.folder.path}"
        if stopping.should_stop and self.step < self.max_steps:
            waited = f"{stopping.waited} evaluation{'s' * (stopping.waited != 1)}"
            return f"stopped early at step {self.step:,} {of}: no better validation loss in {waited}"
        return f"finished after {self.step:,} steps"


def number(value: Any) -> float | None:
    """`value` if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _read_json(path: Path, remarks: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        remarks.append(f"{path.name} cannot be read: {error}")
        return {}
    return value if isinstance(value, dict) else {}


def _read_samples(folder: Path, remarks: list[str]) -> Iterator[tuple[int, str]]:
    for path in sorted(folder.glob("step-*.txt")):
        step = step_of(Path(path.stem))
        if step is None:
            continue
        try:
            yield step, path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            remarks.append(f"{path.name} cannot be read: {error.strerror or error}")


def _read_tokenizer(folder: RunFolder, remarks: list[str]) -> Tokenizer | None:
    try:
        return store.load(folder.tokenizer_dir)
    except PrimegptError as error:
        remarks.append(error.what)
        return None


def _newest_state(folder: RunFolder, remarks: list[str]) -> dict[str, Any]:
    """While a run trains, a checkpoint may go just as it is read; the next report has its state."""
    try:
        newest = load_newest(folder.checkpoints_dir, remarks.append, (), resumable=False)
    except PrimegptError as error:
        remarks.append(error.what)
        return {}
    return newest.state.get("train", {}) if newest else {}
