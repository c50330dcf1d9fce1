"""Evaluation of a run: loss on a text, HellaSwag, adherence to prompts, memorisation, rewards, KL, harness tasks."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from primegpt.config import (
    MAX_BATCH,
    DataConfig,
    Settings,
)
from primegpt.data.preference import Pairs
from primegpt.data.reading import fetch
from primegpt.data.reading.sources import Document
from primegpt.errors import UsageError, require_within
from primegpt.evaluation.hellaswag import CHANCE, METRICS, Question, evaluate_hellaswag, read_questions
from primegpt.evaluation.rewards import Reward
from primegpt.evaluation.rewards import parse as parse_rewards
from primegpt.inference.decoder import begins_with
from primegpt.inference.run import Run, load
from primegpt.jobs.answers import (
    answers_to,
    comparable,
    given_prompts,
    measure_adherence,
    measure_memorization,
    refuse_without_prompts,
    unseen_prompts,
)
from primegpt.jobs.diverging import measure_divergence, run_beside
from primegpt.jobs.prompts import read_prompts
from primegpt.jobs.reference import judged_pairs
from primegpt.jobs.rewarding import measure_reward
from primegpt.jobs.text_loss import loss_of_text, own_corpus, reading_of
from primegpt.model.size import human_seconds
from primegpt.terminal import Say, to_stderr

MAX_LIMIT = 1_000_000  # questions or prompts, a hundred times as many as any benchmark has
PROMPTS = 100  # outputs written for adherence and memorisation, when no limit is given
SAID_EVERY = 10.0  # seconds between lines of progress


def evaluate(
    path: str | Path | None = None,
    *,
    text: str | None = None,
    checkpoint: str | int = "best",
    device: str = "auto",
    say: Say = to_stderr,
    **asked: Any,
) -> dict[str, Any]:
    """`evaluate_run` for the run at `path`, by default the latest; `text` is a source as for training."""
    return evaluate_run(load(path, checkpoint=checkpoint, device=device, say=say), text, say=say, **asked)


Measures = dict[str, Callable[[], dict[str, Any]]]  # by the name of their part of a report


def evaluate_run(
    run: Run,
    text: str | Path | Document | None = None,
    *,
    hellaswag: str | Path | None = None,
    adherence: bool = False,
    memorization: bool = False,
    harness: Sequence[str] = (),
    prompts: str | Path | None = None,
    reward: Sequence[str] = (),
    kl_from: str | Path | None = None,
    limit: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    settings: Settings | None = None,
    say: Say = to_stderr,
) -> dict[str, Any]:
    """What is asked for, as plain numbers by name; the loss on the run's own validation text when nothing is.

    `text` is a document, or a source as for training, read with the run's own template and fields, on top of which
    stands the section `data` of `settings`. `prompts`, a source too, has records with prompts. What the run writes to
    them is judged by the rewards named in `reward`, and compared with the run `kl_from`, to say how far the two are
    apart. Adherence takes the answers of these records for its ceiling. `limit` bounds questions, prompts and harness
    documents. `stride` lets windows of text overlap, and `batch_size` of them are computed at once. Everything is
    computed in the precision of the weights, without autocast.
    """
    others = bool(hellaswag or adherence or memorization or harness or prompts)
    require_within("limit", limit, 1, MAX_LIMIT)
    require_within("batch_size", batch_size, 1, MAX_BATCH)
    if (reward and not prompts) or (prompts and not (reward or adherence or kl_from)):
        raise UsageError("--prompts and --reward go together", "name a file of prompts, and what its answers are worth")
    if kl_from and not prompts:
        raise UsageError("--kl-from compares two runs where one answers --prompts", "name a file of prompts")
    given = reading_of(run.config, str(prompts), settings, run.tokenizer) if prompts else None
    rewards = parse_rewards(reward) if reward else None
    refuse_unused_options(text, prompts, others, limit=limit, stride=stride, batch_size=batch_size, settings=settings)
    run.require_memory(batch_size or 1, run.config.sequence_length, run.config.generate)
    read = reading_of(run.config, str(text), settings, run.tokenizer) if isinstance(text, str | Path) else text
    measures: Measures = {}
    if read or not others:
        measures["text"] = partial(loss_of_text, run, read, stride=stride, batch_size=batch_size, say=say)
    if not (read or others) and run.config.data.template == Pairs.name:
        measures["pairs"] = lambda: judged_pairs(run, own_corpus(run, say), say)
    if hellaswag:
        measures["hellaswag"] = partial(answer_hellaswag, run, questions_of(hellaswag, limit), say)
    if adherence or memorization:
        measures |= of_what_is_written(run, given, limit or PROMPTS, say, adherence, memorization)
    if given and (rewards or kl_from):
        measures |= of_answers(run, given, rewards, kl_from, limit, say)
    if harness:
        measures["harness"] = of_harness(run, harness, limit, say)
    # All that could be refused has been: what follows takes its time.
    return {"run": str(run.folder.path), "step": run.step} | {name: measure() for name, measure in measures.items()}


def of_what_is_written(
    run: Run, given: DataConfig | None, limit: int, say: Say, adherence: bool, memorization: bool
) -> Measures:
    """How far what `run` writes keeps to prompts, and how much of its training text it recites."""
    if adherence:
        refuse_without_prompts(run)
    unseen = given_prompts(run, given, limit, say) if given and adherence else []
    corpus = own_corpus(run, say) if memorization or not given else None
    unseen = unseen or (unseen_prompts(run, corpus, limit) if corpus else [])
    unseen = comparable(run, unseen) if adherence else unseen
    written = cache(partial(answers_to, run, unseen, say))  # once for both
    measures: Measures = {}
    if unseen and adherence:
        information = countdown(say, "prompt information")
        measures["adherence"] = lambda: measure_adherence(run, unseen, written(), information)
    if unseen and memorization and corpus:
        measures["memorization"] = lambda: measure_memorization(run, corpus, unseen, written())
    return measures


def of_answers(
    run: Run, given: DataConfig, rewards: Reward | None, kl_from: str | Path | None, limit: int | None, say: Say
) -> Measures:
    """What the answers of `run` to given prompts are worth, and how far it is from the run `kl_from` there."""
    asked = read_prompts(run, given, limit=limit, say=say)
    measures: Measures = {}
    if rewards:
        rewards.check(each.document for each in asked)
        source = {"source": ", ".join(given.sources)}
        measures["reward"] = lambda: source | measure_reward(run, asked, rewards, say)
    if kl_from:
        measures["kl"] = partial(measure_divergence, run, run_beside(run, kl_from, asked, say), asked, say)
    return measures


def of_harness(run: Run, tasks: Sequence[str], limit: int | None, say: Say) -> Callable[[], dict[str, Any]]:
    """Tasks of lm-eval, which may not be installed."""
    harness = import_module("primegpt.evaluation.harness")
    first = begins_with(run.tokenizer, run.config.generate)

    def measure() -> dict[str, Any]:
        progress = countdown(say, "harness")
        return harness.evaluate_harness(run.model, run.tokenizer, tasks, first=first, limit=limit, progress=progress)

    return measure


def refuse_unused_options(
    text: object,
    prompts: object,
    others: bool,
    *,
    limit: int | None,
    stride: int | None,
    batch_size: int | None,
    settings: Mapping[str, Any] | None,
) -> None:
    """Raise UsageError for an option that none of the measures asked for uses; `others` are all but that of a text."""
    unused = {
        "--limit": limit is not None and not others and "of questions, prompts and documents: a text is read whole",
        "--stride": stride is not None and others and text is None and "of the loss on a text",
        "--batch-size": batch_size is not None and others and text is None and "of the loss on a text",
        "--data.*": bool(settings) and text is None and not prompts and "of the source that --text or --prompts names",
    }
    for option, reason in unused.items():
        if reason:
            raise UsageError(f"{option} is {reason}", "leave it out")


def questions_of(path: str | Path, limit: int | None = None) -> list[Question]:
    """The questions of the file at `path`, or the fetched ones by their name, "hellaswag"."""
    if path == "hellaswag" and not Path(path).exists():
        (path,) = fetch.fetched("hellaswag")
    return read_questions(path, limit)


def answer_hellaswag(run: Run, questions: Sequence[Question], say: Say = to_stderr) -> dict[str, Any]:
    """Accuracy by each metric with its standard error, chance, and time per item."""
    started = time.perf_counter()
    result = evaluate_hellaswag(run.model, run.tokenizer, questions, progress=countdown(say, "HellaSwag"))
    report: dict[str, Any] = {}
    for metric in METRICS:
        error = result.standard_error(metric)
        report[metric] = result.accuracy(metric)
        report[f"{metric}_stderr"] = None if math.isnan(error) else error
    spent = time.perf_counter() - started
    return report | {
        "chance": CHANCE,
        "items": result.items,
        "contexts_cut": result.cut,
        "seconds_per_item": spent / result.items,
    }


def countdown(say: Say, what: str, every: float = SAID_EVERY) -> Callable[[int, int], None]:
    """A `progress` that says now and then how much is done and how long the rest will take."""
    started = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every and done:
            last = now
            say(f"{what}: {done:,} of {total:,}, {human_seconds((now - started) / done * (total - done))} left")

    return progress
