"""Doing a job of an experiment: train, fine-tune, evaluate, write a text, learn a tokenizer, call a function."""

import inspect
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from primegpt import extend
from primegpt.config import Config, Layer, Settings, read_saved
from primegpt.errors import NonFiniteError, UsageError, quoted
from primegpt.experiments.file import TRAINING, laid_over
from primegpt.experiments.functions import load_function
from primegpt.experiments.place import NEVER, Place, Plan
from primegpt.experiments.stages import Job, contents
from primegpt.inference.run import Run, load
from primegpt.jobs.configuring import configure
from primegpt.jobs.data import write_songbook, write_tasks
from primegpt.jobs.evaluation import evaluate_run
from primegpt.jobs.finetuning import finetune
from primegpt.jobs.instructing import instruct
from primegpt.jobs.reinforcing import reinforce
from primegpt.jobs.resuming import resume
from primegpt.jobs.sampling import sample
from primegpt.jobs.tokenizers import train_tokenizer
from primegpt.jobs.training import train
from primegpt.model.size import flops_per_token
from primegpt.run import atomic
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say, silent
from primegpt.training.display import Observer
from primegpt.training.state import TrainState

# What arguments of stages have to be, where a signature would take anything.
NUMBERS = ("songs", "seed", "limit", "stride", "batch_size", "records", "num_samples")
KINDS: dict[str, type] = dict.fromkeys(NUMBERS, int) | dict.fromkeys(
    ("text", "hellaswag", "prompts", "kl_from", "kind", "keep", "labels"), str
)
KINDS |= dict.fromkeys(("adherence", "memorization", "held_out", "pairs"), bool)
KINDS |= dict.fromkeys(("levels", "reward"), list) | {"at_least": float}
WORDS: dict[type, str] = {
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    float: "a number",
    list: "a list",
}
MAKERS: dict[str, Callable[..., Any]] = {
    "data songbook": write_songbook,
    "data tasks": write_tasks,
    "data instruct": instruct,
    "data sample": sample,
}
WARM, TIMED = 4, 16  # steps before a measurement of their time, and of it


