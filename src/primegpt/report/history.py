"""A run as its folder tells it: finished, stopped, training at this moment, imported, or damaged in part.

Only reads. What cannot be read is named in `remarks`, and the rest is shown all the same.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from primegpt.config import PREFERENCES, Config
from primegpt.data.audit import AuditReport
from primegpt.errors import CheckpointError, PrimegptError, RunFolderError
from primegpt.model.size import parameter_count
from primegpt.run.checkpoint import Checkpoint, list_checkpoints, step_of
from primegpt.run.contents import config_in_use, data_record
from primegpt.run.files import EARLY, figures_of
from primegpt.run.folder import RunFolder
from primegpt.run.sessions import sessions
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer
from primegpt.training.state import EarlyStopping

Points = list[tuple[float, float | None]]
PHASES = ("running", "finished", "stopped", "killed", "imported")


@dataclass
class History:
    """What is known of one run."""

    folder: RunFolder
    config: Config
    lines: list[dict[str, Any]]
    """Of metrics.jsonl."""
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
    sessions: list[Mapping[str, str]] = field(default_factory=list)
    """When, how and where each of its sessions began."""
    edits: list[str] = field(default_factory=list)
    """What config.toml says of generation otherwise than when the newest checkpoint was saved."""

    @classmethod
    def read(cls, path: Path) -> "History":
        """The run at `path`. Raises RunFolderError if there is none, ConfigError if its configuration is wrong."""
        folder = RunFolder.open(path)
        remarks, edits = folder.damages(), list[str]()
        newest = _newest(folder, remarks)
        if newest:
            folder.best_step(remarks.append, newest)
        data = _read_data(folder, newest, remarks)
        return cls(
            folder=folder,
            config=config_in_use(folder, remarks.append, newest, note=edits.append),
            lines=folder.read_metrics(),
            samples=dict(_read_samples(folder.samples_dir, remarks)),
            data=data,
            audit=AuditReport.from_json(data.get("audit")),
            tokenizer=_read_tokenizer(folder, newest, remarks),
            state=newest.state.get("train", {}) if newest else {},
            checkpoints=list(list_checkpoints(folder.checkpoints_dir)),
            in_use=folder.in_use(),
            remarks=remarks,
            sessions=sessions(folder),
            edits=edits,
        )

    @property
    def name(self) -> str:
        path = self.folder.path
        return path.name if path.name not in ("", "..") else path.resolve().name

    def points(self, key: str, x: str = "step") -> Points:
        """The curve of `key` over `x`; a value that was NaN or infinite is None."""
        return self._points((key,), x)

    def _points(self, keys: Sequence[str], x: str) -> Points:
        rows = [(number(line.get(x)), number(line[key])) for line in self.lines for key in keys if key in line]
        return [(at, value) for at, value in rows if at is not None]

    def curve(self, key: str, x: str = "step") -> Points:
        """`points` to draw, with those of early evaluations; where there are none, with a gap after an evaluation of
        step 0: a line from there would cut off the curve."""
        points, steps = self.points(key, x), self.points(key)
        if self.points(EARLY + key):
            return self._points((key, EARLY + key), x)
        begins = bool(steps) and steps[0][0] == 0 and len(steps) == len(points)
        return [*points[:1], *([(points[0][0], None)] if begins else []), *points[1:]]

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
    def rewarded(self) -> bool:
        """Whether it learns from rewards; its losses are then these, with a minus sign."""
        return self.config.reinforce.on

    @property
    def unit(self) -> str:
        """What the loss is counted by."""
        return self.config.tokenizer.facts.unit

    @property
    def is_likelihood(self) -> bool:
        """Whether the loss is -log p, and so has a perplexity: of an objective of one's own its evaluations tell."""
        of_targets = self.config.train.objective == "cross_entropy" and not self.rewarded
        return of_targets or self.last("val/perplexity") is not None

    @property
    def loss_unit(self) -> str:
        """What the loss is, and is counted by."""
        objective = self.config.train.objective
        if self.rewarded:
            return "minus the reward"
        if self.is_likelihood:
            return f"nats per {self.unit}"
        return f"{objective} per pair" if objective in PREFERENCES else objective

    @property
    def figures(self) -> list[str]:
        """The names of what the objective has measured beside the loss."""
        return list(dict.fromkeys(name for line in self.lines for name in figures_of(line)))

    @property
    def phase(self) -> str:
        """Where it is in its life, in one of `PHASES`; by its lock, which the system drops when a process ends."""
        if self.in_use:
            return "running"
        if not (self.data or self.config.plan.device):
            return "imported"
        if self.last("final/val/loss") is not None:
            return "finished"
        return "killed" if self.folder.was_killed() else "stopped"

    @property
    def status(self) -> str:
        """How things stand, in a few words."""
        stopping, of = self.early_stopping, f"of {self.max_steps:,}" if self.max_steps else ""
        if self.phase == "running":
            return f"training now, step {self.step:,} {of}"
        if self.phase == "imported":
            return "imported, not trained here"
        if self.phase != "finished":
            stopped = f"{self.phase} at step {self.step:,} {of}" if self.lines else "not begun"
            return f"{stopped}; go on with: primegpt train --resume {near(self.folder.path)}"
        if stopping.should_stop and self.step < self.max_steps:
            waited = f"{stopping.waited} evaluation{'s' * (stopping.waited != 1)}"
            return f"stopped early at step {self.step:,} {of}: no better validation loss in {waited}"
        return f"finished after {self.step:,} step{'s' * (self.step != 1)}"

    def summary(self) -> dict[str, Any]:
        """What came of it, as plain values; None for what is not known. Losses in nats per token, times in seconds."""
        stopping = self.early_stopping
        return {
            "name": self.name,
            "folder": str(self.folder.path),
            "state": self.phase,
            "status": self.status,
            "steps": self.step,
            "planned_steps": self.max_steps or None,
            "tokens": self.last("tokens"),
            "seconds": self.last("seconds"),
            "best_loss": stopping.best_loss,
            "best_step": stopping.best_step,
            "final_loss": self.last("final/val/loss"),
            "final_bits_per_byte": self.last("final/val/bits_per_byte"),
            "loss_unit": self.loss_unit,
            "final_figures": {n: value for n in self.figures if (value := self.last(f"final/val/{n}")) is not None},
            "parameters": parameter_count(self.config.model),
            "tokenizer": self.tokenizer.kind if self.tokenizer else None,
            "vocab_size": self.config.model.vocab_size,
            "written": self.folder.last_written(),
            "remarks": self.remarks,
        }


