"""One reader for each kind of file: text, JSON Lines, CSV and Parquet, plain or in gzip, as a stream of documents.

Everything is read in little memory however large the file: records one by one, a long text in parts. A text file is
one document all the same: where one document ends and the next begins is not for a program to guess.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic_core import from_json

from primegpt.errors import DataError, nearest

BOM = b"\xef\xbb\xbf"
CSV_FIELD_LIMIT = 2**31 - 1  # of characters; the library's own is 131,072
PART = 4_000_000  # bytes of a text held at once
PARQUET_ROWS = 256  # read at once
INSTALL_DATA = "pip install 'primegpt[data]'"


@dataclass(frozen=True)
class Document:
    """One text that begins and ends by itself: a file, a song, a record of a file."""

    text: str
    """The text; empty when only `fields` matter."""
    source: str
    """The file it came from, or the name of the source."""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The record behind it: a JSON object, a row. Empty for plain text."""
    place: str = ""
    """Where it stands, for messages: "lyrics.jsonl, line 12"."""
    continues: bool = False
    """Whether this goes on with the document before: a long text comes in parts."""
    group: int = 0
    """Which of the sources it came from, counted from 0."""


# A reader gets the open file, its name, and the field that holds the text (None: whole records, without text).
Reader = Callable[[BinaryIO, str, str | None], Iterator[Document]]


def is_readable(path: Path) -> bool:
    """Whether a folder's `path` is text by its name; a file that the user names is always tried."""
    *_, before, last = ("", "", *(suffix.lower() for suffix in path.suffixes))
    if last == ".gz":
        return before in READERS and before != ".parquet"
    return last in READERS


def read_file(path: Path, text_field: str | None) -> Iterator[Document]:
    """The documents of one file, by the ending of its name; a name without a known ending is plain text.

    Raises DataError, in one line that names the file and the byte, line or row, for whatever cannot be read.
    """
    zipped = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if zipped else path).suffix.lower()
    reader = READERS.get(suffix, read_text)
    if zipped and reader is read_parquet:
        raise DataError(f"{path}: a Parquet file is compressed by itself", "unpack it with gunzip")
    with io_complaints(str(path)), cast(BinaryIO, gzip.open(path) if zipped else path.open("rb")) as file:
        yield from reader(file, str(path), text_field)


@contextmanager
def io_complaints(name: str) -> Iterator[None]:
    """Turn what the system or gzip says about the file `name` into one line."""
    try:
        yield
    except EOFError:
        raise DataError(f"{name} is cut short: its compressed data ends too early", "fetch or copy it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is damaged, or no gzip file: {error}", "fetch or copy it again") from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}", "check its permissions") from error


def read_text(file: BinaryIO, name: str, text_field: str | None) -> Iterator[Document]:
    """The whole file as one document, kept as it is but for a byte order mark."""
    if text_field is None:
        raise DataError(
            f"{name} is plain text, and a template needs records with fields",
            "give .jsonl, .csv or .parquet, or leave data.template out",
        )
    rest, offset, more = b"", 0, True
    while more:
        data = file.read(PART)
        more = len(data) == PART
        data = rest + data
        end = _part_end(data) if more else len(data)
        if end or not offset:
            text = decode(data[:end], name, offset)
            yield Document(text if offset else text.removeprefix("\ufeff"), name, continues=offset > 0)
        rest, offset = data[end:], offset + end


