"""Evaluation of a run: its loss on a text, HellaSwag, adherence to prompts, memorisation, any harness task."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from primegpt.api.runs import Run, Say, load, to_stderr
from primegpt.data import fetch
from primegpt.data.batches import Batch
from primegpt.data.clean import whole
from primegpt.data.corpus import Corpus
from primegpt.data.examples import padded, question, read
from primegpt.data.feed import fixed_batches
from primegpt.data.prepare import reopen
from primegpt.data.shards import SUPERVISED
from primegpt.data.songbook import Song, songbook
from primegpt.data.sources import SONGBOOK, Document, read_documents, utf8_size
from primegpt.data.template import CONTEXT, Example
from primegpt.errors import DataError, UsageError
from primegpt.evaluation import adherence as adhering
from primegpt.evaluation import hellaswag as quiz
from primegpt.evaluation.memorization import Copied, copied_from
from primegpt.evaluation.perplexity import LossResult, evaluate_loss, sliding_windows
from primegpt.evaluation.scoring import encode_pair
from primegpt.model.size import human_seconds

PROMPT_SEED = 2  # of the songs that prompts are taken from; runs learn from the songbook of seed 0
PROMPTS = 100  # outputs written for adherence and memorisation, when no limit is given
BATCH_TOKENS = 8192
OPENING = 16  # tokens of held-out text that are continued where texts have no prompts
SAID_EVERY = 10.0  # seconds between lines of progress


def evaluate(
    path: str | Path | None = None,
    *,
    text: str | None = None,
    hellaswag: str | Path | None = None,
    adherence: bool = False,
    memorization: bool = False,
    harness: Sequence[str] = (),
    limit: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    checkpoint: str | int = "best",
    device: str = "auto",
    say: Say = to_stderr,
) -> dict[str, Any]:
    """What is asked for, as plain numbers by name; the loss on the run's own validation text when nothing is.

    `text` is a source as for training. `limit` bounds questions, prompts and harness documents. `stride` lets windows
    of text overlap, and `batch_size` of them are computed at once. Everything is computed in the precision of the
    weights, without autocast.
    """
    run = load(path, checkpoint=checkpoint, device=device, say=say)
    report: dict[str, Any] = {"run": str(run.folder.path), "step": run.step}
    if text is not None or not (hellaswag or adherence or memorization or harness):
        report["text"] = loss_of_text(run, text, stride=stride, batch_size=batch_size, say=say)
    if hellaswag:
        report["hellaswag"] = answer_hellaswag(run, hellaswag, limit=limit, say=say)
    if adherence or memorization:
        corpus = own_corpus(run, say)
        examples = write_examples(run, corpus, limit or PROMPTS, say)
        if adherence:
            report["adherence"] = measure_adherence(run, examples, say)
        if memorization:
            report["memorization"] = measure_memorization(run, corpus, examples)
    if harness:
        from primegpt.evaluation.harness import evaluate_harness

        progress = countdown(say, "harness")
        report["harness"] = evaluate_harness(run.model, run.tokenizer, harness, limit=limit, progress=progress)
    return report


# ---- text


def loss_of_text(
    run: Run,
    source: str | None = None,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
    say: Say = to_stderr,
) -> dict[str, Any]:
    """Loss, perplexity and bits per byte, every target once.

    On `source` each document is read by itself, opened by the end-of-text id. The run's own validation text (None) is
    read as training judges it, as one stream.
    """
    length = run.config.sequence_length
    batch_size = batch_size or max(1, BATCH_TOKENS // length)
    if stride is not None and not 1 <= stride <= length:
        raise UsageError(f"--stride {stride} is outside 1 to {length}", "a window must not skip a token")
    if source is None:
        corpus = own_corpus(run, say)
        batches = (
            fixed_batches(run.config.with_values(train={"batch_size": batch_size}), corpus.val)
            if stride is None or run.template
            else sliding_windows(
                _documents(corpus, run.config.data.isolate_documents),
                length=length,
                batch_size=batch_size,
                stride=stride,
            )
        )
        text_bytes, name = corpus.val_bytes, "the run's validation text"
    elif run.template:
        batches, text_bytes = _records(run, source, length, batch_size)
        name = source
    else:
        documents = [document.text for document in whole(read_documents([source], songs=run.config.data.songs))]
        _say_unknown(run, documents, say)
        opened = (np.array([run.tokenizer.eot_id, *run.tokenizer.encode_array(each)]) for each in documents)
        batches = sliding_windows(opened, length=length, batch_size=batch_size, stride=stride)
        text_bytes, name = sum(map(utf8_size, documents)), source
    result: LossResult = evaluate_loss(
        run.model, batches, text_bytes=text_bytes, device=run.model.wte.weight.device.type
    )
    return {
        "source": name,
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "tokens": result.targets,
        "bytes": text_bytes,
    }


def _records(run: Run, source: str, length: int, batch_size: int) -> tuple[Iterator[Batch], int]:
    """The records of a source as batches, supervised on their answers, and the size of these answers."""
    template = run.template
    assert template is not None
    documents = read_documents([source], songs=run.config.data.songs, text_field=None)
    rows = [template.encode(document, n, run.tokenizer, length + 1) for n, document in enumerate(documents)]
    answers = (row.ids[row.roles == SUPERVISED] for row in rows)
    size = sum(len(run.tokenizer.decode_bytes(ids, skip_special_tokens=True)) for ids in answers)
    starts = range(0, len(rows), batch_size)
    asked = [(row.ids, row.roles == SUPERVISED) for row in rows]
    return (padded(asked[start : start + batch_size], start) for start in starts), size


def own_corpus(run: Run, say: Say = to_stderr) -> Corpus:
    """The text that a run was trained on, as shards. Raises MismatchError when it is gone or has changed."""
    if not run.folder.data_path.exists():
        raise DataError(f"{run.folder.path} does not say what text it was trained on", "name one with --text")
    record = json.loads(run.folder.data_path.read_text(encoding="utf-8"))
    return reopen(record, run.config.data, run.tokenizer, context=run.config.sequence_length, report=say)


def _documents(corpus: Corpus, isolate: bool) -> Iterator[np.ndarray]:
    starts = corpus.val.document_starts if isolate else [0]
    for start, stop in zip(starts, [*starts[1:], len(corpus.val)], strict=True):
        yield corpus.val.slice(int(start), int(stop))


def _say_unknown(run: Run, documents: Sequence[str], say: Say) -> None:
    unknown = sum(sum(run.tokenizer.count_unknown(each).values()) for each in documents)
    if unknown:
        token = run.tokenizer.unk_token
        say(f"{unknown:,} characters are not in the run's vocabulary: its loss on them is that of {token}")


# ---- HellaSwag


def answer_hellaswag(run: Run, path: str | Path, *, limit: int | None = None, say: Say = to_stderr) -> dict[str, Any]:
    """Accuracy by each metric with its standard error, chance, and time per item.

    The questions are those of the file at `path`, or the fetched ones by their name, "hellaswag".
    """
    if path == "hellaswag" and not Path(path).exists():
        (path,) = fetch.fetched("hellaswag")
    questions = quiz.read_questions(path, limit)
    started = time.perf_counter()
    result = quiz.evaluate_hellaswag(run.model, run.tokenizer, questions, progress=countdown(say, "HellaSwag"))
    report: dict[str, Any] = {}
    for metric in quiz.METRICS:
        error = result.standard_error(metric)
        report[metric] = result.accuracy(metric)
        report[f"{metric}_stderr"] = None if math.isnan(error) else error
    spent = time.perf_counter() - started
    return report | {
        "chance": quiz.CHANCE,
        "items": result.items,
        "contexts_cut": result.cut,
        "seconds_per_item": spent / result.items,
    }


# ---- what the run writes


@dataclass(frozen=True)
class Examples:
    """Contexts, what the run wrote behind them, and what stands there in truth; ids, without end of text."""

    contexts: list[list[int]]
    outputs: list[list[int]]
    truth: list[list[int]]
    texts: list[str]
    """The outputs as text."""
    songs: list[Song] | None
    """The songs that the prompts are of; None for text without prompts."""


def write_examples(run: Run, corpus: Corpus, count: int, say: Say = to_stderr) -> Examples:
    """`count` outputs by the run's own generation settings, from prompts that it has not seen."""
    songs = list(songbook(count, seed=PROMPT_SEED)) if SONGBOOK in run.config.data.sources else None
    pairs = [song_pair(run, song) for song in songs] if songs else _held_out_pairs(run, corpus, count)
    say(f"writing {len(pairs)} texts of at most {run.config.generate.max_new_tokens} tokens")
    contexts = [context for context, _ in pairs]
    written = [samples[0] for samples in run.generator().generate(contexts, run.settings())]
    texts = [completion.text for completion in written]
    return Examples(contexts, [c.ids for c in written], [truth for _, truth in pairs], texts, songs)


