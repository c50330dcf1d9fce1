"""What a first reading of the text tells, and which of it is held out for validation.

Nothing here depends on the seed of a run: runs of different seeds learn from the same text and are judged on the same.
"""

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from primegpt.config import DataConfig
from primegpt.data.clean import clean_documents
from primegpt.data.sources import STDIN, Document, split_at_byte, utf8_chunks, utf8_size
from primegpt.errors import DataError
from primegpt.seeds import derive_seed

IN_MEMORY = 64_000_000  # bytes of text that are kept rather than read again
EXACT_SPLIT = 200_000  # documents; with more of them, each is drawn by itself, which needs no list of all sizes

Report = Callable[[str], None]
Texts = Callable[[Document, int], Iterable[str]]  # the texts of document number i


class Library:
    """The cleaned documents of a configuration, which may be read several times.

    Little text is kept in memory, as is what comes from standard input; anything else is read again from its files.
    """

    def __init__(self, config: DataConfig, report: Report) -> None:
        self.config, self.report = config, report
        self._kept: list[Document] | None = None

    def __iter__(self) -> Iterator[Document]:
        if self._kept is not None:
            return iter(self._kept)
        return self._read()

    def _read(self) -> Iterator[Document]:
        kept: list[Document] | None = []
        size, report = 0, self.report
        self.report = _silent  # the same things need not be said on every reading
        for document in clean_documents(self.config, report):
            if self.config.max_bytes and size >= self.config.max_bytes:
                break
            size += len(document.text) or sum(len(str(value)) for value in document.fields.values())
            if kept is not None:
                kept.append(document)
                if size > IN_MEMORY and STDIN not in self.config.sources:
                    kept = None
            yield document
        self._kept = kept


@dataclass
class Survey:
    """The text as a whole: how much of it there is, and what names it."""

    sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    """Bytes of each document in UTF-8."""
    firsts: dict[int, int] = field(default_factory=dict)
    """Source -> its first document, in order; a single one where sources are not kept apart."""
    fingerprint: str = ""
    """SHA-256 over the contents of all documents, in order; where they lie on disk does not matter."""

    @property
    def n_documents(self) -> int:
        return len(self.sizes)

    @property
    def n_bytes(self) -> int:
        return sum(self.sizes)

    @property
    def groups(self) -> list[range]:
        """The documents of each source, or all of them."""
        starts = list(self.firsts.values())
        return [range(*pair) for pair in pairwise([*starts, self.n_documents])]


def numbered(documents: Iterable[Document]) -> Iterator[tuple[int, Document]]:
    """Each document with its number; the parts of a long one share theirs."""
    number = -1
    for document in documents:
        number += not document.continues
        yield number, document


def survey(documents: Iterable[Document], texts: Texts, *, apart: bool = False) -> Survey:
    """Read everything once. `texts` tells which text of a document is to be learnt from.

    Sources that are kept `apart` are told from each other, by the fingerprint too.
    """
    found, digest = Survey(), hashlib.sha256()
    for number, document in numbered(documents):
        if number == found.n_documents:
            if number:
                _end_document(digest, found.sizes[-1])
            found.sizes.append(0)
            group = document.group if apart else 0
            if group not in found.firsts:
                if found.firsts:
                    digest.update(b"another source")
                found.firsts[group] = number
        for text in texts(document, number):
            for chunk in utf8_chunks(text):
                digest.update(chunk)
                found.sizes[-1] += len(chunk)
    if found.n_documents:
        _end_document(digest, found.sizes[-1])
    found.fingerprint = digest.hexdigest()
    return found


def _end_document(digest: "hashlib._Hash", size: int) -> None:
    digest.update(size.to_bytes(8, "little"))  # or "ab" + "c" would be "a" + "bc"


@dataclass(frozen=True)
class Split:
    """Which documents are held out; and of a document that is alone in its source, from which byte on."""

    held_out: Callable[[int], bool]
    cuts: Mapping[int, int]
    """Document -> byte."""

    def assign(self, documents: Iterable[Document]) -> Iterator[tuple[str, int, Document]]:
        """("train" or "val", number, document) for each document or part of one, in order."""
        position, opened = 0, set[str]()  # of a document that is cut: bytes before this part; where it has begun
        for number, document in numbered(documents):
            if number not in self.cuts:
                yield ("val" if self.held_out(number) else "train"), number, document
                continue
            if not document.continues:
                position, opened = 0, set[str]()
            before, after = split_at_byte(document.text, max(0, self.cuts[number] - position))
            position += utf8_size(document.text)
            for name, text in (("train", before), ("val", after)):
                if text:
                    yield name, number, replace(document, text=text, continues=name in opened)
                    opened.add(name)

    def training_documents(self, surveyed: Survey) -> list[int]:
        """How many documents of each source are in the training split, wholly or in part."""
        return [sum(not self.held_out(number) for number in group) for group in surveyed.groups]


def choose_split(
    surveyed: Survey, val_fraction: float, *, records: bool = False, sources: Sequence[str] = ("the text",)
) -> Split:
    """Hold out `val_fraction`, of each source that is kept apart: whole documents, or the last part of a single one.

    Raises DataError if there is too little to hold anything out.
    """
    chosen, cuts = set[int](), dict[int, int]()
    drawn = [group for group in surveyed.groups if len(group) > EXACT_SPLIT]
    threshold = int(val_fraction * 2**32)
    for index, group in enumerate(surveyed.groups):
        sizes = surveyed.sizes[group.start : group.stop]
        if len(group) == 1:
            cuts[group.start] = int(sizes[0] * (1 - val_fraction))
            if records or not 0 < cuts[group.start] < sizes[0]:
                name = sources[index] if len(surveyed.groups) > 1 else ", ".join(sources)
                what = "is a single record" if records else "is too short"
                raise DataError(f"{name} {what}: data.val_fraction = {val_fraction} cannot be held out", "add text")
        elif group not in drawn:
            chosen |= {group.start + place for place in hold_out(sizes, val_fraction, group.start)}

    def held_out(number: int) -> bool:
        return number in chosen or (any(number in group for group in drawn) and _draw(number) % 2**32 < threshold)

    return Split(held_out, cuts)


def split_documents(documents: Sequence[Document], val_fraction: float) -> tuple[list[Document], list[Document]]:
    """Training and validation documents of texts that are all at hand."""
    surveyed = survey(documents, lambda document, number: (document.text,))
    assigned = list(choose_split(surveyed, val_fraction).assign(documents))
    train, val = ([document for name, _, document in assigned if name == wanted] for wanted in ("train", "val"))
    return train, val


def hold_out(sizes: "array[int] | list[int]", val_fraction: float, first: int = 0) -> set[int]:
    """Indices of validation documents, drawn until their bytes reach the fraction; at least one on each side.

    `first` is the number of the first of them among all documents, which names its draw.
    """
    budget = val_fraction * sum(sizes)
    drawn = sorted(range(len(sizes)), key=lambda index: _draw(first + index))
    # One long book among short ones must not become the validation text by bad luck.
    fitting = [index for index in drawn if sizes[index] <= budget] or [min(drawn, key=sizes.__getitem__)]
    reached = list(accumulate((sizes[index] for index in fitting), initial=0))
    return set(fitting[: min(bisect_left(reached, budget), len(sizes) - 1)])


def _draw(number: int) -> int:
    return derive_seed(0, "validation split", number)


def _silent(line: str) -> None:
    pass
