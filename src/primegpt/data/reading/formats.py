"""One reader for each kind of file (text, JSON, CSV and Parquet, plain or in gzip) and for data sets of the hub.

Everything is read in little memory however large the file: records one by one, a long text in parts. A text file is
one document all the same: where one document ends and the next begins is not for a program to guess.
"""

import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from primegpt.data.reading.kinds import HEAD, PARQUET, kind_of
from primegpt.data.reading.objects import read_json, read_jsonl
from primegpt.data.reading.records import (
    TEXT_FIELD,
    Document,
    Reading,
    decode,
    missing_field,
    record_document,
    too_large,
)
from primegpt.data.reading.tables import read_csv, read_tsv
from primegpt.errors import DataError

PART = 4_000_000  # bytes of a text held at once
PARQUET_ROWS = 256  # read at once
INSTALL_DATA = "pip install 'primegpt[data]'"
DESCRIPTORS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # pipes that are open already, such as a shell's <(…)
SPECIAL = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}

PREFIX = "hf:"
ASK_SECONDS = 5.0
_SPLIT = re.compile(r"(train|validation|valid|val|test|dev|unsupervised)", re.IGNORECASE)

Reader = Callable[[BinaryIO, str, Reading], Iterator[Document]]  # of an open file and its name


def reader_of(path: Path) -> Reader:
    """By the ending of a name, with or without .gz; a name without a known ending is plain text."""
    return READERS.get((path.with_suffix("") if is_zipped(path) else path).suffix.lower(), read_text)


def is_zipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def is_readable(path: Path) -> bool:
    """Whether a folder's `path` is text by its name; a file that the user names is always tried."""
    suffix = (path.with_suffix("") if is_zipped(path) else path).suffix.lower()
    return suffix in TEXTS or suffix in FOLDERS - ({".parquet"} if is_zipped(path) else set())


def read_file(path: Path, reading: Reading) -> Iterator[Document]:
    """The documents of one file, by the ending of its name; a name without a known ending is plain text.

    Raises DataError, in one line that names the file and the byte, line or row, for whatever cannot be read, and for
    a file that is no text whatever its name says.
    """
    reader = reader_of(path)
    if is_zipped(path) and reader is read_parquet:
        raise DataError(f"{path}: a Parquet file is compressed by itself", "unpack it with gunzip")
    with io_complaints(str(path)):
        refuse_special(path)
        with _opened(path) as file:
            yield from read_stream(file, str(path), reading, reader)


def read_stream(file: BinaryIO, name: str, reading: Reading, reader: Reader | None = None) -> Iterator[Document]:
    """The documents of an open file, read as plain text unless a `reader` is given."""
    start = file.tell() if file.seekable() else None  # a shell may have read a part of its standard input
    head = file.read(HEAD)
    kind = kind_of(head)
    if kind and not (kind == PARQUET and reader is read_parquet):
        raise DataError(f"{name} is {kind.name}, not UTF-8 text", kind.remedy)
    if start is not None:
        file.seek(start)
    else:
        file = io.BufferedReader(_Again(head, file))
    yield from (reader or read_text)(file, name, reading)


def kind_of_file(path: Path) -> str | None:
    """What a regular file is, if it is no text: "a PDF document"; None also for one that cannot be opened."""
    status = path.stat()
    return _kind_of_file(path, status.st_size, status.st_mtime_ns)


@lru_cache(1 << 17)
def _kind_of_file(path: Path, size: int, changed: int) -> str | None:
    try:
        with _opened(path) as file:
            kind = kind_of(file.read(HEAD))
    except (OSError, EOFError, zlib.error):
        return None
    return None if not kind or (kind == PARQUET and reader_of(path) is read_parquet) else kind.name


def refuse_special(path: Path) -> None:
    """DataError for a pipe, socket or device, which may have no end; a pipe that is open already is read."""
    mode = path.stat().st_mode
    what = SPECIAL.get(stat.S_IFMT(mode))
    if what and not (os.fspath(path).startswith(DESCRIPTORS) and stat.S_ISFIFO(mode)):
        raise DataError(f"{path} is {what}, no file", "name a file, or give its text to standard input (-)")


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if is_zipped(path) else path.open("rb"))