def song_pair(run: Run, song: Song) -> tuple[list[int], list[int]]:
    """A song's prompt and its lyrics in ids, as they stood in training."""
    if run.template is None:
        prompt, lyrics = encode_pair(run.tokenizer, f"{song.prompt}\n\n", song.lyrics)
        return [run.tokenizer.eot_id, *prompt], lyrics
    example = _song_record(run, song)
    context, lyrics = example.ids[example.roles != SUPERVISED], example.ids[example.roles == SUPERVISED]
    return context.tolist(), [id for id in lyrics.tolist() if id != run.tokenizer.token_id(run.template.stop_token)]


def _song_record(run: Run, song: Song) -> Example:
    """A song as a record of a run with a template, in as many tokens as the model sees."""
    assert run.template is not None
    fields = {"prompt": song.prompt, "genre": song.genre, "emotion": song.emotion, "lyrics": song.lyrics}
    return run.template.encode(Document("", SONGBOOK, fields), 0, run.tokenizer, run.config.model.block_size + 1)


def _held_out_pairs(run: Run, corpus: Corpus, count: int) -> list[tuple[list[int], list[int]]]:
    """Questions and answers of held-out records; or places in held-out text: a few tokens, and how they go on."""
    if corpus.val.has_roles:
        records = range(min(count, corpus.val.n_documents))
        asked = [question(corpus.val, record) for record in records]
        return [(q, read(corpus.val, n)[0][len(q) :].tolist()) for n, q in zip(records, asked, strict=True)]
    length, eot = OPENING + run.config.generate.max_new_tokens, run.tokenizer.eot_id
    places = np.unique(np.linspace(0, max(0, len(corpus.val) - length), count).astype(int))
    windows = [corpus.val.slice(int(place), int(place) + length).tolist() for place in places]
    pairs = [(window[:OPENING], window[OPENING:]) for window in windows]
    return [(context, truth[: truth.index(eot)] if eot in truth else truth) for context, truth in pairs]


