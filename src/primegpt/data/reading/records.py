"""What every reader of a file shares: the document it gives, the lines of a file, and a record among others."""

import difflib
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from primegpt.data.reading.messages import LISTS
from primegpt.errors import QUOTED, DataError, listed, quoted

TEXT_FIELD = "--data.text_field"
# How others call the prompt, which may come in two fields, and the response: Alpaca, Dolly, OpenAI and TRL.
FORMS = (
    (("instruction", "input"), "output"),
    (("instruction", "context"), "response"),
    (("prompt",), "completion"),
)
# Fields by which a record is one for a template.
SHAPES = [
    ("preference", {"chosen", "rejected"}),
    *(("chat", {messages}) for messages in LISTS),
    ("song", {"prompt", "lyrics"}),
    ("response", {"prompt", "response"}),
    *(("response", {first, answer}) for (first, *_), answer in FORMS),
]
RECORD_LIMIT = 128_000_000  # bytes of a record, unless data.max_record_bytes says otherwise


@dataclass(frozen=True)
class Document:
    """One text that begins and ends by itself: a file, a song, a record of a file."""

    text: str
    """The text; empty when only `fields` matter."""
    source: str
    """The file it came from, or the name of the source."""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The record that it comes from: a JSON object, a row. Empty for plain text."""
    place: str = ""
    """Where it stands, for messages: "lyrics.jsonl, line 12"."""
    continues: bool = False
    """Whether this goes on with the document before: a long text comes in parts."""
    group: int = 0
    """Which of the sources it came from, counted from 0."""


def held_bytes(value: object) -> int:
    """Memory that a value of a record takes, with all that is in it: no text is encoded, no other value written out."""
    size, left = 0, [value]
    while left:  # not recursive: objects stand in one another as deep as somebody likes
        value = left.pop()
        size += sys.getsizeof(value)
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
    return size


class Reading(NamedTuple):
    """How the records of a file are read."""

    text_field: str | None
    """The field that is the text; with None the records themselves are wanted, without a text."""
    limit: int = RECORD_LIMIT
    """Bytes that a record may have."""
    named: Collection[str] = ()
    """Fields that a template asks for: a line that has one of them names columns, whatever else it looks like."""


def record_document(record: Mapping[str, object], source: str, place: str, text_field: str | None) -> Document:
    """The document of a record. A text of null is an empty one; a missing or other field is refused."""
    if text_field is None:
        return Document("", source, record, place)
    if text_field not in record:
        raise missing_field(place, text_field, record, TEXT_FIELD)
    text = record[text_field]
    if not isinstance(text, str | None):
        raise DataError(
            f"{place}: field {quoted(text_field)} holds {json_type(text)}, not text",
            f"name the field that holds text with {TEXT_FIELD}",
        )
    return Document(text or "", source, record, place)


def missing_field(place: str, wanted: str, there: Iterable[str], option: str, kind: str = "field") -> DataError:
    """What to say of a record without the field `wanted`: which ones there are, and the `option` that names another."""
    names = list(there)
    close = difflib.get_close_matches(wanted, [name for name in names[:1000] if len(name) <= QUOTED], n=1)
    remedy = f"say {option} {close[0] if close else 'NAME'}"
    template = next((name for name, fields in SHAPES if fields <= set(names)), None)
    if template and not close and option == TEXT_FIELD:
        remedy = f"say --data.template {template}, or {option} NAME"
    return DataError(f"{place}: there is no {kind} {quoted(wanted)}, only {listed(names) or 'nothing'}", remedy)


def json_type(value: object) -> str:
    """What a value that is no text is, in words; Parquet also knows dates, bytes and the like."""
    names = (
        (type(None), "null"),
        (list, "a list"),
        (dict, "an object"),
        (str, "a string"),
        (bool, "a truth value"),
        (int | float, "a number"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


class Lines:
    """The lines of a file, decoded, each with its end; the byte order mark is left out.

    The lines since `begin` may be `limit` bytes together: a line is otherwise as long as whoever wrote it likes, and
    a small compressed file holds one that fills the memory.
    """

    def __init__(self, file: BinaryIO, name: str, limit: int) -> None:
        self.file, self.name, self.limit = file, name, limit
        self.number = self.offset = self.size = 0  # of the line that came last, of bytes before it, since `begin`

    def begin(self) -> None:
        """A new record begins with the next line."""
        self.size = 0

    @property
    def place(self) -> str:
        return f"{self.name}, line {self.number}"

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.file.readline(self.limit - self.size + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.size += len(line)
        if self.size > self.limit:
            raise too_large(self.place, self.limit)
        text = decode(line, self.place, self.offset)
        self.offset += len(line)
        return text.removeprefix("\ufeff") if self.number == 1 else text


def too_large(place: str, limit: int) -> DataError:
    return DataError(f"{place}: the record is larger than {limit:,} bytes", "divide it, or raise data.max_record_bytes")


def decode(data: bytes, name: str, offset: int = 0) -> str:
    """`data` from UTF-8. Raises DataError naming the byte, counted in the file where `data` starts at `offset`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start}", "save it as UTF-8"
        ) from None
