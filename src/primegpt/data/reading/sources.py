"""Where text comes from: files, folders, globs, standard input, data sets and the songbook, as one stream of documents.

Text is kept as it is: line ends, spaces and odd characters are the author's. Only a UTF-8 byte order mark is dropped.
How each kind of file is read stands in formats.py.
"""

import difflib
import glob
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from primegpt.data.reading import fetch
from primegpt.data.reading.folders import Found, found_by_pattern, found_in_folder, identity
from primegpt.data.reading.formats import (
    DESCRIPTORS,
    PREFIX,
    io_complaints,
    read_dataset,
    read_file,
    read_stream,
    read_text,
    reader_of,
)
from primegpt.data.reading.objects import is_json
from primegpt.data.reading.records import RECORD_LIMIT, Document, Reading, record_document
from primegpt.errors import DataError, quoted
from primegpt.terminal import Say, silent

STDIN = "-"
TEXT = "text"  # the field that holds it, unless another one is named
SONGBOOK = "songbook"
CHUNK = 1 << 20  # characters
MOST_BLANK = 100_000_000  # characters at the beginning of a text, which are held until a letter comes
SAMPLED_SONGS = 20  # enough to tell the size of a songbook
SQUEEZED = {".gz": 3, ".parquet": 2}  # about how many bytes of text a byte of such a file holds


__all__ = ["Document", "bytes_of", "read_documents", "source_bytes", "split_at_byte", "utf8_chunks", "utf8_size"]


def read_documents(
    sources: Sequence[str],
    *,
    songs: int,
    seed: int = 0,
    text_field: str | Sequence[str | None] | None = TEXT,
    limit: int = RECORD_LIMIT,
    named: Collection[str] = (),
    say: Say = silent,
) -> Iterator[Document]:
    """The documents of all `sources`, in order, as a stream; those that hold only whitespace are skipped.

    `text_field` names the field of a record (JSON Lines, CSV, Parquet, data set) that is the text; with None the
    records themselves are wanted: `text` stays empty, and plain text is refused. A list has one for each source. A
    record may have `limit` bytes; `named` are the fields that templates ask for.
    `songs` and `seed` size and draw the songbook. The seed is a constant rather than the run's: runs of different seeds
    learn from the same text. `say` gets a line for what is left out, or read twice. Raises DataError for a source
    that cannot be read or holds no text.
    """
    if not sources:
        raise DataError("no text was given", f"name a file, a folder, a glob, {STDIN!r} or {SONGBOOK!r}")
    fields = [text_field] * len(sources) if isinstance(text_field, str | None) else text_field
    found = {source: _find(source) for source in sources if _is_path(source)}
    _refuse_field_of_text(sources, found, fields)
    for line in (*(each.remark() for each in found.values()), _read_twice(sources, found)):
        if line:
            say(line)
    for group, (source, field) in enumerate(zip(sources, fields, strict=True)):
        reading = Reading(field, limit, named)
        documents = _read_source(source, found[source].files if source in found else [], songs, seed, reading)
        documents = _with_text(source, documents, field is None, say)
        yield from documents if group == 0 else (replace(document, group=group) for document in documents)


def is_read_once(source: str) -> bool:
    """Whether a source is a pipe, whose text is gone when it has been read."""
    return source == STDIN or (source.startswith(DESCRIPTORS) and not Path(source).is_file())


def source_bytes(sources: Sequence[str], *, songs: int, seed: int = 0, at_most: int | None = None) -> int | None:
    """About how much text is read of `sources`, without reading it; None where only reading can tell (from a pipe).

    It is `at_most` so much (`data.max_bytes`).

    Raises DataError for a source that is not there.
    """
    sizes = [_size(source, songs, seed) for source in sources]
    size = None if None in sizes else sum(size or 0 for size in sizes)
    return size if at_most is None or size is None else min(size, at_most)


def files_of(source: str) -> list[Path]:
    """The files that a source stands for; none for what is not read from files. Raises DataError if it is not there."""
    return _files(source) if _is_path(source) else []


def utf8_size(text: str) -> int:
    """Size of `text` in UTF-8, without encoding all of it at once."""
    return len(text) if text.isascii() else sum(map(len, utf8_chunks(text)))


def bytes_of(document: Document) -> int:
    """Size of a text in UTF-8; of a record that of its values."""
    return utf8_size(document.text) or sum(utf8_size(str(value)) for value in document.fields.values())


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
        sample = list(_songs(min(songs, SAMPLED_SONGS), seed, TEXT))
        return sum(utf8_size(song.text) for song in sample) * songs // len(sample)
    files = _files(source)
    if not all(path.is_file() for path in files):
        return None
    return sum(path.stat().st_size * SQUEEZED.get(path.suffix.lower(), 1) for path in files)


