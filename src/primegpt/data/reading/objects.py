"""Records that are JSON objects: one a line, or in a list, of which only what comes next is held."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from pydantic_core import from_json

from primegpt.data.reading.kinds import HEAD
from primegpt.data.reading.messages import LISTS
from primegpt.data.reading.records import Document, Lines, Reading, decode, json_type, record_document, too_large
from primegpt.errors import DataError, quoted

_SPACE = re.compile(r"[ \t\r\n]*")


def read_jsonl(file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
    """One object a line; empty lines are skipped."""
    lines = Lines(file, name, reading.limit)
    for line in lines:
        lines.begin()
        if not line.isspace():
            yield record_document(_object_of(line, lines.place), name, lines.place, reading.text_field)


def read_json(file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
    """The objects of one list; or objects one after another, as in JSON Lines but on however many lines each."""
    text = _Text(file, name, reading.limit)
    for number, record in enumerate(_listed(text) if text.passes("[") else _in_a_row(text), 1):
        if number == 1 and (inner := _list_in(record)) and text.ended():
            raise DataError(
                f"{name} is one object, and its records are in {quoted(inner)}",
                "save that list as a file of its own, as with `jq .NAME`",
            )
        yield record_document(record, name, f"{name}, record {number}", reading.text_field)


def is_json(text: str) -> bool:
    """Whether `text` begins with an object, or with a list of objects."""
    start = text.lstrip()
    start = start[1:].lstrip() if start.startswith("[") else start
    try:
        return start.startswith("{") and isinstance(json.JSONDecoder().raw_decode(start)[0], dict)
    except (RecursionError, ValueError):
        return False


def _listed(text: "_Text") -> Iterator[dict[str, object]]:
    more = not text.passes("]")
    while more:
        yield text.next_object()
        more = text.passes(",")
        if not more and not text.passes("]"):
            raise DataError(f"{text.place}: neither , nor ] comes after it", "mend the list, or fetch the file again")
    if not text.ended():
        raise DataError(f"{text.place}: the list ends, and the file goes on", "make it one list, or one object a line")


def _list_in(record: dict[str, Any]) -> str | None:
    """The field of a record that is a list of others, and no conversation."""
    for name, value in record.items():
        if name not in LISTS and isinstance(value, list) and len(value) > 1 and isinstance(value[0], dict):
            return name
    return None


def _in_a_row(text: "_Text") -> Iterator[dict[str, object]]:
    while not text.ended():
        yield text.next_object()


class _Text:
    """The text of a file, as far as it has been read, from the place where the next object begins."""

    def __init__(self, file: BinaryIO, name: str, limit: int) -> None:
        self.file, self.name, self.limit = file, name, limit
        self.decoder, self.offset, self.more = codecs.getincrementaldecoder("utf-8-sig")(), 0, True
        self.text, self.at, self.lines, self.records = "", 0, 0, 0

    @property
    def place(self) -> str:
        """That of the last object."""
        return f"{self.name}, record {self.records}"

    def passes(self, mark: str) -> bool:
        """Whether `mark` comes next; what comes next then is what follows it."""
        found = not self.ended() and self.text[self.at] == mark
        self.at += found
        return found

    def ended(self) -> bool:
        """Whether nothing but whitespace is left; what comes next is then no whitespace."""
        while True:
            if space := _SPACE.match(self.text, self.at):
                self.at = space.end()
            if self.at < len(self.text) or not self.more:
                return self.at == len(self.text)
            self._read_on()

    def next_object(self) -> dict[str, object]:
        """Raises DataError if there is none, a damaged one, or one that is larger than the limit."""
        self.ended()
        self.records += 1
        while True:
            try:
                record, end = json.JSONDecoder().raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self.text) - 16
                if not cut or not self.more:
                    place = f"{self.place}, line {self.lines + error.lineno}"
                    raise DataError(f"{place}: not valid JSON: {error.msg}", "mend or remove it") from None
                end = len(self.text)
            except (RecursionError, ValueError) as error:
                raise _unreadable(self.place, error) from None
            else:
                if end - self.at <= self.limit:
                    record = _checked(record, self.text[self.at : end], self.place)
                    self.at = end
                    return record
            if end - self.at > self.limit:
                raise too_large(self.place, self.limit)
            self._read_on()

    def _read_on(self) -> None:
        """As much again as there is, so that a long object is not tried too often."""
        self.lines += self.text.count("\n", 0, self.at)
        self.text, self.at = self.text[self.at :], 0
        kept = len(self.decoder.getstate()[0])
        data = self.file.read(max(HEAD, len(self.text)))
        self.more = bool(data)
        try:
            self.text += self.decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            decode(error.object[error.start :], self.name, self.offset - kept + error.start)
        self.offset += len(data)


def _object_of(line: str, place: str) -> dict[str, object]:
    try:
        record = from_json(line)  # twice as fast as the standard library's
        if isinstance(record, dict):
            return record
    except ValueError:  # rare: the slower parser says what is wrong, or reads what the other one is too strict for
        pass
    try:
        return _checked(json.loads(line), line, place)
    except json.JSONDecodeError as error:
        what = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        several = line.strip() in ("{", "[", "[{")
        remedy = "name it .json, which may have objects of several lines" if several else "mend or remove it"
        raise DataError(f"{place}: not valid JSON: {what}", remedy) from None
    except (RecursionError, ValueError) as error:
        raise _unreadable(place, error) from None


def _checked(record: object, text: str, place: str) -> dict[str, object]:
    """The record that stands in `text`, if it is an object of whole characters."""
    if not isinstance(record, dict):
        listed = isinstance(record, list) and any(isinstance(each, dict) for each in record)
        remedy = "name it .json, which may be a list of objects" if listed else 'an object looks like {"text": "..."}'
        raise DataError(f"{place}: {json_type(record)} instead of an object", remedy)
    try:
        if "\\u" in text:  # only by an escape can half of a character come in
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: a \\u escape is half of a character", "mend or remove it") from None
    return record


def _unreadable(place: str, error: Exception) -> DataError:
    """Of objects in one another a thousand deep, or an integer of thousands of digits."""
    return DataError(f"{place}: JSON that cannot be read: {error}", "mend or remove it")
