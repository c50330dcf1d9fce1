"""Tokenizers on disk, and the table of their kinds.

A saved tokenizer is a folder with the kind's own file (tokenizer.json, for those that Hugging Face's `tokenizers`
can express, or SentencePiece's tokenizer.model) and `primegpt.json`: format version, kind, fingerprint, and the
special tokens by kind.
"""

import json
import os
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from primegpt.errors import ConfigError, DataError, MismatchError, PrimegptError, TokenizerError, nearest
from primegpt.signals import heeding_signals
from primegpt.tokenizers import foreign
from primegpt.tokenizers.base import SYSTEM, SpecialTokens, Tokenizer, lone_surrogate, special_kinds

# A new kind is one line here: its name in the configuration, and its class. Imported when first used.
KINDS = {
    "char": "primegpt.tokenizers.char:CharTokenizer",
    "bpe": "primegpt.tokenizers.bpe:ByteLevelBPE",
    "gpt2": "primegpt.tokenizers.gpt2:GPT2",
    "sentencepiece": "primegpt.tokenizers.sentencepiece:SentencePieceBPE",
}
FORMAT = 1
META = "primegpt.json"
_DAMAGE = (ConfigError, ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what reading rubbish raises
MAX_BYTES = 256 * 2**20  # a folder may come from anyone; no vocabulary needs a file larger than this


def train(
    kind: str, texts: Iterable[str], vocab_size: int | None = None, special_tokens: SpecialTokens | None = None
) -> Tokenizer:
    """Learn a tokenizer of `kind` from one pass over `texts`; the same text always gives the same tokenizer.

    `vocab_size` is the most ids it may have, the special ones included; `special_tokens` adds the user's own, by
    kind: `{"control": ["<song>", "</song>"]}`. Raises ConfigError on a bad setting, DataError if there is no text.
    """
    texts = [texts] if isinstance(texts, str) else texts
    with heeding_signals():
        return class_of(kind).train(_usable(texts), vocab_size, special_tokens)


def save(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write `tokenizer` into `folder`, over one that may be there. Each file appears whole or not at all.

    The fingerprint vouches that they belong together: a folder half overwritten is refused, never misread.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files_of(tokenizer).items():
            _write_whole(folder / name, content)
    except OSError as error:
        raise PrimegptError(f"cannot save the tokenizer to {folder}: {error.strerror}", "is there room?") from error


def files_of(tokenizer: Tokenizer) -> dict[str, bytes]:
    """What `save` writes: file name -> content."""
    meta = {
        "format": FORMAT,
        "kind": tokenizer.kind,
        "fingerprint": tokenizer.fingerprint,
        "special_kinds": tokenizer.special_kinds,
    }
    return {**tokenizer._files(), META: json.dumps(meta, ensure_ascii=False, indent=2).encode()}


def load(folder: str | Path, special_tokens: SpecialTokens | None = None) -> Tokenizer:
    """Read the tokenizer in `folder`, or in the `tokenizer` folder of a run, and verify it.

    A folder of someone else's may hold GPT-2's files or others of their form (see foreign.py); `special_tokens` come
    after theirs. A tokenizer of ours has its own, which `special_tokens`, if given, must equal.

    Raises TokenizerError if it is missing, damaged or of no use, MismatchError if it is not the one that was saved.
    """
    places = (Path(folder), Path(folder) / "tokenizer")
    if saved := next((place for place in places if (place / META).exists()), None):
        return _load_saved(saved, special_tokens)
    if found := next((place for place in places if _foreign_files(place)), None):
        return _load_foreign(found, special_tokens)
    raise TokenizerError(f"there is no tokenizer at {folder}: {META} is missing", "check the path")


def _load_saved(folder: Path, special_tokens: SpecialTokens | None) -> Tokenizer:
    try:
        tokenizer, saved = _read(folder)
    except _DAMAGE as error:
        raise TokenizerError(
            f"the tokenizer in {folder} is damaged ({_reason(error)})", "restore it from a copy"
        ) from error
    if tokenizer.fingerprint != saved:
        raise MismatchError(
            f"the tokenizer in {folder} was saved as {saved}, but its files now make {tokenizer.fingerprint}",
            "restore it from a copy: models and data made with it would be misread",
        )
    own = {kind: names for kind, names in tokenizer.special_kinds.items() if kind != SYSTEM}
    if special_tokens and own != {kind: tuple(names) for kind, names in special_tokens.items() if names}:
        raise MismatchError(
            f"the tokenizer in {folder} has the special tokens {own}, not those of tokenizer.special_tokens",
            "leave them out of the configuration: a tokenizer brings its own",
        )
    return tokenizer


def _load_foreign(folder: Path, special_tokens: SpecialTokens | None) -> Tokenizer:
    special_kinds((), special_tokens)  # what is wrong with the user's own is not the folder's fault
    files = {name: _read_capped(folder / name) for name in _foreign_files(folder)}
    try:
        return foreign.read(files, special_tokens)
    except _DAMAGE as error:
        raise TokenizerError(
            f"{folder} has no {META}, and as a foreign tokenizer it cannot be used ({_reason(error)})",
            "GPT-2's vocab.bpe and encoder.json, or a tokenizer.json of its kind, can",
        ) from error


def _foreign_files(folder: Path) -> list[str]:
    return [name for name in foreign.FILE_NAMES if (folder / name).is_file()]


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def class_of(kind: str) -> type[Tokenizer]:
    """The class behind a kind's name. Raises ConfigError, naming the kinds, if there is none."""
    if kind not in KINDS:
        raise ConfigError(f"tokenizer.kind = {kind!r} is not known", nearest(kind, KINDS))
    module, name = KINDS[kind].split(":")
    return getattr(import_module(module), name)


def _read(folder: Path) -> tuple[Tokenizer, str]:
    """The tokenizer, and the fingerprint it was saved with."""
    meta: dict[str, Any] = json.loads(_read_capped(folder / META))
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']!r}, where this version of primegpt reads {FORMAT}")
    kind = class_of(meta["kind"])
    own = {name: names for name, names in meta["special_kinds"].items() if name != SYSTEM}
    files = {name: _read_capped(folder / name) for name in kind.file_names}
    return kind._from_files(files, own), meta["fingerprint"]


def _read_capped(path: Path) -> bytes:
    if not path.is_file():
        raise TokenizerError(f"there is no tokenizer at {path.parent}: {path.name} is missing", "check the path")
    if path.stat().st_size > MAX_BYTES:
        raise TokenizerError(f"{path} is larger than {MAX_BYTES >> 20} MB", "no tokenizer is: check the path")
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {error.strerror}", "check its permissions") from error


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename: readers see the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _usable(texts: Iterable[str]) -> Iterator[str]:
    """`texts` as they come. Raises DataError on one that is not Unicode, or at the end if all were empty."""
    empty = True
    for text in texts:
        try:
            text.isascii() or text.encode()
        except UnicodeEncodeError:
            raise lone_surrogate(text) from None
        empty = empty and not text
        yield text
    if empty:
        raise DataError("there is no text to learn a tokenizer from", "check that the source is not empty")
