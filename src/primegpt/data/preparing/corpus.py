"""A prepared corpus, and the cache that it lies in.

    cache/data/KEY/{tokenizer, train, val, corpus.json}

KEY names everything that determines the shards: the text, the tokenizer, the split, the layout of records. Equal
requests share one entry. It is built in KEY.partial, under a lock, and renamed when it is whole; a process that was
killed leaves what it had done there, for the next one to finish (blocks.py).
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.layout import Tally
from primegpt.data.preparing.blocks import SPLITS, Part
from primegpt.data.preparing.shards import FORMAT_VERSION, PREPARE_AGAIN, Shards, fingerprint_of
from primegpt.errors import DataError, PrimegptError
from primegpt.run.atomic import write_json_atomic
from primegpt.terminal import Say
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer

FACTS = "corpus.json"
SPLITTING = 5  # version of how validation text is chosen, records laid out and blocks cut: part of the key


@dataclass(frozen=True, eq=False)
class Corpus:
    """A tokenized text, split for training and validation, and the tokenizer it was written with."""

    train: Shards
    val: Shards
    tokenizer: Tokenizer
    n_documents: int
    """Documents read; one whose end is held out is in both splits."""
    source_fingerprint: str
    folder: Path
    """Where the shards lie in the cache."""
    tally: Tally
    """What was seen in records with an answer; empty for plain text."""
    train_documents: list[int]
    """Documents in `train` of each source, in order."""

    @property
    def train_bytes(self) -> int:
        return self.train.text_bytes

    @property
    def val_bytes(self) -> int:
        return self.val.text_bytes

    def train_parts(self) -> list[Shards]:
        """`train` by source."""
        stops = list(accumulate(self.train_documents))
        return [self.train.part(stop - n, stop) for n, stop in zip(self.train_documents, stops, strict=True)]

    @property
    def val_targets(self) -> int:
        """Tokens of the validation split that are asked for: all but the first, or the answers of records."""
        return self.val.supervised_tokens if self.val.has_roles else len(self.val) - 1

    @property
    def bytes_per_token(self) -> float:
        """Bytes of validation text per validation target: bits per byte = loss / ln 2 / this."""
        return self.val_bytes / self.val_targets

    def record(self) -> dict[str, Any]:
        """What a run keeps in data.json, for `reopen`."""
        return {
            "train_fingerprint": self.train.fingerprint,
            "val_fingerprint": self.val.fingerprint,
            "tokenizer_fingerprint": self.tokenizer.fingerprint,
            "source_fingerprint": self.source_fingerprint,
            "folder": str(self.folder),
            "preparation": SPLITTING,
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


def entry_of(
    cache: Path | None, source: str, tokenizer: Tokenizer | TokenizerConfig, config: DataConfig, context: int
) -> Path:
    """The folder of the cache for this text, tokenizer, split and layout."""
    values = list(settings_of(source, tokenizer, config, context).values())
    return cache_folder(cache) / hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def settings_of(
    source: str, tokenizer: Tokenizer | TokenizerConfig, config: DataConfig, context: int
) -> dict[str, Any]:
    """All that determines an entry, by names that a user knows; the order is part of the key.

    What the text is made into by other settings is part of the text already (`Survey.fingerprint`).
    """
    settings: dict[str, Any] = {
        "the format": FORMAT_VERSION,
        "the version of splitting": SPLITTING,
        "the text": source,
        "the tokenizer": _identity(tokenizer),
        "data.val_fraction": config.val_fraction,
    }
    if config.template != "text":
        settings |= {"data.template": config.template, "the context": context}
    return settings


def _identity(tokenizer: Tokenizer | TokenizerConfig) -> list[object]:
    """What makes two tokenizers the same: the fingerprint of a given one, the settings of one to be trained."""
    if not isinstance(tokenizer, TokenizerConfig):
        return [tokenizer.fingerprint]
    return [tokenizer.kind, tokenizer.learnt_vocab_size, list(tokenizer.special_tokens.items())]


def cached(folder: Path, say: Say, tokenizer: Tokenizer | None = None) -> Corpus | None:
    """The entry in `folder`, every byte of it verified, or None if it is absent or damaged.

    Its `tokenizer` is read from it unless it is at hand.
    """
    if not folder.is_dir():
        return None
    try:
        tokenizer = tokenizer or store.load(folder / "tokenizer")
        train, val = (Shards.open(folder / split, tokenizer.fingerprint).verify() for split in SPLITS)
        facts = _read_facts(folder / FACTS, train, val)
        tally = Tally.from_json(facts["tally"])
        of_sources = facts["train_documents"]
        return Corpus(train, val, tokenizer, facts["n_documents"], train.source_fingerprint, folder, tally, of_sources)
    except (PrimegptError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        say(f"{getattr(error, 'what', error)}; the data is prepared again")
        return None


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what is known of a corpus beside its shards, with their fingerprints and a hash of itself."""
    shards = [Shards.open(folder / split).fingerprint for split in SPLITS]
    facts = {**facts, "shards": shards}
    write_json_atomic(folder / FACTS, {**facts, "fingerprint": fingerprint_of(facts)})


def _read_facts(path: Path, train: Shards, val: Shards) -> dict[str, Any]:
    """What `write_facts` wrote. Raises DataError if it is damaged, or of other shards.

    Earlier versions wrote no hash. Of theirs that is taken which the shards, of which every byte is verified, bear out.
    """
    facts = json.loads(path.read_bytes())
    if not isinstance(facts, dict):
        raise DataError(f"{path} is damaged: it holds no object", PREPARE_AGAIN)
    if facts.keys() <= {"n_documents", "tally", "train_documents"}:
        documents = facts.get("train_documents", [train.n_documents])
        if sum(documents) == train.n_documents and min(documents) > 0:
            return {"n_documents": facts["n_documents"], "tally": {}, "train_documents": documents}
    elif facts["fingerprint"] == fingerprint_of(facts) and facts["shards"] == [train.fingerprint, val.fingerprint]:
        return facts
    raise DataError(f"{path} is damaged: its hash does not match its content", PREPARE_AGAIN)


@contextmanager
def locked(folder: Path, say: Say) -> Iterator[None]:
    """The right to build `folder`, for one process at a time; it goes when the process does."""
    lock = _lock_beside(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process is preparing the same data; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_part(folder: Path, part: Part) -> Iterator[None]:
    """The right to build `part` of `folder`. Raises DataError if another process has it."""
    lock = _lock_beside(folder, f".{part.index}-of-{part.count}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"part {part} is being prepared by another process", "give each process a part of its own"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _lock_beside(folder: Path, part: str = "") -> FileLock:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f"{folder.name}{part}.lock"))
