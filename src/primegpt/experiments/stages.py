"""The stages of an experiment as jobs: each known by a key of all that decides its result, so that none is done twice.

Arms whose first stages are the same share them; an edited file makes anew only what the edit changes; a job that was
stopped goes on. "@NAME" in a stage is an earlier one's result, "@last" the last run, "@seed" the seed.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from primegpt import extend
from primegpt.data.reading.sources import files_of
from primegpt.errors import ConfigError, DataError, nearest, quoted
from primegpt.experiments.file import TRAINING, Arm, Experiment, Stage
from primegpt.run.atomic import canonical_json, io_errors
from primegpt.run.checkpoint import fingerprint_of
from primegpt.run.folder import RunFolder

MOST_NAME = 255  # characters of what may be a file
TEXTS = ("sources", "base_text", "text", "prompts")  # keys whose values are sources of text
PLACES = ("function", "from", "kl_from", "path", "hellaswag", "recipe", "extension", "reward")  # of what is there
KEY = 16  # hexadecimal digits: of a million jobs two share them once in forty million experiments


@dataclass(frozen=True)
class Job:
    """One thing to do, once: train a run, make a file, evaluate."""

    do: str
    label: str
    """What a person knows it by: the arm and the stage that first need it."""
    said: Mapping[str, Any]
    """What it is done with; a result of another job is {"@": its key}."""
    needs: tuple[str, ...]
    """The keys of the jobs whose results it is done with."""
    seed: int | None
    key: str
    plan_key: str
    """What a training is rehearsed for: all that decides it but the seed."""
    files: Mapping[str, str]
    """The files that it is done with, and their hashes."""

    @property
    def trains(self) -> bool:
        return self.do in TRAINING

    @property
    def title(self) -> str:
        """What it is called where people read it."""
        return self.label if self.seed is None else f"{self.label}, seed {self.seed}"

    @property
    def stem(self) -> str:
        """The name of what it makes."""
        seed = "" if self.seed is None else f"-seed-{self.seed}"
        plain = "".join(c if c.isalnum() or c in "._" else "-" for c in self.label)
        return f"{plain[:60].strip('-.')}{seed}-{self.key}"


@dataclass(frozen=True)
class Outcome:
    """What an arm comes to with one seed: its last run, and where each measure is found."""

    arm: str
    seed: int
    after: bool
    run: Job
    measures: Mapping[str, tuple[Job, tuple[str, ...]]]
    """Name -> the job that finds it, and the path in what that finds."""


@dataclass(frozen=True)
class Work:
    """All jobs by their keys, each after those that it needs, and what the arms come to."""

    jobs: Mapping[str, Job]
    outcomes: Sequence[Outcome]
    later: frozenset[str] = frozenset()
    """The keys of those that wait until the analysis has said what it expects of them."""


def plan_work(experiment: Experiment) -> Work:
    """What is to be done. All arms of a seed come before the next seed: cut short, a whole experiment is there.

    Raises ConfigError for a stage that names none before it, and for an arm that comes after and trains on and on.
    """
    jobs: dict[str, Job] = {}
    outcomes = [_outcome(experiment, arm, seed, jobs) for seed in experiment.seeds for arm in experiment.arms]
    later = _later(jobs, outcomes)
    for outcome in outcomes:
        if outcome.after and later.intersection(outcome.run.needs):
            raise ConfigError(f"arm {quoted(outcome.arm)} has after = true and trains twice", "one stage that trains")
    return Work(jobs, outcomes, later)


def _later(jobs: Mapping[str, Job], outcomes: Sequence[Outcome]) -> frozenset[str]:
    """The trainings that only arms that come after need, and what is done with those."""
    now = {
        job.key for each in outcomes if not each.after for job in (each.run, *(of for of, _ in each.measures.values()))
    }
    for job in reversed(list(jobs.values())):
        if job.key in now:
            now.update(job.needs)
    later = set[str]()
    for key, job in jobs.items():
        if key not in now and (job.trains or later.intersection(job.needs)):
            later.add(key)
    return frozenset(later)


def _outcome(experiment: Experiment, arm: Arm, seed: int, jobs: dict[str, Job]) -> Outcome:
    done: dict[str, Job] = {}

    def add(stage: Stage) -> Job:
        job = _job(stage, arm.name, seed, done)
        return jobs.setdefault(job.key, job)

    for stage in arm.stages:
        done[stage.name] = add(stage)
        if done[stage.name].trains:
            done["last"] = done[stage.name]
    of_last = {"from": "@last", "checkpoint": experiment.checkpoint}
    own = extend.load(experiment.extension).parts["measure"] if experiment.extension else {}
    measures: dict[str, tuple[Job, tuple[str, ...]]] = {}
    for measure in experiment.measures:
        first, _, rest = measure.partition(".")
        if measure in own:
            said = {"registered": measure, "extension": experiment.extension, **of_last}
            measures[measure] = add(Stage("measure", measure, said)), ()
        elif ":" in measure:  # a function, of a file or a module
            home, _, name = measure.rpartition(":")
            name, *path = name.split(".")
            measures[measure] = add(Stage("measure", name, {"function": f"{home}:{name}", **of_last})), tuple(path)
        elif "/" in measure or "." not in measure:  # a key of metrics.jsonl
            measures[measure] = done["last"], (measure,)
        elif first in done:
            measures[measure] = done[first], tuple(rest.split("."))
        else:
            job = add(Stage("evaluate", "evaluate", {**of_last, **arm.evaluate}))
            measures[measure] = job, tuple(measure.split("."))
    return Outcome(arm.name, seed, arm.after, done["last"], measures)


def _job(stage: Stage, arm: str, seed: int, done: Mapping[str, Job]) -> Job:
    needs: list[str] = []
    seeded = stage.do in TRAINING

    def resolved(value: Any, for_plan: bool = False) -> Any:
        """`value` with the keys of what it refers to, and the seed; or, for a plan, what is the same for all seeds."""
        nonlocal seeded
        if isinstance(value, Mapping):
            return {key: resolved(item, for_plan) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [resolved(item, for_plan) for item in value]
        if not (isinstance(value, str) and value.startswith("@")):
            return value
        if value == "@seed":
            seeded = True
            return value if for_plan else seed
        place = f"arm {quoted(arm)}, stage {quoted(stage.name)}"
        if (other := done.get(value[1:])) is None:
            known = [f"@{name}" for name in (*done, "seed")]
            raise ConfigError(f"{place}: no earlier stage is called {quoted(value)}", nearest(value, known))
        if other.do in ("evaluate", "measure"):
            raise ConfigError(f"{place}: {value} is figures, and makes nothing to go on with", "name another stage")
        needs.append(other.key)
        return {"@": other.plan_key if for_plan else other.key}

    said, planned = resolved(stage.said), resolved(stage.said, for_plan=True)
    files = dict(contents(stage.do, said))
    decides, own = {"do": stage.do, "said": said, "files": files}, seed if seeded else None
    return Job(
        stage.do,
        f"{arm}, {stage.name}",
        said,
        tuple(dict.fromkeys(needs)),
        own,
        _key(decides | {"seed": own}),
        _key(decides | {"said": planned}),
        files,
    )


def _key(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()[:KEY]


def contents(do: str, said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The files that a stage names, with their hashes: with another text a job is another one."""
    if ":" in do:  # a function, any of whose arguments may be a file
        yield from _contents(do, "function")
        yield from ((value, hash_of(Path(value))) for value in said.values() if _is_file(value))
    else:
        yield from _contents(said)


def _is_file(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) < MOST_NAME and Path(value).is_file()


def _contents(said: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(said, Mapping):
        for name, value in said.items():
            yield from _contents(value, name)
    elif isinstance(said, list):
        for value in said:
            yield from _contents(value, key)
    elif isinstance(said, str) and key in TEXTS:
        yield from ((str(file), hash_of(file)) for file in files_of(said) if file.is_file())
    elif isinstance(said, str) and key in PLACES:
        path = Path(said.rpartition(":")[0].rpartition("*")[2] if ".py:" in said else said)
        if (path / "config.toml").is_file():
            yield said, fingerprint_of(RunFolder(path).checkpoint_path())
        else:
            files = sorted(path.glob("*")) if path.is_dir() else [path]
            yield from ((str(file), hash_of(file)) for file in files if file.is_file())


def hash_of(file: Path) -> str:
    """Of a file's content, which is read once as long as it stays the same."""
    with io_errors(f"read {file}", DataError):
        of = file.stat()
        return _hashed(file, of.st_mtime_ns, of.st_size)


@cache
def _hashed(file: Path, changed: int, size: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
