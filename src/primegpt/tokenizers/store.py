"""Tokenizers on disk, and the table of their kinds.

A saved tokenizer is a folder with the kind's own file (tokenizer.json, for those that Hugging Face's `tokenizers`
can express, or SentencePiece's tokenizer.model) and `primegpt.json`: format version, kind, fingerprint, and the
special tokens by kind.
"""

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from primegpt.errors import ConfigError, DataError, MismatchError, PrimegptError, TokenizerError, nearest, quoted
from primegpt.signals import heeding_signals
from primegpt.tokenizers import companions, foreign
from primegpt.tokenizers.base import SYSTEM, SpecialTokens, Tokenizer, lone_surrogate, special_kinds

# A new kind is one line here: its name in the configuration, and its class. Imported when first used.
KINDS = {
    "char": "primegpt.tokenizers.char:CharTokenizer",
    "bpe": "primegpt.tokenizers.bpe:ByteLevelBPE",
    "gpt2": "primegpt.tokenizers.gpt2:GPT2",
    "sentencepiece": "primegpt.tokenizers.sentencepiece:SentencePieceBPE",
    "imported": "primegpt.tokenizers.imported:Imported",
}
IMPORTED = "imported"
FORMAT = 1
META = "primegpt.json"
DAMAGE = (  # what reading rubbish raises
    *(ConfigError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError),
    *(OverflowError, struct.error),
)
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
    files = tokenizer._files()
    meta = {
        "format": FORMAT,
        "kind": tokenizer.kind,
        "fingerprint": tokenizer.fingerprint,
        "special_kinds": tokenizer.special_kinds,
        **({} if files.keys() == set(tokenizer.file_names) else {"files": sorted(files)}),
    }
    return {**files, META: json.dumps(meta, ensure_ascii=False, indent=2).encode()}


def load(path: str | Path, special_tokens: SpecialTokens | None = None) -> Tokenizer:
    """Read the tokenizer in the folder `path`, or in the `tokenizer` folder of a run, and verify it.

    It may be another's: a folder that Transformers reads, or a file of tokenizer.json, tokenizer.model, tekken.json,
    *.tiktoken or *.gguf; `special_tokens` come after theirs. A tokenizer of ours has its own, which `special_tokens`,
    if given, must equal.

    Raises TokenizerError if it is missing, damaged or of no use, MismatchError if it is not the one that was saved.
    """
    places = (Path(path), Path(path) / "tokenizer")
    if Path(path).is_file():
        return _load_foreign(Path(path), special_tokens)
    if found := next((place for place in places if (place / META).exists()), None):
        return _load_saved(found, special_tokens)
    if found := next((place for place in places if _foreign_files(place)), None):
        return _load_foreign(found, special_tokens)
    raise TokenizerError(f"there is no tokenizer at {path}: {META} is missing", "check the path")


def _load_saved(folder: Path, special_tokens: SpecialTokens | None) -> Tokenizer:
    try:
        tokenizer, saved = _read(folder)
    except DAMAGE as error:
        raise TokenizerError(
            f"the tokenizer in {folder} is damaged ({reason(error)})", "restore it from a copy"
        ) from error
    if tokenizer.fingerprint != saved:
        raise MismatchError(
            f"the tokenizer in {folder} was saved as {saved}, but its files now make {tokenizer.fingerprint}",
            "restore it from a copy: models and data made with it would be misread",
        )
    if tokenizer.kind != IMPORTED:
        _refuse_additions(tokenizer, folder)
    own = {kind: names for kind, names in tokenizer.special_kinds.items() if kind != SYSTEM}
    if special_tokens and own != {kind: tuple(names) for kind, names in special_tokens.items() if names}:
        raise MismatchError(
            f"the tokenizer in {folder} has the special tokens {own}, not those of tokenizer.special_tokens",
            "leave them out of the configuration: a tokenizer brings its own",
        )
    return tokenizer


