"""From sources to a tokenized corpus: read, hold out validation text, tokenize, and keep the result in a cache.

    cache/data/KEY/{tokenizer, train, val}

KEY names everything that determines the shards: the text, the tokenizer, the split. Equal requests share one entry,
which is built in a folder of its own and renamed when it is whole, so that processes never see each other's halves.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.clean import clean_documents
from primegpt.data.shards import FORMAT_VERSION, Shards, ShardWriter
from primegpt.data.sources import STDIN, Document, source_fingerprint, split_at_byte, utf8_size
from primegpt.errors import DataError, MismatchError, PrimegptError
from primegpt.seeds import derive_seed
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer, in_threads

SPLITTING = 1  # version of how validation text is chosen: part of the key
BATCH_CHARACTERS = 4_000_000  # tokenized at once: enough for every core, little to hold in memory
NAMED_UNKNOWN = 10  # characters named in one line

Report = Callable[[str], None]


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Corpus:
    """A tokenized text, split for training and validation, and the tokenizer it was written with."""

    train: Shards
    val: Shards
    tokenizer: Tokenizer
    n_documents: int
    """Documents read; a single one is in both splits, its end in `val`."""
    source_fingerprint: str
    folder: Path
    """Where the shards lie in the cache."""

    @property
    def train_bytes(self) -> int:
        return self.train.text_bytes

    @property
    def val_bytes(self) -> int:
        return self.val.text_bytes

    @property
    def bytes_per_token(self) -> float:
        """Bytes of validation text per validation target: bits per byte = loss / ln 2 / this."""
        return self.val_bytes / (len(self.val) - 1)

    def record(self) -> dict[str, Any]:
        """What a run keeps in data.json, for `reopen`."""
        return {
            "train_fingerprint": self.train.fingerprint,
            "val_fingerprint": self.val.fingerprint,
            "tokenizer_fingerprint": self.tokenizer.fingerprint,
            "source_fingerprint": self.source_fingerprint,
            "folder": str(self.folder),
            "n_documents": self.n_documents,
            "train_bytes": self.train_bytes,
            "val_bytes": self.val_bytes,
        }

    def close(self) -> None:
        self.train.close()
        self.val.close()


def cache_folder(cache: Path | None = None) -> Path:
    """Where prepared data is kept: in `cache`, else in $PRIMEGPT_CACHE, else in the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(cache or os.environ.get("PRIMEGPT_CACHE") or user_cache_path("primegpt")) / "data"


def prepare(
    config: DataConfig, tokenizer_config: TokenizerConfig, *, cache: Path | None = None, report: Report = _silent
) -> Corpus:
    """Read `config.sources` and return them as shards, built now or taken from the cache if nothing has changed.

    `cache` is as in `cache_folder`; `report` gets a line for each thing worth knowing. Raises DataError for text that
    cannot be used.
    """
    tokenizer = store.load(tokenizer_config.path) if tokenizer_config.path else None
    documents = list(clean_documents(config, report))
    return _prepare(documents, config, tokenizer or tokenizer_config, cache, report)


def reopen(
    record: Mapping[str, Any],
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    cache: Path | None = None,
    report: Report = _silent,
) -> Corpus:
    """The corpus of a run, from its `Corpus.record()`, configuration and tokenizer.

    Shards that left the cache are built again from the sources. Raises MismatchError if the sources have changed, or
    if they are gone.
    """
    source = record["source_fingerprint"]
    for folder in dict.fromkeys((Path(record["folder"]), _entry(cache, source, tokenizer, config))):
        corpus = _cached(folder, record["n_documents"], report)
        if corpus and _is_recorded(corpus, record):
            return corpus
    if STDIN in config.sources:
        raise MismatchError(
            f"the shards in {record['folder']} are gone, and their text came from standard input",
            "save that text to a file and start a new run",
        )
    report(f"the shards in {record['folder']} are gone; reading their text again")
    documents = list(clean_documents(config, report))
    if (found := source_fingerprint(documents)) != source:
        raise MismatchError(
            f"the text of this run has changed: its fingerprint was {source} and is now {found}",
            "put the original text back, or start a new run",
        )
    corpus = _prepare(documents, config, tokenizer, cache, report)
    if not _is_recorded(corpus, record):
        raise MismatchError(
            f"the shards of this run were {_names(record)}, and the same text now gives {_names(corpus.record())}",
            "resume with the version of primegpt that began it, or start a new run",
        )
    return corpus