class _Again(io.RawIOBase):
    """A stream that cannot go back, with the bytes that were read from it put back."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self.head, self.rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.head[: len(buffer)] or self.rest.read(len(buffer))
        self.head = self.head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


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


def read_text(file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
    """The whole file as one document, kept as it is but for a byte order mark."""
    if reading.text_field is None:
        raise DataError(
            f"{name} is plain text, and a template needs records with fields",
            "give .jsonl, .json, .csv or .parquet, or leave data.template out",
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
    """Where a text may be cut: after the last line end before a letter, else between any two characters."""
    for line_end in islice(re.finditer(rb"[\x21-\xff]\n", data[:0:-1]), 1):  # backwards, the letter comes first
        return len(data) - line_end.start() - 1
    end = len(data) - 1
    while end and data[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return end


def read_parquet(file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
    """The rows of a Parquet file, a few at a time."""
    text_field, limit = reading.text_field, reading.limit
    parquet, arrow_error = _pyarrow(name)
    number = 0
    try:
        # Without a buffer size, or with pre_buffer, it would hold a whole row group: hundreds of MB in large corpora.
        table = parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        columns = table.schema_arrow.names
        if text_field is not None and text_field not in columns:
            raise missing_field(name, text_field, columns, TEXT_FIELD, "column")
        for batch in table.iter_batches(PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                place = f"{name}, row {number}"
                if sum(len(value) for value in row.values() if isinstance(value, str)) > limit:
                    raise too_large(place, limit)
                yield record_document(row, name, place, text_field)
    except (arrow_error, OSError, UnicodeDecodeError) as error:
        what = " ".join(str(error).split())
        raise DataError(f"{name} is damaged after row {number}, or no Parquet file: {what}", "fetch it again") from None
    except (ValueError, OverflowError) as error:
        what = f"after row {number} is a value that Python cannot represent: {error}"
        raise DataError(f"{name}: {what}", "leave that column out, or store it as text") from None


def _pyarrow(name: str) -> tuple[Any, type[Exception]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{name}: reading Parquet needs pyarrow, which is not installed", INSTALL_DATA) from None
    return pyarrow.parquet, pyarrow.ArrowException


def read_dataset(address: str, text_field: str | None) -> Iterator[Document]:
    """The rows of a `datasets` data set, streamed: NAME, NAME:SPLIT, NAME:CONFIG, NAME:CONFIG:SPLIT.

    NAME is one of the Hugging Face hub, or a folder of data files. The split is "train" if none is said.
    """
    source = f"{PREFIX}{address}"
    name, config, split = parse_dataset(address)
    try:
        import datasets
    except ImportError:
        raise DataError(f"{source} needs the package datasets, which is not installed", INSTALL_DATA) from None
    number = 0
    try:
        if not Path(name).exists():
            _ask_hub(name)
        for row in datasets.load_dataset(name, config, split=split, streaming=True):
            number += 1
            yield record_document(row, source, f"{source}, row {number}", text_field)
    except DataError:
        raise
    except Exception as error:  # the library raises what it pleases: its own, the hub's, the network's, the builder's
        raise DataError(
            f"{source} cannot be read{f' after row {number}' if number else ''}: {_first_line(error)}",
            "check name, configuration and split; offline, fetch its files elsewhere and name those",
        ) from None


def _ask_hub(name: str) -> None:
    """One request, so that what cannot be reached fails at once: loading tries again for half a minute."""
    import huggingface_hub

    if not huggingface_hub.constants.HF_HUB_OFFLINE:  # then it does not ask, and looks into its cache
        huggingface_hub.HfApi().dataset_info(name, timeout=ASK_SECONDS)


def parse_dataset(address: str) -> tuple[str, str | None, str]:
    """Name, configuration and split of an address NAME[:CONFIG][:SPLIT]; NAME::SPLIT leaves the first out."""
    if Path(address).exists():  # C:\data is a folder
        return address, None, "train"
    name, *rest = address.split(":")
    if len(rest) > 2 or not name:
        raise DataError(f"hf:{address} is no data set", "write hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    if len(rest) == 1:
        rest = ["", rest[0]] if _SPLIT.fullmatch(rest[0]) else [rest[0], ""]
    config, split = rest or ("", "")
    return name, config or None, split or "train"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


READERS: dict[str, Reader] = {
    ".txt": read_text,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
FOLDERS = READERS.keys() - {".json"}  # which in most folders holds settings
# What people write to be read as it stands; what is made for machines, such as .html, is left out of folders.
TEXTS = {".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex"}
