"""The folder of an experiment: what has been done lies there, job by job, and is not done again.

NAME/
  experiment.toml   the file as it was read last        plan.json   what was measured of the machine, once
  jobs/KEY.json     that a job is done, and its result  made/       runs, texts and tokenizers, as stages make them
  results.json      report.html                         forecast.json   what was expected of arms that come after
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from primegpt.device import available_cores, choose_device, choose_precision
from primegpt.errors import RunFolderError, UsageError, quoted
from primegpt.experiments.file import DATA
from primegpt.experiments.stages import Job
from primegpt.run.atomic import make_folder, write_json_atomic
from primegpt.run.lock import LOCK_FILES

NEVER = 10**9  # steps; the sample at the end is enough to look at
SUFFIXES = dict.fromkeys(DATA, ".jsonl")  # of what a stage writes, where it is a file


class Place:
    """Where jobs find each other's results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, name: str) -> None:
        """The folder of the experiment `name`. Raises RunFolderError where something else, or another one, is."""
        there = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set[str]()
        if "plan.json" not in there and there - {"jobs", "made", *LOCK_FILES}:  # which are there before it is
            raise RunFolderError(f"{self.folder} is not empty and holds no experiment", "choose another --out")
        if (before := self._name()) not in (None, name):
            what = f"{self.folder} holds the experiment {quoted(before)}, and this one is called {quoted(name)}"
            raise RunFolderError(what, "choose another --out, or give it the old name to change it")
        for name in ("jobs", "made"):
            make_folder(self.folder / name)

    def _name(self) -> str | None:
        """What the experiment that is there was called, if its file can still be read."""
        try:
            return tomllib.loads((self.folder / "experiment.toml").read_text(encoding="utf-8"))["name"]
        except (OSError, ValueError, KeyError):
            return None

    def result(self, job: Job | str) -> Any:
        """What was found by a job that is done; None of one that is not."""
        path = self._note(job if isinstance(job, str) else job.key)
        if not path.exists():
            return None
        try:
            noted = json.loads(path.read_bytes())
            return noted["result"]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is damaged: {error}", "delete it, and the job is done again") from error

    def note(self, job: Job, result: Mapping[str, Any]) -> None:
        """Write down that a job is done."""
        noted = {"do": job.do, "label": job.label, "seed": job.seed, "said": job.said, "result": result}
        write_json_atomic(self._note(job.key), noted)

    def path(self, job: Job) -> Path:
        """Where a job makes what it makes. A shared one may have been called otherwise when it was begun."""
        suffix = SUFFIXES.get(job.do, str(job.said.get("suffix", ".jsonl")) if ":" in job.do else "")
        there = sorted((self.folder / "made").glob(f"[!.]*-{job.key}{suffix}"))  # no rehearsal, no half of a file
        return there[0] if there else self.folder / "made" / (job.stem + suffix)

    def said(self, job: Job) -> dict[str, Any]:
        """What a job is done with, the results of others by their paths."""

        def resolved(value: Any) -> Any:
            if isinstance(value, Mapping):
                if value.keys() == {"@"}:
                    return str(self.folder / (self.result(value["@"]) or {})["path"])
                return {key: resolved(item) for key, item in value.items()}
            return [resolved(item) for item in value] if isinstance(value, list) else value

        return resolved(job.said)

    def _note(self, key: str) -> Path:
        return self.folder / "jobs" / f"{key}.json"


class Plan:
    """What the machine decides, decided once, so that whoever goes on, or repeats it with this file, does the same.

    plan.json: device, precision and threads of all; of each training what a rehearsal of it found.
    """

    def __init__(self, place: Place, processes: int = 1) -> None:
        self.path = place.folder / "plan.json"
        if self.path.exists():
            self.values: dict[str, Any] = self._read()
            return
        device = choose_device("auto")
        precision, threads = choose_precision("auto", device), max(1, available_cores() // processes)
        machine = {"device": device, "precision": precision, "threads": threads}
        self.values = {"machine": machine, "rehearsed": {}}
        write_json_atomic(self.path, self.values)

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self.path.read_bytes())
            if isinstance(values["machine"], dict) and all(isinstance(of, dict) for of in values["rehearsed"].values()):
                return values
            raise ValueError("it is no plan")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{self.path} is damaged: {error}", "delete it: what is done stays done") from error

    def settings(self, key: str) -> dict[str, Any]:
        """Of a training: those that the machine has a say in, and its steps where these are known."""
        return {"sample_interval": NEVER, **self.values["machine"], **self.values["rehearsed"].get(key, {})}

    def knows(self, key: str) -> bool:
        return key in self.values["rehearsed"]

    def fix(self, key: str, settings: Mapping[str, Any]) -> None:
        self.values["rehearsed"][key] = dict(settings)
        write_json_atomic(self.path, self.values)