def split_documents(documents: Sequence[Document], val_fraction: float) -> tuple[list[Document], list[Document]]:
    """Training and validation documents: whole ones, or the last `val_fraction` of the bytes of a single one.

    Depends on nothing but its arguments: runs of different seeds share their validation text.
    """
    if len(documents) > 1:
        held_out = _hold_out([utf8_size(document.text) for document in documents], val_fraction)
        train = [document for index, document in enumerate(documents) if index not in held_out]
        return train, [documents[index] for index in sorted(held_out)]
    document = documents[0]
    parts = split_at_byte(document.text, int(utf8_size(document.text) * (1 - val_fraction)))
    if not all(parts):
        raise DataError(f"{document.source} is too short to hold out data.val_fraction = {val_fraction}", "add text")
    train_part, val_part = (Document(part, document.source) for part in parts)
    return [train_part], [val_part]


def _hold_out(sizes: Sequence[int], val_fraction: float) -> set[int]:
    """Indices of validation documents, drawn until their bytes reach the fraction; at least one on each side."""
    budget = val_fraction * sum(sizes)
    drawn = sorted(range(len(sizes)), key=lambda index: derive_seed(0, "validation split", index))
    # One long book among short ones must not become the validation text by bad luck.
    fitting = [index for index in drawn if sizes[index] <= budget] or [min(drawn, key=sizes.__getitem__)]
    total, chosen = 0, set[int]()
    for index in fitting[: len(sizes) - 1]:
        if total >= budget:
            break
        total += sizes[index]
        chosen.add(index)
    return chosen


def _prepare(
    documents: list[Document],
    config: DataConfig,
    tokenizer: Tokenizer | TokenizerConfig,
    cache: Path | None,
    report: Report,
) -> Corpus:
    """Shards of `documents`, with the given tokenizer or one trained by its configuration."""
    source = source_fingerprint(documents)
    folder = _entry(cache, source, tokenizer, config)
    if not isinstance(tokenizer, TokenizerConfig):
        _report_unknown(documents, tokenizer, report)
    if corpus := _cached(folder, len(documents), report):
        return corpus
    train, val = split_documents(documents, config.val_fraction)
    if isinstance(tokenizer, TokenizerConfig):
        tokenizer = _train_tokenizer(tokenizer, train, val, report)
    _build(folder, tokenizer, train, val, source, report)
    corpus = _cached(folder, len(documents), report)
    assert corpus, f"{folder} was just written"
    return corpus


def _entry(cache: Path | None, source: str, tokenizer: Tokenizer | TokenizerConfig, config: DataConfig) -> Path:
    """The folder of the cache for this text, tokenizer and split."""
    settings = [FORMAT_VERSION, SPLITTING, source, _identity(tokenizer), config.val_fraction]
    return cache_folder(cache) / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]


def _identity(tokenizer: Tokenizer | TokenizerConfig) -> list[Any]:
    """What makes two tokenizers the same: the fingerprint of a given one, the settings of one to be trained."""
    if not isinstance(tokenizer, TokenizerConfig):
        return [tokenizer.fingerprint]
    return [tokenizer.kind, tokenizer.learnt_vocab_size, list(tokenizer.special_tokens.items())]


