"""What a first reading of the text tells: how much of it there is, where its files begin, and what names it."""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

from primegpt.config import DataConfig
from primegpt.data.cleaning.clean import clean_documents
from primegpt.data.layout import Layout, Tally
from primegpt.data.reading.messages import NOTHING
from primegpt.data.reading.records import held_bytes
from primegpt.data.reading.sources import SONGBOOK, TEXT, Document, bytes_of, is_read_once, utf8_chunks, utf8_size
from primegpt.errors import DataError, quoted
from primegpt.terminal import Say, silent

MOST_NAMES = 1000  # of fields that are counted
IN_MEMORY = 64_000_000  # bytes of documents that are kept rather than read again, fields that nobody reads included


class Library:
    """The cleaned documents of a configuration, which may be read several times.

    Little text is kept in memory, as is what comes from standard input; anything else is read again from its files.
    """

    def __init__(self, config: DataConfig, say: Say) -> None:
        self.config, self.say = config, say
        self._kept: list[Document] | None = None

    def __iter__(self) -> Iterator[Document]:
        if self._kept is not None:
            return iter(self._kept)
        return self._read()

    def _read(self) -> Iterator[Document]:
        kept: list[Document] | None = []
        size, say = 0, self.say
        self.say = silent  # the same things need not be said on every reading
        for document in first_bytes(clean_documents(self.config, say), self.config, say):
            if kept is not None:
                kept.append(document)
                size += held_bytes(document.fields)
                if document.text not in document.fields.values():  # of which it mostly is one
                    size += held_bytes(document.text)
                if size > IN_MEMORY and not any(map(is_read_once, self.config.sources)):
                    kept = None
            yield document
        self._kept = kept


def first_bytes(documents: Iterable[Document], config: DataConfig, say: Say) -> Iterator[Document]:
    """The first `data.max_bytes` of `documents`: the last text is cut there, of records those that fit are taken.

    `say` gets a line on where that is, and which sources are left out by it. Raises DataError if no record fits.
    """
    room = limit = config.max_bytes
    if room is None or limit is None:
        yield from documents
        return
    for document in documents:
        size = bytes_of(document)
        if size <= room:
            room -= size
            yield document
            continue
        text = document.text.encode()[:room].decode("utf-8", "ignore")  # no more, so without half of a character
        if text and (document.continues or not text.isspace()):
            yield replace(document, text=text)
        elif room == limit:
            what = "the first record" if document.fields else "the first character"
            raise DataError(f"data.max_bytes = {limit:,} has no room for {what}, of {size:,} bytes", "raise it")
        unread = "".join(f"; nothing of {source} is read" for source in config.sources[document.group + 1 :])
        say(f"reading stops at {document.place or document.source} (data.max_bytes = {limit:,}){unread}")
        return


class Run(NamedTuple):
    """Documents that follow each other: the records of one file, or text files of one source."""

    first: int
    """Its first document."""
    group: int
    """Which of the sources it is from."""
    file: str | None
    """The file, of records."""


@dataclass
class Unlearnt:
    """What records say that a model does not learn, for a line to the user."""

    records: int = 0
    answers: int = 0
    empty: int = 0
    """Answers of nothing but whitespace."""
    left_out: Counter[str] = field(default_factory=Counter)
    """In how many records a field of that name holds something and is not read."""

    def count(self, document: Document, left_out: Iterable[str], answers: Iterable[str] = ()) -> None:
        """Nobody misses what the built-in songbook says beside its songs."""
        self.records += bool(document.fields)
        if document.source != SONGBOOK:
            self.left_out.update(n for n in left_out if len(self.left_out) < MOST_NAMES or n in self.left_out)
        for answer in answers:
            self.answers += 1
            self.empty += not answer.strip()

    def remarks(self) -> Iterator[str]:
        """A line for each thing worth saying."""
        names = [f"{quoted(n)} in {count:,} of {self.records:,} records" for n, count in self.left_out.most_common(5)]
        if names:
            more = f", {len(self.left_out) - 5:,} more" if len(self.left_out) > 5 else ""
            yield f"left out: field{'s' * (len(names) > 1)} {', '.join(names)}{more}"
        if self.empty:
            share = f"{self.empty:,} of {self.answers:,} answers are empty ({self.empty / self.answers:.0%})"
            yield f"{share}, and there the model learns to say nothing: fill them in, or leave these records out"


@dataclass
class Survey:
    """The text as a whole."""

    sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    """Bytes of each document in UTF-8."""
    runs: list[Run] = field(default_factory=list)
    unlearnt: Unlearnt = field(default_factory=Unlearnt)
    fingerprint: str = ""
    """SHA-256 over all that is to be encoded, in order: texts, or every part of every record, with its role and
    whatever else a Part holds, and what is reported of them. Where they lie on disk does not matter."""

    @property
    def n_documents(self) -> int:
        return len(self.sizes)

    @property
    def n_bytes(self) -> int:
        return sum(self.sizes)

    def bytes_in(self, numbers: Iterable[int]) -> int:
        """Bytes of these documents."""
        return sum(self.sizes[number] for number in numbers)

    def sources(self) -> dict[int, list[tuple[Run, range]]]:
        """The runs of each source that holds anything, with their documents."""
        stops = [*(run.first for run in self.runs[1:]), self.n_documents]
        runs = [(run, range(run.first, stop)) for run, stop in zip(self.runs, stops, strict=True)]
        return {group: list(own) for group, own in groupby(runs, lambda each: each[0].group)}


def numbered(documents: Iterable[Document]) -> Iterator[tuple[int, Document]]:
    """Each document with its number; the parts of a long one share theirs."""
    number = -1
    for document in documents:
        number += not document.continues
        yield number, document


def survey(
    documents: Iterable[Document],
    layout: Layout | None = None,
    *,
    heard: Callable[[str], object] = silent,
    text_fields: Sequence[str] = (),
) -> Survey:
    """Read everything once, as `layout` lays it out, or plain text; `heard` gets each text.

    `text_fields` name the field that holds plain text, for each source; only what is left out is named by them.
    """
    found, digest, tally = Survey(), hashlib.sha256(), Tally()
    for number, document in numbered(documents):
        if number == found.n_documents:
            if number:
                _end_document(digest, found.sizes[-1])
            found.sizes.append(0)
            run = Run(number, document.group, document.source if document.fields else None)
            if not number or run[1:] != found.runs[-1][1:]:
                if number:  # what is held out depends on where they begin
                    digest.update(b"another source" if run.group != found.runs[-1].group else b"another file")
                found.runs.append(run)
        if layout is None:  # its bytes alone: a long text comes in parts, wherever they end
            read = text_fields[document.group] if text_fields else TEXT
            found.unlearnt.count(document, (n for n, v in document.fields.items() if n != read and v not in NOTHING))
            heard(document.text)
            for chunk in utf8_chunks(document.text):
                digest.update(chunk)
                found.sizes[-1] += len(chunk)
            continue
        parts = layout.parts(document, number, tally)
        found.unlearnt.count(document, layout.left_out(document), layout.answers(parts))
        for part in parts:
            digest.update(hashlib.sha256(json.dumps(part).encode()).digest())
            if not part.special:
                heard(part.content)
                found.sizes[-1] += utf8_size(part.content)
    if found.n_documents:
        _end_document(digest, found.sizes[-1])
    if layout is not None:
        digest.update(json.dumps(tally.as_json()).encode())
    found.fingerprint = digest.hexdigest()
    return found


def _end_document(digest: "hashlib._Hash", size: int) -> None:
    digest.update(size.to_bytes(8, "little"))  # or "ab" + "c" would be "a" + "bc"
