"""From documents to blocks of shards: on all cores, in little memory, and going on after a kill where it was.

The text goes through in pieces of about a megabyte. They are encoded in any order and written in the order of the
text, so that the shards are the same however many cores there are, and however often the work was cut short.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby, takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from primegpt.data.layout import Layout, Tally
from primegpt.data.preparing.blocks import SPLITS, Blocks, record_block
from primegpt.data.preparing.shard_writer import StretchWriter
from primegpt.data.preparing.shards import SUPERVISED
from primegpt.data.preparing.survey import Survey
from primegpt.data.reading.records import held_bytes
from primegpt.data.reading.sources import Document, utf8_size
from primegpt.device import available_cores
from primegpt.terminal import Say
from primegpt.tokenizers.base import WORKER, Tokenizer

PIECE = 1_000_000  # characters encoded in one go
PROGRESS_SECONDS = 5.0

Assigned = tuple[str, int, Document]  # split, number, document


class Piece(NamedTuple):
    """Documents, or parts of long ones, that begin in one block."""

    block: int
    assigned: list[Assigned]
    n_bytes: int
    """Of what is encoded of them."""


class Row(NamedTuple):
    """The tokens of a document, or of a part of one that goes on with the part before."""

    opens: bool
    ids: npt.NDArray[np.unsignedinteger]
    roles: npt.NDArray[np.uint8] | None


class Batch(NamedTuple):
    """The rows of one split in a line. `starts` are the places in it where documents begin."""

    ids: npt.NDArray[np.unsignedinteger]
    roles: npt.NDArray[np.uint8] | None
    starts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """What one piece of text has become."""

    block: int
    batches: dict[str, Batch]
    """By split."""
    text_bytes: dict[str, int]
    """Size of the text that is to be learnt, by split."""
    train_rows: Counter[str]
    """Rows that open in the training split, by the source that they come from."""
    source_bytes: int
    tally: Tally


def build(
    unfinished: Path,
    assigned: Iterable[Assigned],
    surveyed: Survey,
    blocks: Blocks,
    wanted: Collection[int],
    tokenizer: Tokenizer,
    layout: Layout | None,
    limit: int,
    *,
    key: str,
    say: Say,
) -> None:
    """Write the blocks `wanted` of both splits into `unfinished`, and note each one that is finished.

    Records take at most `limit` tokens. `key` names the corpus that the blocks belong to.
    """
    progress = _Progress(blocks.bytes_of(wanted), say)
    tokenizer.expect(blocks.bytes_of(wanted))
    encoder = _Encoder(tokenizer, layout, limit)
    pieces = _wanted(_pieces(assigned, tokenizer, surveyed, blocks), wanted)
    left = set(wanted)
    for number, encoded in groupby(_in_order(encoder.encode, pieces), lambda each: each.block):
        _write_block(unfinished, number, progress.counted(encoded), tokenizer, layout is not None, key)
        left.remove(number)
    for number in left:  # after a record that is larger than a block
        _write_block(unfinished, number, (), tokenizer, layout is not None, key)
    progress.finish()


def _write_block(
    unfinished: Path, number: int, encoded: Iterable[Encoded], tokenizer: Tokenizer, roles: bool, key: str
) -> None:
    text_bytes, tally, train_rows = dict.fromkeys(SPLITS, 0), Tally(), Counter[str]()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(StretchWriter(unfinished / split, number, tokenizer.id_dtype, roles=roles))
            for split in SPLITS
        }
        for each in encoded:
            for split, (ids, marks, starts) in each.batches.items():
                writers[split].write(ids, marks, starts=starts)
            for split, size in each.text_bytes.items():
                text_bytes[split] += size
            train_rows.update(each.train_rows)
            tally.merge(each.tally)
        record_block(
            unfinished,
            number,
            {
                "key": key,
                "tokenizer": tokenizer.fingerprint,
                "stretches": {split: writer.finish() for split, writer in writers.items()},
                "text_bytes": text_bytes,
                "train_rows": train_rows,
                "tally": tally.as_json(),
            },
        )


class _Encoder:
    """Encodes pieces; used by several threads at once."""

    def __init__(self, tokenizer: Tokenizer, layout: Layout | None, limit: int) -> None:
        self.tokenizer, self.layout, self.limit = tokenizer, layout, limit
        self.opening = np.array([tokenizer.eot_id], tokenizer.id_dtype)

    def encode(self, piece: Piece) -> Encoded:
        tally, text_bytes, train_rows = Tally(), dict.fromkeys(SPLITS, 0), Counter[str]()
        rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
        found = self.records(piece.assigned, tally) if self.layout else self.texts(piece.assigned)
        for (split, _, document), row, size in found:
            rows[split].append(row)
            text_bytes[split] += size
            train_rows[str(document.group)] += split == "train" and row.opens
        batches = {split: in_a_line(some) for split, some in rows.items() if some}
        return Encoded(piece.block, batches, text_bytes, train_rows, piece.n_bytes, tally)

    def texts(self, assigned: list[Assigned]) -> Iterator[tuple[Assigned, Row, int]]:
        """Ids and size of each text. The end-of-text id opens a document: every real token then has a context."""
        arrays = self.tokenizer.encode_arrays([document.text for _, _, document in assigned])
        for each, ids in zip(assigned, arrays, strict=True):
            opens = not each[2].continues
            row = Row(opens, np.concatenate([self.opening, ids]) if opens else ids, None)
            yield each, row, utf8_size(each[2].text)

    def records(self, assigned: list[Assigned], tally: Tally) -> Iterator[tuple[Assigned, Row, int]]:
        """Ids and roles of each row that a record takes, and the size of its answer."""
        assert self.layout is not None
        for each in assigned:
            for example in self.layout.rows(each[2], each[1], self.tokenizer, self.limit, tally):
                answer = example.ids[example.roles == SUPERVISED]
                size = len(self.tokenizer.decode_bytes(answer, skip_special_tokens=True))
                yield each, Row(True, example.ids, example.roles), size


def in_a_line(rows: list[Row]) -> Batch:
    """Rows one after the other."""
    places = np.cumsum([0, *(len(row.ids) for row in rows[:-1])])
    roles = None if rows[0].roles is None else np.concatenate([row.roles for row in rows if row.roles is not None])
    return Batch(np.concatenate([row.ids for row in rows]), roles, places[[row.opens for row in rows]])


def _pieces(assigned: Iterable[Assigned], tokenizer: Tokenizer, surveyed: Survey, blocks: Blocks) -> Iterator[Piece]:
    """The documents in groups of about PIECE characters; a long text is cut where that does not change its ids."""
    piece, size, n_bytes, block = list[Assigned](), 0, 0, 0
    for position, each in _placed(assigned, tokenizer, surveyed):
        begins_in, (_, number, part) = blocks.at(position), each
        if piece and (size >= PIECE or begins_in != block):
            yield Piece(block, piece, n_bytes)
            piece, size, n_bytes = [], 0, 0
        block = begins_in
        piece.append(each)
        size += len(part.text) + held_bytes(part.fields)
        n_bytes += utf8_size(part.text) if part.text else surveyed.sizes[number]
    if piece:
        yield Piece(block, piece, n_bytes)


def _wanted(pieces: Iterable[Piece], wanted: Collection[int]) -> Iterator[Piece]:
    """Those of `wanted` blocks; after the last of them nothing is read."""
    last = max(wanted, default=-1)
    return (piece for piece in takewhile(lambda piece: piece.block <= last, pieces) if piece.block in wanted)


def _placed(assigned: Iterable[Assigned], tokenizer: Tokenizer, surveyed: Survey) -> Iterator[tuple[int, Assigned]]:
    """Each document, or part of a long one, and how many bytes of the text stand before it."""
    begins = 0
    for number, parts in groupby(assigned, lambda each: each[1]):
        begins += surveyed.sizes[number - 1] if number else 0
        position, before = begins, ""
        for split, _, document in parts:
            for part in _parts(document, tokenizer):
                position += utf8_size(before)
                yield position, (split, number, part)
                before = part.text


def _parts(document: Document, tokenizer: Tokenizer) -> Iterator[Document]:
    if len(document.text) <= PIECE:
        yield document
        return
    continues = document.continues
    for text in tokenizer.cut(document.text, PIECE):
        yield replace(document, text=text, continues=continues)
        continues = True


def _in_order(function: Callable[[Piece], Encoded], pieces: Iterable[Piece]) -> Iterator[Encoded]:
    """`map(function, pieces)` on all cores, with a few pieces under way while the results are used."""
    cores = available_cores()
    with ThreadPoolExecutor(cores, WORKER) as pool:
        running: deque[Future[Encoded]] = deque()
        try:
            for piece in pieces:
                running.append(pool.submit(function, piece))
                if len(running) > 2 * cores:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


class _Progress:
    """Says how far it is every few seconds."""

    def __init__(self, total: int, say: Say) -> None:
        self.total, self.bytes, self.say = total, 0, say
        self.start = self.last = time.monotonic()

    def counted(self, encoded: Iterable[Encoded]) -> Iterator[Encoded]:
        for each in encoded:
            yield each
            self.bytes += each.source_bytes
            if time.monotonic() - self.last > PROGRESS_SECONDS:
                self.last = time.monotonic()
                left = max(0, self.total - self.bytes) / max(self.rate, 1)
                self.say(
                    f"tokenized {self.bytes / 1e6:,.0f} of {self.total / 1e6:,.0f} MB, "
                    f"{self.rate / 1e6:.1f} MB/s, about {left:.0f} s left"
                )

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.bytes / max(time.monotonic() - self.start, 1e-9)

    def finish(self) -> None:
        if time.monotonic() - self.start > PROGRESS_SECONDS:
            self.say(f"tokenized {self.bytes / 1e6:,.0f} MB at {self.rate / 1e6:.1f} MB/s")
