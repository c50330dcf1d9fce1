"""From documents to shards: on all cores, in little memory, and going on after a kill where it was.

The text goes through in pieces of about a megabyte. They are encoded in any order and written in the order of the
text, so that the shards are the same however many cores there are, and however often the work was cut short.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from primegpt.data.shards import ShardWriter
from primegpt.data.sources import Document, utf8_size
from primegpt.data.template import SUPERVISED, Tally, Template
from primegpt.run.atomic import write_json_atomic
from primegpt.tokenizers.base import WORKER, Tokenizer, available_cores

PIECE = 1_000_000  # characters encoded in one go
CHECKPOINT_SECONDS = 5.0
PROGRESS = "progress.json"
SPLITS = ("train", "val")

Report = Callable[[str], None]
Assigned = tuple[str, int, Document]  # split, number, document


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

    batches: dict[str, Batch]
    """By split."""
    text_bytes: dict[str, int]
    """Size of the text that is to be learnt, by split."""
    source_bytes: int
    tally: Tally


def build(
    folder: Path,
    assigned: Iterable[Assigned],
    tokenizer: Tokenizer,
    template: Template | None,
    limit: int,
    *,
    n_bytes: int,
    source_fingerprint: str,
    report: Report,
) -> Tally:
    """Write the shards of both splits into `folder`, or finish what an earlier call with equal arguments began there.

    Records take at most `limit` tokens. `n_bytes`, the size of the whole text, is for the forecast.
    """
    saved = _read_progress(folder)
    done, text_bytes, tally = saved["pieces"], dict(saved["text_bytes"]), Tally.from_json(saved["tally"])
    if done:
        report(f"going on with the preparation that was interrupted after {saved['bytes'] / 1e6:,.0f} MB")
    progress = _Progress(n_bytes, saved["bytes"], report)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                ShardWriter(
                    folder / split,
                    tokenizer.id_dtype,
                    roles=template is not None,
                    resume=saved["writers"].get(split),
                )
            )
            for split in SPLITS
        }

        def checkpoint() -> None:
            state = {
                "pieces": done,
                "bytes": progress.bytes,
                "text_bytes": text_bytes,
                "tally": tally.as_json(),
                "writers": {split: writer.checkpoint() for split, writer in writers.items()},
            }
            write_json_atomic(folder / PROGRESS, state)

        encoder = _Encoder(tokenizer, template, limit)
        pieces = (piece for number, piece in enumerate(_pieces(assigned, tokenizer)) if number >= saved["pieces"])
        for encoded in _in_order(encoder.encode, pieces):
            for split, (ids, roles, starts) in encoded.batches.items():
                writers[split].write(ids, roles, starts=starts)
            for split, size in encoded.text_bytes.items():
                text_bytes[split] += size
            tally.merge(encoded.tally)
            done += 1
            progress.add(encoded.source_bytes)
            if progress.checkpoint_due():
                checkpoint()
        for split, writer in writers.items():
            writer.close(
                tokenizer_fingerprint=tokenizer.fingerprint,
                source_fingerprint=source_fingerprint,
                split=split,
                text_bytes=text_bytes[split],
            )
    (folder / PROGRESS).unlink(missing_ok=True)
    progress.finish()
    return tally


def _read_progress(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / PROGRESS).read_bytes())
    except (OSError, ValueError):
        return {"pieces": 0, "bytes": 0, "text_bytes": dict.fromkeys(SPLITS, 0), "tally": {}, "writers": {}}


class _Encoder:
    """Encodes pieces; used by several threads at once."""

    def __init__(self, tokenizer: Tokenizer, template: Template | None, limit: int) -> None:
        self.tokenizer, self.template, self.limit = tokenizer, template, limit
        self.opening = np.array([tokenizer.eot_id], tokenizer.id_dtype)

    def encode(self, piece: list[Assigned]) -> Encoded:
        tally, text_bytes = Tally(), dict.fromkeys(SPLITS, 0)
        rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
        found = self.records(piece, tally) if self.template else self.texts([document for _, _, document in piece])
        for (split, _, _), (row, size) in zip(piece, found, strict=True):
            rows[split].append(row)
            text_bytes[split] += size
        batches = {split: in_a_line(some) for split, some in rows.items() if some}
        return Encoded(batches, text_bytes, sum(_size(document) for _, _, document in piece), tally)

    def texts(self, documents: list[Document]) -> Iterator[tuple[Row, int]]:
        """Ids and size of each text. The end-of-text id opens a document: every real token then has a context."""
        arrays = self.tokenizer.encode_arrays([document.text for document in documents])
        for document, ids in zip(documents, arrays, strict=True):
            opens = not document.continues
            yield Row(opens, np.concatenate([self.opening, ids]) if opens else ids, None), utf8_size(document.text)

    def records(self, piece: list[Assigned], tally: Tally) -> Iterator[tuple[Row, int]]:
        """Ids and roles of each record, and the size of its answer."""
        assert self.template is not None
        for _, number, document in piece:
            example = self.template.encode(document, number, self.tokenizer, self.limit, tally)
            answer = example.ids[example.roles == SUPERVISED]
            size = len(self.tokenizer.decode_bytes(answer, skip_special_tokens=True))
            yield Row(True, example.ids, example.roles), size


def _size(document: Document) -> int:
    """Bytes of a text; of a record about as many, for the forecast."""
    return utf8_size(document.text) or sum(len(str(value)) for value in document.fields.values())


def in_a_line(rows: list[Row]) -> Batch:
    """Rows one after the other."""
    places = np.cumsum([0, *(len(row.ids) for row in rows[:-1])])
    roles = None if rows[0].roles is None else np.concatenate([row.roles for row in rows if row.roles is not None])
    return Batch(np.concatenate([row.ids for row in rows]), roles, places[[row.opens for row in rows]])


def _pieces(assigned: Iterable[Assigned], tokenizer: Tokenizer) -> Iterator[list[Assigned]]:
    """The documents in groups of about PIECE characters; a long text is cut where that does not change its ids."""
    piece, size = list[Assigned](), 0
    for split, number, document in assigned:
        for part in _parts(document, tokenizer):
            piece.append((split, number, part))
            size += len(part.text) + sum(len(str(value)) for value in part.fields.values()) + 1
            if size >= PIECE:
                yield piece
                piece, size = [], 0
    if piece:
        yield piece


def _parts(document: Document, tokenizer: Tokenizer) -> Iterator[Document]:
    if len(document.text) <= PIECE:
        yield document
        return
    continues = document.continues
    for text in tokenizer.cut(document.text, PIECE):
        yield replace(document, text=text, continues=continues)
        continues = True


def _in_order(function: Callable[[list[Assigned]], Encoded], pieces: Iterable[list[Assigned]]) -> Iterator[Encoded]:
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
    """Says how far it is every few seconds, and when it is time for a checkpoint."""

    def __init__(self, total: int, done: int, report: Report) -> None:
        self.total, self.bytes, self.report = total, done, report
        self.start = self.last = time.monotonic()
        self.began_at = done

    def add(self, n_bytes: int) -> None:
        self.bytes += n_bytes

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return (self.bytes - self.began_at) / max(time.monotonic() - self.start, 1e-9)

    def checkpoint_due(self) -> bool:
        if time.monotonic() - self.last < CHECKPOINT_SECONDS:
            return False
        self.last = time.monotonic()
        left = max(0, self.total - self.bytes) / max(self.rate, 1)
        self.report(
            f"tokenized {self.bytes / 1e6:,.0f} of {self.total / 1e6:,.0f} MB, "
            f"{self.rate / 1e6:.1f} MB/s, about {left:.0f} s left"
        )
        return True

    def finish(self) -> None:
        if time.monotonic() - self.start > CHECKPOINT_SECONDS:
            self.report(f"tokenized {self.bytes / 1e6:,.0f} MB at {self.rate / 1e6:.1f} MB/s")