def _part_end(data: bytes) -> int:
    """Where a text may be parted: behind the last line end before a letter, else between any two characters."""
    for line_end in islice(re.finditer(rb"[\x21-\xff]\n", data[:0:-1]), 1):  # backwards, the letter comes first
        return len(data) - line_end.start() - 1
    end = len(data) - 1
    while end and data[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return end


def read_jsonl(file: BinaryIO, name: str, text_field: str | None) -> Iterator[Document]:
    """One JSON object a line; empty lines are skipped."""
    for line, place in _lines(file, name):
        if not line.isspace():
            yield record_document(_json_object(line, place), name, place, text_field)


def read_csv(file: BinaryIO, name: str, text_field: str | None) -> Iterator[Document]:
    """Rows under a header; separated by comma, semicolon or tab, whichever the header has most of."""
    csv.field_size_limit(CSV_FIELD_LIMIT)  # a setting of the whole process, there is no other
    lines = (line for line, _ in _lines(file, name))
    first = next(lines, "")
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(_chain(first, lines), delimiter=delimiter, strict=True)
    header, start = None, 1
    while True:
        place = f"{name}, line {start}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(f"{place}: broken CSV: {error}", "quote fields that hold quotes or line ends") from None
        start = rows.line_num + 1
        if row is None:
            return
        if header is None:
            header = _csv_header(row, place)
            if text_field is not None and text_field not in header:
                raise _missing_field(place, text_field, header, "column")
        elif row:
            if len(row) != len(header):
                raise DataError(
                    f"{place}: {len(row)} fields under a header of {len(header)}",
                    f"quote fields that hold {delimiter!r} or line ends",
                )
            yield record_document(dict(zip(header, row, strict=True)), name, place, text_field)


def read_parquet(file: BinaryIO, name: str, text_field: str | None) -> Iterator[Document]:
    """The rows of a Parquet file, a few at a time."""
    parquet, arrow_error = _pyarrow(name)
    number = 0
    try:
        # Without a buffer size, or with pre_buffer, it would hold a whole row group: hundreds of MB in large corpora.
        table = parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        columns = table.schema_arrow.names
        if text_field is not None and text_field not in columns:
            raise _missing_field(name, text_field, columns, "column")
        for batch in table.iter_batches(PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield record_document(row, name, f"{name}, row {number}", text_field)
    except (arrow_error, OSError, UnicodeDecodeError) as error:
        what = " ".join(str(error).split())
        raise DataError(f"{name} is damaged after row {number}, or no Parquet file: {what}", "fetch it again") from None


READERS: dict[str, Reader] = {
    ".txt": read_text,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}


def record_document(record: Mapping[str, Any], source: str, place: str, text_field: str | None) -> Document:
    """The document of a record. A text of null is an empty one; a missing or other field is refused."""
    if text_field is None:
        return Document("", source, record, place)
    if text_field not in record:
        raise _missing_field(place, text_field, record, "field")
    text = record[text_field]
    if not isinstance(text, str | None):
        raise DataError(
            f"{place}: field {text_field!r} holds {_json_type(text)}, not text",
            "name the field that holds text with --data.text_field",
        )
    return Document(text or "", source, record, place)


def decode(data: bytes, name: str, offset: int = 0) -> str:
    """`data` from UTF-8. Raises DataError naming the byte, counted in the file where `data` starts at `offset`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start}", "save it as UTF-8"
        ) from None


def _lines(file: Iterable[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Each line with its end, and its place; the byte order mark is left out."""
    offset = 0
    for number, line in enumerate(file, 1):
        place = f"{name}, line {number}"
        text = decode(line, place, offset)
        offset += len(line)
        yield text.removeprefix("\ufeff") if number == 1 else text, place


def _json_object(line: str, place: str) -> dict[str, Any]:
    try:
        return _parsed(line)
    except ValueError:  # rare: the slower parser says what is wrong, or reads what the other one is too strict for
        pass
    try:
        record = json.loads(line)
        if "\\u" in line:  # only by an escape can half of a character come in
            json.dumps(record, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}", "mend or remove it"
        ) from None
    except UnicodeEncodeError:
        raise DataError(f"{place}: a \\u escape is half of a character", "mend or remove it") from None
    except (RecursionError, ValueError) as error:  # nested a thousand deep; an integer of thousands of digits
        raise DataError(f"{place}: JSON that cannot be read: {error}", "mend or remove it") from None
    if not isinstance(record, dict):
        raise DataError(f"{place}: {_json_type(record)} instead of an object", 'a line looks like {"text": "..."}')
    return record


def _parsed(line: str) -> dict[str, Any]:
    """A JSON object, by a parser twice as fast as the standard library's. Raises ValueError for anything else."""
    record = from_json(line)
    if not isinstance(record, dict):
        raise ValueError
    return record


def _json_type(value: object) -> str:
    """What a value that is no text is, in words; Parquet also knows dates, bytes and the like."""
    names = (
        (list, "a list"),
        (dict, "an object"),
        (str, "a string"),
        (bool, "a truth value"),
        (int | float, "a number"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


def _csv_header(row: list[str], place: str) -> list[str]:
    twice = {name for name in row if name and row.count(name) > 1}
    if twice:
        raise DataError(f"{place}: there are two columns {min(twice)!r}", "rename one of them")
    return row


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _missing_field(place: str, wanted: str, there: Iterable[str], kind: str) -> DataError:
    names = list(there)
    listed = ", ".join(map(repr, names[:12])) + (", …" if len(names) > 12 else "")
    close = nearest(wanted, names)
    guess = close if close.startswith("did") else "name the one that holds the text with --data.text_field"
    return DataError(f"{place}: there is no {kind} {wanted!r}, only {listed or 'nothing'}", guess)


def _pyarrow(name: str) -> tuple[Any, type[Exception]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{name}: reading Parquet needs pyarrow, which is not installed", INSTALL_DATA) from None
    return pyarrow.parquet, pyarrow.ArrowException