def _cached(folder: Path, n_documents: int, report: Report) -> Corpus | None:
    """The entry in `folder`, every byte of it verified, or None if it is absent or damaged."""
    if not folder.is_dir():
        return None
    try:
        tokenizer = store.load(folder / "tokenizer")
        train, val = (Shards.open(folder / split, tokenizer.fingerprint).verify() for split in ("train", "val"))
    except PrimegptError as error:
        report(f"{error.what}; the data is prepared again")
        return None
    return Corpus(train, val, tokenizer, n_documents, train.source_fingerprint, folder)


def _train_tokenizer(
    config: TokenizerConfig, train: Sequence[Document], val: Sequence[Document], report: Report
) -> Tokenizer:
    size = config.learnt_vocab_size
    if config.kind == "char":
        # Over all of the text, so that no character of the user's own is unknown: the model learns no more of the
        # validation text from this than its alphabet. Merges would tell more, and come from training text alone.
        return store.train("char", (document.text for document in (*train, *val)), size, config.special_tokens)
    if size:
        report(f"training a {config.kind} tokenizer of {size:,} ids on {_size(train)}")
    return store.train(config.kind, (document.text for document in train), size, config.special_tokens)


def _build(
    folder: Path,
    tokenizer: Tokenizer,
    train: Sequence[Document],
    val: Sequence[Document],
    source: str,
    report: Report,
) -> None:
    """Write a whole entry beside `folder`, then rename it; if another process was first, its entry stays."""
    report(f"tokenizing {_size([*train, *val])}")
    unfinished = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        unfinished.mkdir(parents=True)
        store.save(tokenizer, unfinished / "tokenizer")
        _write(unfinished / "train", train, tokenizer, source)
        _write(unfinished / "val", val, tokenizer, source)
        _install(unfinished, folder)
    except OSError as error:
        raise PrimegptError(
            f"{folder.parent}: the prepared data cannot be written: {error.strerror or error}",
            "make room there, or point the environment variable PRIMEGPT_CACHE at another folder",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _install(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:  # there is one already: another process was first, or it is damaged
        if not _cached(folder, 0, _silent):
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)


def _write(folder: Path, documents: Sequence[Document], tokenizer: Tokenizer, source: str) -> None:
    """One split as shards, each document opened by the end-of-text id: every real token then has a context."""
    end_of_text = np.array([tokenizer.eot_id])
    with ShardWriter(folder, tokenizer.id_dtype) as writer:
        for texts in _batches(documents):
            for ids in in_threads(tokenizer.encode_array, texts):
                writer.write(np.concatenate([end_of_text, ids]))
        writer.close(
            tokenizer_fingerprint=tokenizer.fingerprint,
            source_fingerprint=source,
            split=folder.name,
            text_bytes=sum(utf8_size(document.text) for document in documents),
        )


def _batches(documents: Sequence[Document]) -> Iterator[list[str]]:
    texts, characters = list[str](), 0
    for document in documents:
        texts.append(document.text)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield texts
            texts, characters = [], 0
    yield texts


def _report_unknown(documents: Sequence[Document], tokenizer: Tokenizer, report: Report) -> None:
    unknown: Counter[str] = Counter()
    for document in documents:
        unknown.update(tokenizer.count_unknown(document.text))
    if unknown:
        named = ", ".join(f"{character!r} ×{count:,}" for character, count in unknown.most_common(NAMED_UNKNOWN))
        rest = f" and {len(unknown) - NAMED_UNKNOWN:,} other kinds" if len(unknown) > NAMED_UNKNOWN else ""
        report(
            f"{unknown.total():,} characters are not in the tokenizer and become {tokenizer.unk_token}: {named}{rest}"
        )


def _is_recorded(corpus: Corpus, record: Mapping[str, Any]) -> bool:
    return _names(corpus.record()) == _names(record)


def _names(record: Mapping[str, Any]) -> str:
    return f"{record['train_fingerprint']} (training) and {record['val_fingerprint']} (validation)"


def _size(documents: Sequence[Document]) -> str:
    return f"{sum(utf8_size(document.text) for document in documents) / 1e6:,.1f} MB"