class Doer:
    """Does the jobs of one experiment, in its place."""

    def __init__(self, place: Place, plan: Plan, say: Say) -> None:
        self.place, self.plan, self.say = place, plan, say
        self.warned = set[str]()  # what is wrong with a text is so with every seed

    def do(self, job: Job) -> None:
        """Do `job`, or go on with it, and note its result. Raises PrimegptError for what cannot be done.

        A training whose loss is no number any more has `diverged`, which is a result too, and so has what builds on it.
        """
        lost = next((found for key in job.needs if "diverged" in (found := self.place.result(key) or {})), None)
        try:
            result = lost or self._do(job, self.place.said(job), self.place.path(job))
            if dict(contents(job.do, job.said)) != job.files:
                what = "a file that it is done with was changed meanwhile"
                raise UsageError(what, "run this again: it is done anew with the file as it is")
        except NonFiniteError as error:
            self.say(f"{job.title}: diverged, and has no figures: {error.what}")
            result = {"diverged": error.what, "path": self._relative(self.place.path(job))}
        self.place.note(job, result)

    def _do(self, job: Job, said: dict[str, Any], path: Path) -> Any:
        if job.do in TRAINING:
            return self._train(job, said, path)
        if job.do == "evaluate":
            return _evaluate(said, silent)
        if job.do == "measure":
            return _measure(said, silent)
        return self._make(job, said, path)

    def check(self, job: Job) -> None:
        """Raise UsageError for what can be seen to be wrong with `job` before anything is done."""
        if job.do == "train" and not job.needs:
            settings = laid_over(self._settings(job, job.said), {"train": {"max_steps": 1, "tokens": None}})
            configure(_recipe(job.said), Layer(settings))
        elif job.do == "evaluate":
            _bound(evaluate_run, "evaluate", None, **_options(job.said))
        elif "function" in job.said:
            load_function(job.said["function"])
        elif job.do in MAKERS:
            _bound(MAKERS[job.do], job.do, *_inputs(job.said), out=None, **_how(job.said))
        elif ":" in job.do:
            load_function(job.do)

    # Training

    def _train(self, job: Job, said: Mapping[str, Any], path: Path) -> dict[str, Any]:
        run = self._run(job, said, path, observer=Silence())
        return {"path": self._relative(path), "step": load(run.folder.path, checkpoint="last", say=silent).step}

    def _run(
        self, job: Job, said: Mapping[str, Any], path: Path, *, observer: Observer, above: Settings | None = None
    ) -> Run:
        def warn(text: str) -> None:
            if text.startswith("warning") and text not in self.warned:
                self.warned.add(text)
                self.say(f"{job.title}: {text}")

        with redirect_stdout(sys.stderr):  # which is for the result of the experiment
            if (path / "data.json").exists() and (path / "config.toml").exists():
                return resume(path, observer=observer, say=warn)
            settings = laid_over(self._settings(job, said), above or {})
            options: dict[str, Any] = {"out": path, "overwrite": True, "settings": settings}
            if job.do == "train":
                return train(*_recipe(said), **options, observer=observer, say=warn)
            go_on = reinforce if job.do == "reinforce" else finetune
            which = said.get("checkpoint", "best")
            return go_on(said["from"], *_recipe(said), **options, checkpoint=which, observer=observer, say=warn)

    def _settings(self, job: Job, said: Mapping[str, Any]) -> Settings:
        """All settings of a training but how long it is."""
        machine = {"train": self.plan.settings(job.plan_key)}
        return laid_over(laid_over(machine, said["settings"]), {"train": {"seed": job.seed}})

    def rehearse(self, job: Job) -> None:
        """Take a few steps of a training that was not rehearsed yet: how many its budget is, and with which kernels.

        What is wrong with it shows before hours are spent on others.
        """
        if not job.trains or self.plan.knows(job.plan_key):
            return
        ((unit, amount),) = job.said["budget"].items()
        config, rehearsal = self._rehearsed(job, WARM + TIMED if unit == "seconds" else 1)
        found: dict[str, Any] = {"attention": config.train.attention, "compile": config.train.compile}
        if unit == "tokens":
            found["tokens"] = amount
        elif unit == "steps":
            found["max_steps"] = amount
        else:
            flops = rehearsal.tokens * flops_per_token(config.model, config.sequence_length)
            cost = rehearsal.seconds if unit == "seconds" else flops
            found["max_steps"] = max(1, math.floor(amount / cost)) if cost else 1  # none of what diverges at once
        self.plan.fix(job.plan_key, found)

    def planned(self, job: Job) -> Config:
        """What a training that may not have begun is or will be configured with, the number of its steps with it."""
        saved = self.place.path(job) / "config.toml"
        if saved.exists():
            return read_saved(saved)
        self.rehearse(job)
        config, _ = self._rehearsed(job, 1)
        known = self.plan.settings(job.plan_key)
        steps = known.get("max_steps") or math.ceil(known["tokens"] / config.tokens_per_step)
        return config.with_values(train={"max_steps": steps})

    def _rehearsed(self, job: Job, steps: int) -> tuple[Config, "Rehearsal"]:
        """The first `steps` of a training, of which nothing stays."""
        path = self.place.folder / "made" / f".rehearsal-{job.key}"
        rehearsal = Rehearsal(steps)
        never = dict.fromkeys(("max_steps", "checkpoint_interval", "eval_interval", "log_interval"), NEVER)
        none = {"tokens": None} | ({} if job.do == "reinforce" else {"early_evaluations": (0,)})  # rewards have none
        short: Settings = {"train": never | none, "generate": {"max_new_tokens": 1}}
        atomic.remove(path)
        with suppress(Enough, NonFiniteError):
            self._run(job, self.place.said(job), path, above=short, observer=rehearsal)
        config = read_saved(path / "config.toml")
        atomic.remove(path)
        return config, rehearsal

    # The rest

    def _make(self, job: Job, said: dict[str, Any], path: Path) -> dict[str, Any]:
        if job.do in MAKERS:
            MAKERS[job.do](*_inputs(said), out=path, **_how(said))
        elif job.do == "tokenizer":
            train_tokenizer(out=path, settings=said, overwrite=True, say=self.say)
        else:
            said.pop("suffix", None)
            half = path.with_name(f".{path.name}")
            load_function(job.do)(half, **said)
            if not half.exists():
                raise UsageError(f"{job.do} has written nothing to the path that it was given", "write the file there")
            os.replace(half, path)
        return {"path": self._relative(path)}

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.place.folder).as_posix()