def _refuse_additions(tokenizer: Tokenizer, folder: Path) -> None:
    """Raise TokenizerError for what stands beside a tokenizer of ours that would change its ids elsewhere."""
    beside = {name: _read_capped(folder / name) for name in foreign.COMPANIONS if (folder / name).is_file()}
    try:
        foreign.refuse_additions(tokenizer, beside)
    except DAMAGE as error:
        raise TokenizerError(
            f"the tokenizer in {folder} cannot be used ({reason(error)})",
            "primegpt has special tokens alone, which no text spells, and adds nothing to a text",
        ) from error


def _load_foreign(path: Path, special_tokens: SpecialTokens | None) -> Tokenizer:
    """Another's tokenizer: of a kind of ours where it is exactly that and nothing is lost, else in its own files."""
    special_kinds((), special_tokens)  # what is wrong with the user's own is not the folder's fault
    from primegpt.tokenizers import imported

    try:
        files = _read_foreign(path)
        for name, content in files.items():
            companions.refuse_too_large(name, content)
        ours = _as_ours(files, special_tokens)
        if isinstance(ours, Tokenizer):
            return ours
        if not imported.has_source(files):
            raise ours
        tokenizer = imported.Imported(files)
        return tokenizer.with_special_tokens(special_tokens) if special_tokens else tokenizer
    except DAMAGE as error:
        raise TokenizerError(
            f"{path} has no {META}, and as a foreign tokenizer it cannot be used ({reason(error)})",
            "docs/interop.md lists what can",
        ) from error


def _as_ours(files: Mapping[str, bytes], special_tokens: SpecialTokens | None) -> Tokenizer | Exception:
    """The tokenizer of a kind of ours that `files` hold, or why there is none."""
    beside = {name: content for name, content in files.items() if name in foreign.COMPANIONS}
    if companions.TEMPLATE in files or b'"chat_template"' in beside.get("tokenizer_config.json", b""):
        return ValueError("a kind of ours would lose its chat template")
    try:
        tokenizer = foreign.read(files, special_tokens)
        foreign.refuse_additions(tokenizer, beside)
    except DAMAGE as error:
        return error
    return tokenizer


def _read_foreign(path: Path) -> dict[str, bytes]:
    """File name -> content of the tokenizer in a folder, or of a file and what stands beside it."""
    if path.suffix.lower() == ".gguf":
        from primegpt.tokenizers.gguf_vocabulary import read_gguf

        return read_gguf(path)
    if path.is_dir():
        return {name: _read_capped(path / name) for name in _foreign_files(path)}
    beside = [name for name in _foreign_files(path.parent) if name in companions.COMPANIONS]
    return {path.name: _read_capped(path, named=True), **{name: _read_capped(path.parent / name) for name in beside}}


def _foreign_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    found = sorted(name for name in os.listdir(folder) if companions.is_file_of(name) and (folder / name).is_file())
    return found if set(found) - set(companions.COMPANIONS) else []


def reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def class_of(kind: str) -> type[Tokenizer]:
    """The class of a kind. Raises ConfigError, naming the kinds, if there is none."""
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
    names = meta.get("files") or kind.file_names
    for name in names:
        theirs = kind.kind == IMPORTED and companions.is_file_of(name) and os.path.basename(name) == name
        if name not in kind.file_names and not theirs:
            raise ValueError(f"{META} names {quoted(name)}, which is no file of such a tokenizer")
    files = {name: _read_capped(folder / name) for name in names}
    for name, content in files.items():
        companions.refuse_too_large(name, content)
    return kind._from_files(files, own), meta["fingerprint"]


def _read_capped(path: Path, named: bool = False) -> bytes:
    """The content of a file of a folder, or of one that the user `named`. What is read goes out with what is exported:
    a link may lead to the blobs of the hub's own cache alone."""
    if not path.is_file():
        raise TokenizerError(f"there is no tokenizer at {path.parent}: {path.name} is missing", "check the path")
    if path.stat().st_size > MAX_BYTES:
        raise TokenizerError(f"{path} is larger than {MAX_BYTES >> 20} MB", "no tokenizer is: check the path")
    real, home = path.resolve(), path.parent.resolve()
    if not named and real.parent != home and (real.parent.name != "blobs" or real.parent.parent not in home.parents):
        raise TokenizerError(f"{path} leads outside its folder, to {real}", "copy the file itself")
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
