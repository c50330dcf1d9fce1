"""What an audit counts while the documents go by, once, and the samples that it takes of their spans."""

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from primegpt.data.cleaning.clean import LONG_TEXT
from primegpt.data.cleaning.spans import LONG, Similar, SpanSample, blocks, span_hashes
from primegpt.data.reading.records import Document
from primegpt.tokenizers.base import Tokenizer

BATCH = 1 << 20  # bytes looked at together
TOKENIZED = 1_000_000  # characters tokenized to tell the number of tokens
TYPICAL_BYTES_PER_TOKEN = 4.0  # of English in a vocabulary of tens of thousands
HELD_OUT = 0.1
LINES = 100_000  # of long texts, in the sample that tells how many of them are copies
END_MARKS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<eos>", "<EOS>")
_STRUCK = re.compile(r"(?<=[^\n])(?<!</s>)(?<!</s> )<s>")  # within a line: HTML strikes out what follows, to its </s>

Integers = npt.NDArray[np.int64]

_TAGS = "a abbr article b blockquote body br center code div em font footer h1 h2 h3 h4 h5 h6 head header hr html i"
_TAGS += " iframe img input li link main meta nav ol option p pre script section small span strong style sub sup table"
_TAGS += " tbody td th thead title tr u ul"
_HTML = re.compile(
    rf"</?(?:{'|'.join(_TAGS.split())})(?:\s[^<>]{{0,300}})?/?>|<!--|&(?:amp|lt|gt|quot|nbsp|apos|#\d{{1,6}});", re.I
)


