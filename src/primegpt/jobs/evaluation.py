"""Evaluation of a run: loss on a text, HellaSwag, adherence to prompts, memorisation, rewards, KL, harness tasks."""

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import glob
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from primegpt.config import (
    LABELS,
    LAYOUT,
    MAX_BATCH,
    Config,
    DataConfig,
    Layer,
    ReadingConfig,
    Settings,
    refuse_all_but,
    refuse_idle,
    resolve,
)
from primegpt.data.batching.batches import Batch
from primegpt.data.batching.examples import padded
from primegpt.data.batching.feed import fixed_batches
from primegpt.data.cleaning.clean import whole
from primegpt.data.layout import Layout
from primegpt.data.preference import Pairs
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import reopen
from primegpt.data.preparing.shards import REJECTED, SUPERVISED
from primegpt.data.preparing.survey import Library
from primegpt.data.reading import fetch
from primegpt.data.reading.sources import Document, has_fields, utf8_size
from primegpt.data.template import layout_name, source_layout
from primegpt.errors import DataError, UsageError, require_within
from primegpt.evaluation.hellaswag import CHANCE, METRICS, Question, evaluate_hellaswag, read_questions
from primegpt.evaluation.perplexity import evaluate_loss, sliding_windows
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
from primegpt.jobs.rewarding import measure_reward
from primegpt.model.size import human_seconds
from primegpt.run.contents import data_record
from primegpt.terminal import Say, silent, to_stderr
from primegpt.tokenizers.base import Tokenizer

MAX_LIMIT = 1_000_000  # questions or prompts, a hundred times as many as any benchmark has
PROMPTS = 100  # outputs written for adherence and memorisation, when no limit is given
BATCH_TOKENS = 8192
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
    judged = parse_rewards(reward) if reward else None
    refuse_unused_options(text, prompts, others, limit=limit, stride=stride, batch_size=batch_size, settings=settings)
    run.require_memory(batch_size or 1, run.config.sequence_length, run.config.generate)
    read = reading_of(run.config, str(text), settings, run.tokenizer) if isinstance(text, str | Path) else text
    questions = questions_of(hellaswag, limit) if hellaswag else []
    if adherence:
        refuse_without_prompts(run)
    own = given_prompts(run, given, limit or PROMPTS, say) if given and adherence else []
    corpus = own_corpus(run, say) if memorization or (adherence and not given) else None
    unseen = own or (unseen_prompts(run, corpus, limit or PROMPTS) if corpus else [])
    unseen = comparable(run, unseen) if adherence else unseen
    asked = read_prompts(run, given, limit=limit, say=say) if given and (judged or kl_from) else []
    if judged:
        judged.check(each.document for each in asked)
    beside = run_beside(run, kl_from, asked, say) if kl_from else None
    harness_module = import_module("primegpt.evaluation.harness") if harness else None  # which may not be installed
    # All that could be refused has been: what follows takes its time.
    report: dict[str, Any] = {"run": str(run.folder.path), "step": run.step}
    if read or not others:
        report["text"] = loss_of_text(run, read, stride=stride, batch_size=batch_size, say=say)
    if not (read or others) and run.config.data.template == Pairs.name:
        reference = import_module("primegpt.jobs.reference")  # which reads a base as we read a run
        report["pairs"] = reference.judged_pairs(run, own_corpus(run, say), say)
    if questions:
        report["hellaswag"] = answer_hellaswag(run, questions, say)
    if unseen:
        written = answers_to(run, unseen, say)
        if adherence:
            report["adherence"] = measure_adherence(run, unseen, written, countdown(say, "prompt information"))
        if memorization and corpus:
            report["memorization"] = measure_memorization(run, corpus, unseen, written)
    if judged:
        report["reward"] = {"source": str(prompts), **measure_reward(run, asked, judged, say)}
    if beside:
        report["kl"] = measure_divergence(run, beside, asked, say)
    if harness_module:
        how = {"limit": limit, "progress": countdown(say, "harness")}
        first = begins_with(run.tokenizer, run.config.generate)
        report["harness"] = harness_module.evaluate_harness(run.model, run.tokenizer, harness, first=first, **how)
    return report


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


# ---- text


def text_or_source(text: str | Path) -> str | Path | Document:
    """What a caller means by `text`: a string of several words that names no file is the text itself.

    A single line that ends like a file's name is taken for one, so that a misspelt name is not read as a text.
    """
    if isinstance(text, Path) or not any(map(str.isspace, text)):
        return text
    like_a_name = len(text.splitlines()) == 1 and re.search(r"\.[a-z]\w{1,7}$", text)
    return text if like_a_name or os.path.exists(text) or glob(text) else Document(text, "the text given")


def reading_of(
    run: Config, source: str, settings: Settings | None = None, tokenizer: Tokenizer | None = None
) -> DataConfig:
    """How a run of this configuration reads `source`: as its own text was, but for `settings`; nothing is cleaned.

    One that was trained on pairs reads records with an answer, in the layout that its `tokenizer` has the tokens of.
    """
    kept = {*LAYOUT, *LABELS, "songs", *(["text_field"] if has_fields(source) else [])}
    own = {
        "data": run.data.model_dump(include=kept, exclude_unset=True) | {"template": layout_name(run.data, tokenizer)}
    }
    wanted = {f"data.{name}" for name in ReadingConfig.model_fields} - {"data.sources"}
    refuse_all_but(wanted, settings or {}, "only training uses it: leave it out")
    config = resolve(own, settings or {}, {"data": {"sources": [source]}})
    refuse_idle(Layer(settings or {}), config)
    return config.data