class Enough(Exception):
    """A rehearsal has seen what it wanted to."""


class Silence:
    """Watches a run and says nothing."""

    def on_step(self, state: TrainState, line: dict[str, Any] | None) -> None: ...
    def on_evaluation(self, state: TrainState, line: dict[str, Any], best: bool) -> None: ...
    def on_sample(self, state: TrainState, text: str) -> None: ...
    def on_message(self, text: str) -> None: ...


class Rehearsal(Silence):
    """Watches the first `steps`: what one takes of the processor, and how many tokens it has."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times: list[float] = []
        self.tokens = 0.0

    @property
    def seconds(self) -> float:
        """Of the processor, over all cores, of a typical step."""
        taken = [b - a for a, b in pairwise(self.times[WARM:])]
        return statistics.median(taken) if taken else 0.0

    def on_step(self, state: TrainState, line: dict[str, Any] | None) -> None:
        if not state.step:
            return
        self.times.append(time.process_time())
        self.tokens = state.tokens / state.step
        if len(self.times) == self.steps:
            raise Enough


def figures_of(job: Job, place: Place) -> Any:
    """What a job that is done has found: of a training, the last value of each key of its metrics.jsonl."""
    result = place.result(job) or {}
    if job.trains:
        return {key: value for row in lines_of(place.folder / result["path"]) for key, value in row.items()}
    return result


def lines_of(run: Path) -> list[dict[str, Any]]:
    return RunFolder(run).read_metrics()


def _evaluate(said: dict[str, Any], say: Say) -> dict[str, Any]:
    run = load(said["from"], checkpoint=said["checkpoint"], say=say)
    return evaluate_run(run, **_options(said), say=say)


def _options(said: Mapping[str, Any]) -> dict[str, Any]:
    """How a run is evaluated."""
    return {name: value for name, value in said.items() if name not in ("from", "checkpoint")}


def _inputs(said: Mapping[str, Any]) -> list[Any]:
    """What a stage that writes records is done with: a run, or texts."""
    sources = said.get("from", said.get("sources", []))
    return list(sources) if isinstance(sources, list) else [sources]


def _how(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in ("from", "sources")}


def _recipe(said: Mapping[str, Any]) -> list[str | Config]:
    return [said["recipe"]] if "recipe" in said else []


def _measure(said: dict[str, Any], say: Say) -> Any:
    """A number, or a table of numbers, that a function of the user's finds of a run."""
    run = load(said["from"], checkpoint=said["checkpoint"], say=say)
    if "registered" in said:
        named, extension = said["registered"], extend.load(said["extension"])
        with extend.told(extension, place=extend.place_of("measure", named, extension.sha256)):
            found = extension.find("measure", named)(run)
    else:
        named = said["function"]
        found = load_function(named)(run)
    try:
        return json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{named} returned {quoted(found)}: {error}", "return a number, or a dict of numbers"
        ) from None


def _bound(function: Callable[..., Any], stage: str, *arguments: Any, **options: Any) -> None:
    """Raise UsageError where the keys of a stage are not what `function` takes."""
    for name, value in options.items():
        kind = KINDS.get(name)
        is_reference = isinstance(value, Mapping) and value.keys() == {"@"}
        kinds = (int, float) if kind is float else kind
        wrong = kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool))
        if kind and wrong and not is_reference:
            raise UsageError(f"stage {quoted(stage)}: {name} = {quoted(value)}", f"it takes {WORDS[kind]}")
    try:
        inspect.signature(function).bind(*arguments, **options)
    except TypeError as error:
        known = [name for name, of in inspect.signature(function).parameters.items() if of.kind is of.KEYWORD_ONLY]
        raise UsageError(f"stage {quoted(stage)}: {error}", f"its keys: {', '.join(known)}") from None
