"""The loss of a run on a text: its own validation text, as training judges it, or one that is named."""

import os
import re
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from primegpt.config import (
    LABELS,
    LAYOUT,
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
from primegpt.data.reading.sources import Document, has_fields, utf8_size
from primegpt.data.template import layout_name, source_layout
from primegpt.errors import DataError, UsageError
from primegpt.evaluation.perplexity import evaluate_loss, sliding_windows
from primegpt.inference.decoder import begins_with
from primegpt.inference.run import Run
from primegpt.run.contents import data_record
from primegpt.terminal import Say, silent, to_stderr
from primegpt.tokenizers.base import Tokenizer

BATCH_TOKENS = 8192


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