def loss_of_text(
    run: Run,
    source: str | DataConfig | Document | None = None,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
    say: Say = to_stderr,
) -> dict[str, Any]:
    """Loss, perplexity and bits per byte, every target once.

    Of `source` (its name, what a configuration says of it, or a document itself) each document is read by itself,
    opened by the end-of-text id, and of records the answers count. The run's own validation text (None) is read as
    training judges it, as one stream.
    """
    read = reading_of(run.config, source, tokenizer=run.tokenizer) if isinstance(source, str) else source
    template = source_layout(read, run.tokenizer) if isinstance(read, DataConfig) else run.template
    if template and isinstance(read, Document):
        raise UsageError("this run was trained on records, and a text has no fields", "give a file of records")
    if stride is not None and template:
        raise UsageError("--stride lets windows of text overlap, and a record is a row by itself", "leave it out")
    length = run.config.sequence_length
    batch_size = batch_size or max(1, BATCH_TOKENS // length)
    if stride is not None and not 1 <= stride <= length:
        raise UsageError(f"--stride {stride} is outside 1 to {length}", "a window must not skip a token")
    if read is None:
        batches, text_bytes = _own_text(run, length, batch_size, stride, say)
        name = "the run's validation text" + (", chosen answers" if run.config.data.template == Pairs.name else "")
    elif isinstance(read, Document):
        batches, text_bytes = _windows(run, [read.text], length, batch_size, stride, say)
        name = read.source
    elif template:
        batches, text_bytes = _records(run, read, template, length, batch_size, say)
        name = ", ".join(read.sources)
    else:
        documents = [document.text for document in whole(Library(read, say))]
        batches, text_bytes = _windows(run, documents, length, batch_size, stride, say)
        name = ", ".join(read.sources)
    device = run.model.device.type
    result = evaluate_loss(run.model, batches, text_bytes=text_bytes, device=device)
    return {
        "source": name,
        "unit": run.unit,
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "tokens": result.targets,
        "bytes": text_bytes,
    }


def _own_text(run: Run, length: int, batch_size: int, stride: int | None, say: Say) -> tuple[Iterator[Batch], int]:
    """Batches that ask for every token of the run's own validation text once, and the bytes of it."""
    corpus = own_corpus(run, say)
    if stride is None:
        return fixed_batches(run.config.with_values(train={"batch_size": batch_size}), corpus.val), corpus.val_bytes
    documents = _documents(corpus, run.config.data.isolate_documents)
    return sliding_windows(documents, length=length, batch_size=batch_size, stride=stride), corpus.val_bytes


def _windows(
    run: Run, documents: Sequence[str], length: int, batch_size: int, stride: int | None, say: Say
) -> tuple[Iterator[Batch], int]:
    """Batches that ask for every token of `documents` once, and the bytes of these."""
    _say_unknown(run, documents, say)
    first = begins_with(run.tokenizer, run.config.generate)
    opened = (np.array([first, *run.tokenizer.encode_array(each)]) for each in documents)
    batches = sliding_windows(opened, length=length, batch_size=batch_size, stride=stride)
    return batches, sum(map(utf8_size, documents))


def _records(
    run: Run, read: DataConfig, template: Layout, length: int, batch_size: int, say: Say
) -> tuple[Iterator[Batch], int]:
    """The records of a source as batches, supervised on their answers, and the size of these; of pairs, the chosen."""
    documents = Library(read, say)
    rows = [
        row
        for number, document in enumerate(documents)
        for row in template.rows(document, number, run.tokenizer, length + 1)
    ]
    answers = (row.ids[row.roles == SUPERVISED] for row in rows)
    size = sum(len(run.tokenizer.decode_bytes(ids, skip_special_tokens=True)) for ids in answers)
    starts = range(0, len(rows), batch_size)
    kept = [(row.ids[row.roles != REJECTED], row.roles[row.roles != REJECTED]) for row in rows]
    asked = [(ids, roles == SUPERVISED) for ids, roles in kept]
    return (padded(asked[start : start + batch_size], start) for start in starts), size


def own_corpus(run: Run, say: Say = to_stderr) -> Corpus:
    """The text that a run was trained on, as shards. Raises MismatchError when it is gone or has changed."""
    if run.config.reinforce.on:
        what = f"{run.folder.path} has learnt from rewards, and has no validation text"
        raise DataError(what, "name one with --text, or prompts with --prompts and --reward")
    newest = run.folder.load_newest(silent, (), resumable=False)
    record = data_record(run.folder, say, newest)
    if record is None:
        raise DataError(f"{run.folder.path} does not say what text it was trained on", "name one with --text")
    return reopen(record, run.config.data, run.tokenizer, context=run.config.sequence_length, say=say)


def _documents(corpus: Corpus, isolate: bool) -> Iterator[np.ndarray]:
    starts = corpus.val.document_starts if isolate else [0]
    for start, stop in zip(starts, [*starts[1:], len(corpus.val)], strict=True):
        yield corpus.val.slice(int(start), int(stop))


def _say_unknown(run: Run, documents: Sequence[str], say: Say) -> None:
    unknown = sum(sum(run.tokenizer.count_unknown(each).values()) for each in documents)
    if unknown:
        token = run.tokenizer.unk_token
        counted = f"its loss on them is that of {token}" if token else "they are left out"
        say(f"{unknown:,} characters are not in the run's vocabulary: {counted}")


# ---- HellaSwag


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