def near(path: str | Path) -> str:
    """`path` as one writes it here: from the working folder, if it lies in that. A page is read elsewhere too."""
    path = Path(path)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)


def number(value: object) -> float | None:
    """`value` if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None


def _read_data(folder: RunFolder, newest: Checkpoint | None, remarks: list[str]) -> dict[str, Any]:
    try:
        return data_record(folder, remarks.append, newest, needed=()) or {}
    except RunFolderError as error:
        remarks.append(error.what)
        return {}


def _read_samples(folder: Path, remarks: list[str]) -> Iterator[tuple[int, str]]:
    for path in sorted(folder.glob("step-*.txt")):
        step = step_of(Path(path.stem))
        if step is None:
            continue
        try:
            yield step, path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            remarks.append(f"{path.name} cannot be read: {error.strerror or error}")


def _read_tokenizer(folder: RunFolder, newest: Checkpoint | None, remarks: list[str]) -> Tokenizer | None:
    try:
        tokenizer = store.load(folder.tokenizer_dir)
        if expected := (newest.state.get("fingerprints", {}).get("tokenizer") if newest else None):
            tokenizer.check_fingerprint(expected, f"the model in {folder.path}")
        return tokenizer
    except PrimegptError as error:
        remarks.append(error.what)
        return None


def _newest(folder: RunFolder, remarks: list[str]) -> Checkpoint | None:
    """While a run trains, a checkpoint may go just as it is read; the next report has its state."""
    try:
        return folder.load_newest(remarks.append, (), resumable=False)
    except CheckpointError as error:
        remarks.append(error.what)
        return None