def _with_text(source: str, documents: Iterable[Document], records: bool, say: Say) -> Iterator[Document]:
    """Those of `documents` that hold something; the others are counted, and told at the end."""
    n_documents, n_found, told = 0, 0, False
    blank = list[Document]()  # parts of a document that has begun with nothing but whitespace
    for document in documents:
        goes_on = document.continues and not blank
        if not document.continues:
            n_documents, blank = n_documents + 1, []
        if (records and document.fields) or goes_on or (document.text and not document.text.isspace()):
            n_found += not goes_on
            if not told and not goes_on and not document.fields and is_json(document.text):
                told = True
                what = f"{_name(document.source)} looks like JSON, and is learnt as plain text, braces and all"
                say(f"{what}: to read its fields, name it .jsonl or .json")
            yield from blank
            yield document
            blank = []
        else:
            blank.append(document)
            if sum(len(part.text) for part in blank) > MOST_BLANK:
                raise DataError(
                    f"{document.source} begins with more than {MOST_BLANK:,} characters of whitespace",
                    "cut them off, or leave it out",
                )
    if not n_found:
        raise DataError(f"{_name(source)} is empty: it holds no text but whitespace", "add text or leave it out")
    if n_found < n_documents:
        left_out = f"{n_documents - n_found:,} of {n_documents:,} documents"
        say(f"{_name(source)}: {left_out} are empty, and left out")


def _name(source: str) -> str:
    return "standard input" if source == STDIN else source


def _is_path(source: str) -> bool:
    return source not in (STDIN, SONGBOOK) and not source.startswith(PREFIX)


def _read_source(source: str, files: Iterable[Path], songs: int, seed: int, reading: Reading) -> Iterator[Document]:
    if source == STDIN:
        with io_complaints(_name(source)):
            yield from read_stream(sys.stdin.buffer, _name(source), reading)
    elif source == SONGBOOK:
        yield from _songs(songs, seed, reading.text_field)
    elif source.startswith(PREFIX):
        yield from read_dataset(source.removeprefix(PREFIX), reading.text_field)
    for path in files:
        yield from read_file(path, reading)


def _refuse_field_of_text(sources: Sequence[str], found: Mapping[str, Found], fields: Sequence[str | None]) -> None:
    """DataError if a field is named that holds the text, and nothing that is read has fields."""
    named = [field for field in fields if field not in (None, TEXT)]
    if named and not any(has_fields(found.get(source, source)) for source in sources):
        raise DataError(
            f"data.text_field = {quoted(named[0])}: {', '.join(map(_name, sources))} is plain text, without fields",
            "leave it out, or give records as .jsonl, .json, .csv or .parquet",
        )


def has_fields(source: str | Found) -> bool:
    """Whether anything of a source is records, rather than all of it plain text."""
    if isinstance(source, str):
        if not _is_path(source):
            return source != STDIN
        source = _find(source)
    return not all(reader_of(path) is read_text for path in source.files)


def _read_twice(sources: Sequence[str], found: Mapping[str, Found]) -> str:
    """What to say of files that several sources name; empty if there is none."""
    named = [(identity(path), path) for source in sources if source in found for path in found[source].files]
    count = Counter(key for key, _ in named)
    twice = list(dict.fromkeys(path for key, path in named if count[key] > 1))
    if not twice:
        return ""
    more = f" (and {len(twice) - 1:,} more)" if len(twice) > 1 else ""
    return f"{twice[0]}{more} is named by several sources, and learnt from each time"


def _songs(songs: int, seed: int, text_field: str | None) -> Iterator[Document]:
    from primegpt.data.songbook import songbook

    for number, song in enumerate(songbook(songs, seed, alignment=1.0), 1):
        fields = {name: getattr(song, name) for name in ("prompt", "genre", "emotion", "title", "lyrics")}
        place = f"{SONGBOOK}, song {number}"
        if text_field in (None, TEXT):
            yield Document("" if text_field is None else song.text, SONGBOOK, fields, place)
        else:
            yield record_document(fields, SONGBOOK, place, text_field)


def _files(source: str) -> list[Path]:
    """The files that a path, folder or glob stands for, in an order that every machine agrees on."""
    return _find(source).files


def _find(source: str) -> Found:
    try:
        source.encode()  # it is written into config.toml and data.json
        return _find_files(source)
    except UnicodeEncodeError:
        raise DataError(f"the name {quoted(source)} is not UTF-8", "rename it, or name its folder") from None
    except OSError as error:
        place = error.filename or source  # a folder in it that may not be entered, say
        raise DataError(f"{place} cannot be reached: {error.strerror or error}", "check the path") from error


def _find_files(source: str) -> Found:
    path = Path(os.path.expanduser(source))  # pathlib's raises where there is no home
    if path.is_dir():
        return found_in_folder(source, path)
    if path.exists():  # before globs: a name may hold brackets
        return Found(source, [path])
    if source in fetch.CORPORA:
        return Found(source, fetch.fetched(source))
    if glob.has_magic(source):
        return found_by_pattern(source, str(path))
    raise DataError(f"{source} does not exist", _suggestion(path))


def _suggestion(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    names = [entry.name for entry in path.parent.iterdir()]
    if close := difflib.get_close_matches(path.name, [*names, SONGBOOK, *fetch.CORPORA], n=1):
        return f"did you mean {str(path.with_name(close[0])) if close[0] in names else close[0]!r}?"
    return "check the path"