class TextCounts:
    """The counts, in 24 bytes a document, and the samples."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        self.bytes = self.characters = self.non_ascii = self.html = self.unknown = 0
        self.sizes, self.lengths, self.hashes = array("q"), array("q"), array("Q")
        self.letters: Integers = np.zeros(0x110000, np.int64)  # how often each character occurs
        self.end_marks = Counter[str]()
        self.spans, self.lines, self.similar = SpanSample(), SpanSample(LINES), Similar()
        self.long_bytes = 0  # of long documents
        self.tail, self.hasher = b"", hashlib.blake2b(digest_size=8)  # of the last document: its end, its hash so far
        self.blockwise = False
        self.head = bytearray()  # the beginning, where examples are quoted from
        self.tokenized = [0, 0, 0]  # characters, bytes, tokens

    def read(self, documents: Iterable[Document]) -> "TextCounts":
        for batch in _batches(documents):
            self._read_batch(batch)
        return self

    def tokens(self, *, by_character: bool) -> tuple[int, bool]:
        """Tokens of all of the text, and whether that is exact: told from a part by the tokenizer, else the characters
        if a model is to read `by_character`, else told from the size.
        """
        if self.tokenizer is None and by_character:
            return self.characters, True
        _, size, tokens = self.tokenized
        exact = self.tokenizer is not None and size == self.bytes
        return round(self.bytes / (size / tokens if tokens else TYPICAL_BYTES_PER_TOKEN)), exact

    def lengths_of_documents(self) -> dict[str, int]:
        """Characters of the shortest, the longest, and of those between."""
        lengths = np.sort(np.asarray(self.lengths)) if self.lengths else np.zeros(1, np.int64)
        points = {"shortest": 0, "5%": 0.05, "median": 0.5, "95%": 0.95, "longest": 1}
        return {point: int(lengths[round(at * (len(lengths) - 1))]) for point, at in points.items()}

    def duplicate_share(self) -> float:
        """Documents that are exactly an earlier one."""
        return 1 - len(np.unique(np.asarray(self.hashes))) / max(1, len(self.hashes))

    def unknown_share(self) -> float | None:
        """Characters that the tokenizer does not know; None if it knows all, or there is none."""
        if self.tokenizer is None or self.tokenizer.unk_token is None:
            return None
        return self.unknown / max(1, self.characters)

    def _read_batch(self, documents: list[Document]) -> None:
        """Documents of about BATCH bytes together, or a single longer one, or a part that goes on with the last."""
        encoded = [document.text.encode() for document in documents]
        goes_on = documents[0].continues
        first, before = (len(self.sizes) - 1, self.sizes[-1]) if goes_on else (len(self.sizes), 0)
        for document, data in zip(documents, encoded, strict=True):
            self._count(document.text, data, document.continues)
        self._count_letters("".join(document.text for document in documents))
        if len(self.head) < BATCH:
            self.head += b"\0".join(encoded)[: BATCH - len(self.head)]
        tail, self.tail = self.tail if goes_on else b"", encoded[-1][1 - LONG :]
        if len(encoded) > 1:
            self._hash(b"".join(encoded), np.array([len(data) for data in encoded]), first, 0)
            return
        data = tail + encoded[0]
        for start in range(0, len(data), BATCH):  # overlapping, so that no span is lost between two pieces
            piece = data[start : start + BATCH + LONG - 1]
            self._hash(piece, np.array([len(piece)]), first, before - len(tail) + start)

    def _count(self, text: str, data: bytes, goes_on: bool) -> None:
        if not goes_on:
            self.hasher = hashlib.blake2b(digest_size=8)
            for column in (self.sizes, self.lengths, self.hashes):
                column.append(0)
        self.hasher.update(data)
        self.hashes[-1] = int.from_bytes(self.hasher.digest(), "little")
        self.sizes[-1] += len(data)
        self.lengths[-1] += len(text)
        self.bytes += len(data)
        self.characters += len(text)
        for mark in END_MARKS:
            count = text.count(mark)
            if count and mark == "</s>":
                count = max(0, count - sum(1 for _ in _STRUCK.finditer(text)))
            if count:
                self.end_marks[mark] += count
        if len(text) != len(data):
            self.non_ascii += int(np.count_nonzero(np.frombuffer(data, np.uint8) >= 0xC0))  # first bytes of characters
        if "<" in text or "&" in text:
            self.html += sum(match.end() - match.start() for match in _HTML.finditer(text))
        if self.tokenizer is not None:
            self.unknown += sum(self.tokenizer.count_unknown(text).values())
            if (room := TOKENIZED - self.tokenized[0]) > 0:
                part = text[:room]
                size = len(data) if len(part) == len(text) else len(part.encode())
                counted = (len(part), size, len(self.tokenizer.encode_array(part)))
                self.tokenized = [a + b for a, b in zip(self.tokenized, counted, strict=True)]

    def _count_letters(self, text: str) -> None:
        for start in range(0, len(text), BATCH):
            codes = np.frombuffer(text[start : start + BATCH].encode("utf-32-le"), np.uint32)
            counts = np.bincount(codes)
            self.letters[: len(counts)] += counts

    def _hash(self, data: bytes, sizes: npt.NDArray[np.int64], first: int, start: int) -> None:
        """Sample the spans of documents `first`, `first` + 1, …, whose bytes stand in `data` one after another."""
        array_of_bytes = np.frombuffer(data, np.uint8)
        ends = np.cumsum(sizes)
        owner = np.repeat(np.arange(len(sizes)), sizes)  # which document each byte belongs to
        short, long = span_hashes(array_of_bytes)
        whole = ends[owner[: len(long)]] - np.arange(len(long)) >= LONG
        position = start + np.arange(len(long)) - (ends - sizes)[owner[: len(long)]]
        self.spans.add(long[whole], first + owner[: len(long)][whole], position[whole])
        starts = ends - sizes
        long_ones = (sizes > LONG_TEXT) | (start > 0)
        if long_ones.any():
            self.blockwise = True
            self.long_bytes += int(sizes[long_ones].sum())
            begin = np.zeros(len(data), bool)  # of a line of a long document
            begin[1:] = array_of_bytes[:-1] == ord("\n")
            begin[starts[sizes > 0]] |= start == 0
            begin = begin[: len(long)] & whole & long_ones[owner[: len(long)]]
            self.lines.add(long[begin], first + owner[: len(long)][begin], position[begin])
            starts = blocks(array_of_bytes, starts[sizes > 0])[
                int(start > 0) :
            ]  # where a piece begins, nothing else does
        else:
            starts = starts[sizes > 0]
        self.similar.add(
            short, starts, len(data), first + owner[starts], start + starts - (ends - sizes)[owner[starts]]
        )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents of about BATCH bytes together; one that is longer comes alone, as does each further part of one."""
    batch, size = list[Document](), 0
    for document in documents:
        if len(document.text) >= BATCH or document.continues:
            if batch:
                yield batch
            yield [document]
            batch, size = [], 0
            continue
        batch.append(document)
        size += len(document.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def held_out_places(seen: TextCounts, n_training: int, given: bool) -> tuple[Any, str]:
    """Whether a place in the text, (document, position), is held out, for arrays of them; and the name of that part."""
    if given:
        return (lambda document, position: document >= n_training), "the validation text"
    if n_training > 1:  # evenly spread over the corpus, whatever order it is in
        golden = (5**0.5 - 1) / 2
        return (
            lambda document, position: (document * golden) % 1 < HELD_OUT
        ), f"a random {HELD_OUT:.0%} of the documents"
    cut = (1 - HELD_OUT) * seen.bytes
    return (lambda document, position: position >= cut), f"the last {HELD_OUT:.0%} of the text"