# ---- adherence and memorisation


def measure_adherence(run: Run, examples: Examples, say: Say = to_stderr) -> dict[str, Any]:
    """Adherence of what the run wrote, that of real songs as the ceiling, and prompt information.

    Raises DataError for a run whose texts have no prompts.
    """
    songs = examples.songs
    if not songs or len(songs) < 2:
        raise DataError(
            f"adherence needs prompts, two or more: {run.folder.path} was not trained on the songbook"
            if not songs
            else "adherence compares prompts with each other, and --limit leaves one",
            "measure a run of `primegpt train songbook`" if not songs else "raise --limit",
        )
    no_prompt = without_prompt(run, songs[0])
    pairs = list(zip(examples.contexts, examples.truth, strict=True))
    if max(map(len, examples.contexts)) >= run.config.model.block_size:
        raise DataError(f"the prompts fill the model's block of {run.config.model.block_size} tokens")
    information = adhering.prompt_information(
        run.model, pairs, no_prompt, progress=countdown(say, "prompt information")
    )
    return {
        "generated": _adherence_to(songs, examples.texts),
        "songbook": _adherence_to(songs, [song.lyrics for song in songs]),
        "prompt_information": asdict(information),
    }


def without_prompt(run: Run, song: Song) -> list[int]:
    """What stands before a song whose prompt is left out, as training leaves it out."""
    if run.template is None:
        return [run.tokenizer.eot_id, *encode_pair(run.tokenizer, "\n\n", song.lyrics)[0]]
    example = _song_record(run, song)
    return example.ids[example.roles == CONTEXT].tolist()


def _adherence_to(songs: Sequence[Song], outputs: Sequence[str]) -> dict[str, Any]:
    asked = [song.genre for song in songs], [song.emotion for song in songs], [song.themes for song in songs]
    by_kind = adhering.song_adherence(*asked, outputs)
    measures = {"words": adhering.word_adherence([song.prompt for song in songs], outputs), **by_kind}
    return {name: asdict(measure) for name, measure in measures.items()}


def measure_memorization(run: Run, corpus: Corpus, examples: Examples) -> dict[str, Any]:
    """What the run wrote, and as much held-out text, against its training text."""
    truth = [ids[: len(output)] for ids, output in zip(examples.truth, examples.outputs, strict=True)]
    written, held_out = (copied_from(texts, corpus.train) for texts in (examples.outputs, truth))
    return {"generated": _copied(run, written), "held_out": _copied(run, held_out)}


def _copied(run: Run, copied: Copied) -> dict[str, Any]:
    shares = {f"share_{n}": share for n, share in copied.shares.items()}
    return {**shares, "longest": copied.longest, "longest_text": run.tokenizer.decode(copied.span)}


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
