"""Where text comes from: files, folders, globs, standard input and the songbook, as one stream of documents.

Text is kept as it is: line ends, spaces and odd characters are the author's. Only a UTF-8 byte order mark is dropped.
"""

import difflib
import glob
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from primegpt.errors import DataError

STDIN = "-"
SONGBOOK = "songbook"
UNREAD_FORMATS = (".jsonl", ".csv", ".parquet", ".gz")
CHUNK = 1 << 20  # characters
SAMPLED_SONGS = 20  # enough to tell the size of a songbook


@dataclass(frozen=True)
class Document:
    """One text that begins and ends by itself: a file, a song."""

    text: str
    source: str
    """The file it came from, or the name of the source."""


def read_documents(sources: Sequence[str], *, songs: int, seed: int = 0) -> Iterator[Document]:
    """The documents of all `sources`, in order; those that hold only whitespace are skipped.

    `songs` and `seed` size and draw the songbook. The seed is a constant rather than the run's: runs of different
    seeds learn from the same text. Raises DataError for a source that cannot be read or holds no text.
    """
    if not sources:
        raise DataError("no text was given", f"name a file, a folder, a glob, {STDIN!r} or {SONGBOOK!r}")
    for source in sources:
        yield from _with_text(source, _read_source(source, songs, seed))


def source_bytes(sources: Sequence[str], *, songs: int, seed: int = 0) -> int | None:
    """About how much text `sources` hold, without reading it; None where only reading can tell (input from a pipe).

    Raises DataError for a source that is not there.
    """
    sizes = [_size(source, songs, seed) for source in sources]
    return None if None in sizes else sum(size or 0 for size in sizes)


def source_fingerprint(documents: Iterable[Document]) -> str:
    """SHA-256 over the contents of `documents`, in order; where they lie on disk does not matter."""
    digest = hashlib.sha256()
    for document in documents:
        size = 0
        for chunk in _utf8_chunks(document.text):
            digest.update(chunk)
            size += len(chunk)
        digest.update(size.to_bytes(8, "little"))  # or "ab" + "c" would be "a" + "bc"
    return digest.hexdigest()


def utf8_size(text: str) -> int:
    """Size of `text` in UTF-8, without encoding all of it at once."""
    return len(text) if text.isascii() else sum(map(len, _utf8_chunks(text)))


def split_at_byte(text: str, offset: int) -> tuple[str, str]:
    """`text` cut where its UTF-8 reaches `offset` bytes, or at the end of the character that lies across."""
    start = 0
    for chunk in _utf8_chunks(text):
        if offset < len(chunk):
            while offset < len(chunk) and chunk[offset] & 0xC0 == 0x80:  # inside a character
                offset += 1
            start += len(chunk[:offset].decode())
            break
        offset -= len(chunk)
        start += CHUNK
    return text[:start], text[start:]


def _utf8_chunks(text: str) -> Iterator[bytes]:
    for start in range(0, len(text), CHUNK):
        yield text[start : start + CHUNK].encode()


def _size(source: str, songs: int, seed: int) -> int | None:
    if source == STDIN:
        return None
    if source == SONGBOOK:
        sample = list(_read_source(source, min(songs, SAMPLED_SONGS), seed))
        return sum(utf8_size(song.text) for song in sample) * songs // len(sample)
    files = _files(source)
    return sum(path.stat().st_size for path in files) if all(path.is_file() for path in files) else None


def _with_text(source: str, documents: Iterable[Document]) -> Iterator[Document]:
    found = False
    for document in documents:
        if document.text and not document.text.isspace():
            found = True
            yield document
    if not found:
        raise DataError(f"{_name(source)} is empty: it holds no text but whitespace", "add text or leave it out")


def _name(source: str) -> str:
    return "standard input" if source == STDIN else source


def _read_source(source: str, songs: int, seed: int) -> Iterator[Document]:
    if source == STDIN:
        yield Document(_decode(sys.stdin.buffer.read(), _name(source)), _name(source))
    elif source == SONGBOOK:
        from primegpt.data.songbook import songbook

        for song in songbook(songs, seed, alignment=1.0):
            yield Document(song.text, source)
    else:
        for path in _files(source):
            yield Document(_read_file(path), str(path))


def _files(source: str) -> list[Path]:
    try:
        return _find_files(source)
    except OSError as error:
        raise DataError(f"{source} cannot be reached: {error.strerror or error}", "check the path") from error


def _find_files(source: str) -> list[Path]:
    """The files that a path, folder or glob stands for, in an order that every machine agrees on."""
    path = Path(os.path.expanduser(source))  # pathlib's raises where there is no home
    if path.is_dir():
        return _found(path.rglob("*.txt"), f"{source}: there is no .txt file in this folder")
    if path.exists():  # before globs: a name may hold brackets
        return [path]
    if glob.has_magic(source):
        matches = glob.iglob(str(path), recursive=True, include_hidden=False)
        return _found(map(Path, matches), f"{source}: no file matches")
    raise DataError(f"{source} does not exist", _suggestion(path))


def _found(paths: Iterable[Path], complaint: str) -> list[Path]:
    files = sorted((path for path in paths if path.is_file()), key=lambda path: path.parts)
    if not files:
        raise DataError(complaint, "name a file, a folder with .txt files or another pattern")
    return files


def _suggestion(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    names = [entry.name for entry in path.parent.iterdir()]
    if close := difflib.get_close_matches(path.name, [*names, SONGBOOK], n=1):
        return f"did you mean {str(path.with_name(close[0])) if close[0] in names else SONGBOOK!r}?"
    return "check the path"


def _read_file(path: Path) -> str:
    if path.suffix.lower() in UNREAD_FORMATS:
        raise DataError(f"{path}: {path.suffix} files are not yet read", "save its text as a .txt file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from error
    return _decode(data, str(path))


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}", "save it as UTF-8"
        ) from None
