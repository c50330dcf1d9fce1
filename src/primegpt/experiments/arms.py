"""An experiment as data: arms that differ in one thing, each of which becomes a run, and what is noted of each."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from primegpt.errors import UsageError
from primegpt.run.atomic import write_json_atomic

Settings = Mapping[str, Mapping[str, Any]]  # a layer of configuration
Measures = dict[str, Any]  # what is noted of an arm, as JSON can hold it


@dataclass(frozen=True)
class Book:
    """A songbook on disk, one song a record, for arms to learn from or to be judged on."""

    songs: int
    seed: int
    alignment: float = 1.0
    copies: int = 1
    """How often it stands in the file, one whole after the other."""

    @property
    def file(self) -> str:
        copies = f"-copied-{self.copies}" if self.copies > 1 else ""
        return f"{self.songs}-songs-seed-{self.seed}-alignment-{self.alignment:g}{copies}.jsonl"


@dataclass(frozen=True)
class Arm:
    """One run: what it learns from, and its configuration but for tokenizer, sources and seed."""

    kind: str
    """What it shares with the arms of other seeds: "alignment 0.25", "alignment 0, no masking"."""
    book: Book
    seed: int
    settings: Settings

    @property
    def name(self) -> str:
        return f"{self.kind.replace(',', '').replace(' ', '-')}-seed-{self.seed}"


def merged(*layers: Settings) -> Settings:
    """The layers over each other, later ones above."""
    sections = dict.fromkeys(section for layer in layers for section in layer)
    return {section: {k: v for layer in layers for k, v in layer.get(section, {}).items()} for section in sections}


class Notes:
    """What was measured of each arm, a file each. An arm that has one is finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, arm: Arm) -> Measures | None:
        """The measures of a finished arm. Raises UsageError when they are of one that was set otherwise."""
        path = self._path(arm)
        if not path.exists():
            return None
        noted = json.loads(path.read_text(encoding="utf-8"))
        if noted["arm"] != _plain(arm):
            raise UsageError(
                f"{path} was measured under other settings than this arm has now",
                "name another folder with --out, or delete that one",
            )
        return noted["measures"]

    def write(self, arm: Arm, measures: Measures) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(self._path(arm), {"arm": _plain(arm), "measures": measures})

    def by_kind(self, arms: Iterable[Arm]) -> dict[str, list[Measures]]:
        """The measures of the finished arms of each kind, one for each seed."""
        kinds: dict[str, list[Measures]] = {}
        for arm in arms:
            if (measures := self.read(arm)) is not None:
                kinds.setdefault(arm.kind, []).append(measures)
        return kinds

    def _path(self, arm: Arm) -> Path:
        return self.folder / f"{arm.name}.json"


def _plain(arm: Arm) -> Any:
    """The arm as it comes back from JSON."""
    return json.loads(json.dumps(asdict(arm)))
