"""An experiment: arms that differ in one thing, each of which becomes a run, and what is noted of each.

In a `Place` books are written, arms trained that are not yet, and each is measured once.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from primegpt import __version__
from primegpt.config import DataConfig, Settings, resolve
from primegpt.data.template import vocabulary
from primegpt.device import choose_device, choose_precision
from primegpt.errors import UsageError
from primegpt.inference.run import Run, load
from primegpt.jobs.data import write_songbook
from primegpt.jobs.tokenizers import train_tokenizer
from primegpt.jobs.training import resume, train
from primegpt.run.atomic import make_folder, write_json_atomic, write_text_atomic
from primegpt.terminal import Say
from primegpt.tokenizers import store

TRAINING_SEED, PROMPT_SEED, HELD_OUT_SEED = 0, 2, 3  # of the songbooks
SEEDS = (1337, 1338, 1339)  # of the runs

Findings = Mapping[str, Any]  # what came of all arms, as results.json has it
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


def _plain(arm: Arm) -> object:
    """The arm as it comes back from JSON."""
    return json.loads(json.dumps(asdict(arm)))


Measure = Callable[[Run, Arm], Measures]


class Place:
    """The folder of an experiment: books/, tokenizer/, runs/ and measures/ with an entry for each arm."""

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self.say = folder, say
        self.notes = Notes(folder / "measures")

    def book(self, book: Book) -> Path:
        """The file of a book, written unless it is there: that of a book never changes."""
        path = self.folder / "books" / book.file
        if not path.exists():
            make_folder(path.parent)
            if book.copies == 1:
                write_songbook(path, songs=book.songs, alignment=book.alignment, seed=book.seed)
            else:
                once = self.book(replace(book, copies=1)).read_text(encoding="utf-8")
                write_text_atomic(path, once * book.copies)
        return path

    def tokenizer(self, book: Book, vocab_size: int, template: str) -> Path:
        """The tokenizer that all arms share, so that their losses are over the same tokens."""
        path = self.folder / "tokenizer"
        if not (path / store.META).exists():
            special = vocabulary(DataConfig.model_validate({"template": template}), {})
            config = {"kind": "bpe", "vocab_size": vocab_size, "special_tokens": special}
            train_tokenizer(self.book(book), out=path, settings={"tokenizer": config}, say=self.say)
        return path

    def carry_out(self, arms: Sequence[Arm], tokenizer: Path, measure: Measure) -> None:
        """Train and measure every arm that has no measures yet, going on with one that was interrupted."""
        for number, arm in enumerate(arms, 1):
            if self.notes.read(arm) is None:
                self.say(f"\narm {number} of {len(arms)}: {arm.kind}, seed {arm.seed}")
                run = self.trained(arm, tokenizer)
                self.notes.write(arm, measure(run, arm))

    def trained(self, arm: Arm, tokenizer: Path) -> Run:
        """The run of an arm, its last checkpoint loaded: the same budget for all."""
        path = self.folder / "runs" / arm.name
        config = resolve(
            self.machine(),
            arm.settings,
            {"tokenizer": {"path": str(tokenizer)}, "data": {"sources": (str(self.book(arm.book)),)}},
            {"train": {"seed": arm.seed}},
        )
        with redirect_stdout(sys.stderr):  # which is for the experiment's result
            if (path / "data.json").exists() and (path / "config.toml").exists():
                resume(path, say=self.say)
            else:
                train(config, out=path, overwrite=True, say=self.say)
        return load(path, checkpoint="last", say=self.say)

    def machine(self) -> Settings:
        """What the machine decides, decided once, so that it is the same for all arms."""
        path = self.folder / "machine.json"
        if not path.exists():
            device = choose_device("auto")
            write_json_atomic(path, {"train": {"device": device, "precision": choose_precision("auto", device)}})
        return json.loads(path.read_text(encoding="utf-8"))

    def finish(self, found: dict[str, Any], report: Path) -> dict[str, Any]:
        """Write results.json; the same with the paths of it and of the report."""
        results = self.folder / "results.json"
        write_json_atomic(results, found)
        return {**found, "report": str(report), "results": str(results)}


def facts(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """What all arms have in common, in words."""
    settings = {section: dict(arms[0].settings.get(section, {})) for section in ("model", "data", "train", "generate")}
    seeds = sorted({arm.seed for arm in arms})
    shown = [(name, ", ".join(f"{key} {value}" for key, value in values.items())) for name, values in settings.items()]
    return [("primegpt", __version__), ("seeds", ", ".join(map(str, seeds))), *shown]
