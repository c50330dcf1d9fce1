"""Where text comes from: files, folders, globs, standard input, data sets and the songbook, as one stream of documents.

Text is kept as it is: line ends, spaces and odd characters are the author's. Only a UTF-8 byte order mark is dropped.
How each kind of file is read stands in formats.py.
"""

import difflib
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from primegpt.data import fetch
from primegpt.data.formats import Document, is_readable, read_file, read_text
from primegpt.data.hub import PREFIX, read_dataset
from primegpt.errors import DataError

STDIN = "-"
SONGBOOK = "songbook"
CHUNK = 1 << 20  # characters
SAMPLED_SONGS = 20  # enough to tell the size of a songbook
SQUEEZED = {".gz": 3, ".parquet": 2}  # about how many bytes of text a byte of such a file holds

__all__ = ["Document", "read_documents", "source_bytes", "split_at_byte", "utf8_chunks", "utf8_size"]


def read_documents(
    sources: Sequence[str], *, songs: int, seed: int = 0, text_field: str | None = "text"
) -> Iterator[Document]:
    """The documents of all `sources`, in order, as a stream; those that hold only whitespace are skipped.

    `text_field` names the field of a record (JSON Lines, CSV, Parquet, data set) that is the text; with None the
    records themselves are wanted: `text` stays empty, and plain text is refused. `songs` and `seed` size and draw the
    songbook. The seed is a constant rather than the run's: runs of different seeds learn from the same text. Raises
    DataError for a source that cannot be read or holds no text.
    """
    if not sources:
        raise DataError("no text was given", f"name a file, a folder, a glob, {STDIN!r} or {SONGBOOK!r}")
    for group, source in enumerate(sources):
        documents = _with_text(source, _read_source(source, songs, seed, text_field), text_field is None)
        yield from documents if group == 0 else (replace(document, group=group) for document in documents)


def source_bytes(sources: Sequence[str], *, songs: int, seed: int = 0) -> int | None:
    """About how much text `sources` hold, without reading it; None where only reading can tell (input from a pipe).

    Raises DataError for a source that is not there.
    """
    sizes = [_size(source, songs, seed) for source in sources]
    return None if None in sizes else sum(size or 0 for size in sizes)


def utf8_size(text: str) -> int:
    """Size of `text` in UTF-8, without encoding all of it at once."""
    return len(text) if text.isascii() else sum(map(len, utf8_chunks(text)))


def split_at_byte(text: str, offset: int) -> tuple[str, str]:
    """`text` cut where its UTF-8 reaches `offset` bytes, or at the end of the character that lies across."""
    start = 0
    for chunk in utf8_chunks(text):
        if offset < len(chunk):
            while offset < len(chunk) and chunk[offset] & 0xC0 == 0x80:  # inside a character
                offset += 1
            start += len(chunk[:offset].decode())
            break
        offset -= len(chunk)
        start += CHUNK
    return text[:start], text[start:]


def utf8_chunks(text: str) -> Iterator[bytes]:
    """`text` in UTF-8, a megabyte at a time."""
    for start in range(0, len(text), CHUNK):
        yield text[start : start + CHUNK].encode()


def _size(source: str, songs: int, seed: int) -> int | None:
    if source == STDIN or source.startswith(PREFIX):
        return None
    if source == SONGBOOK:
        sample = list(_read_source(source, min(songs, SAMPLED_SONGS), seed, "text"))
        return sum(utf8_size(song.text) for song in sample) * songs // len(sample)
    files = _files(source)
    if not all(path.is_file() for path in files):
        return None
    return sum(path.stat().st_size * SQUEEZED.get(path.suffix.lower(), 1) for path in files)


def _with_text(source: str, documents: Iterable[Document], records: bool) -> Iterator[Document]:
    found = False
    for document in documents:
        if (records and document.fields) or document.continues or (document.text and not document.text.isspace()):
            found = True
            yield document
    if not found:
        raise DataError(f"{_name(source)} is empty: it holds no text but whitespace", "add text or leave it out")


def _name(source: str) -> str:
    return "standard input" if source == STDIN else source


def _read_source(source: str, songs: int, seed: int, text_field: str | None) -> Iterator[Document]:
    if source == STDIN:
        yield from read_text(sys.stdin.buffer, _name(source), text_field)
    elif source == SONGBOOK:
        yield from _songs(songs, seed, text_field)
    elif source.startswith(PREFIX):
        yield from read_dataset(source.removeprefix(PREFIX), text_field)
    else:
        for path in _files(source):
            yield from read_file(path, text_field)


def _songs(songs: int, seed: int, text_field: str | None) -> Iterator[Document]:
    from primegpt.data.songbook import songbook

    for number, song in enumerate(songbook(songs, seed, alignment=1.0), 1):
        fields = {name: getattr(song, name) for name in ("prompt", "genre", "emotion", "title", "lyrics")}
        yield Document("" if text_field is None else song.text, SONGBOOK, fields, f"{SONGBOOK}, song {number}")


def _files(source: str) -> list[Path]:
    try:
        return _find_files(source)
    except OSError as error:
        raise DataError(f"{source} cannot be reached: {error.strerror or error}", "check the path") from error


def _find_files(source: str) -> list[Path]:
    """The files that a path, folder or glob stands for, in an order that every machine agrees on."""
    path = Path(os.path.expanduser(source))  # pathlib's raises where there is no home
    if path.is_dir():
        inside = (file for file in path.rglob("*") if is_readable(file) and not _is_hidden(file.relative_to(path)))
        return _found(inside, f"{source}: no text in this folder (.txt, .jsonl, .csv, .parquet, .gz of them)")
    if path.exists():  # before globs: a name may hold brackets
        return [path]
    if source in fetch.CORPORA:
        return fetch.fetched(source)
    if glob.has_magic(source):
        matches = glob.iglob(str(path), recursive=True, include_hidden=False)
        return _found(map(Path, matches), f"{source}: no file matches")
    raise DataError(f"{source} does not exist", _suggestion(path))


def _found(paths: Iterable[Path], complaint: str) -> list[Path]:
    files = sorted((path for path in paths if path.is_file()), key=lambda path: path.parts)
    if not files:
        raise DataError(complaint, "name a file, a folder with text files or another pattern")
    return files


def _is_hidden(path: Path) -> bool:
    """Like `._notes.txt`, which macOS leaves beside every file on a foreign disk, and `.ipynb_checkpoints/`."""
    return any(part.startswith(".") for part in path.parts)


def _suggestion(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    names = [entry.name for entry in path.parent.iterdir()]
    if close := difflib.get_close_matches(path.name, [*names, SONGBOOK, *fetch.CORPORA], n=1):
        return f"did you mean {str(path.with_name(close[0])) if close[0] in names else close[0]!r}?"
    return "check the path"
