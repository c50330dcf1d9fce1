"""Copies inside a large text, found in one pass: a sample of its spans by their hashes, and sketches of its paragraphs.

A span is 64 bytes at any position. All of them are hashed; only those whose hash is below a bound are kept, and the
bound is halved whenever they become too many. A span is therefore kept, or not, in all the places where it stands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
HeldOut = Callable[[Any, Any], Any]  # (documents, positions) -> whether each is held out

SHORT, LONG = 16, 64  # bytes of a span: for sketches of a paragraph, and for repeated text
KEPT = 400_000  # spans in the sample, at most
SKETCHED = 8  # one short span in this many goes into a sketch
SKETCH = 32  # values of a sketch
BANDS = 16  # sketches that agree in one of the bands are compared: with similarity 0.5, 99% of the pairs
SIMILAR, COPIED = 0.5, 0.6  # shares of short spans: a leak; what data.duplicates = near calls a copy, or nearly
MIN_SPANS = 12  # sampled spans without which a paragraph (of about 100 bytes) is too short to be judged
MAX_SKETCHES = 200_000
REFRAIN = 10_000  # bytes; what comes back so soon after it first stood in a document is a refrain, not a copy
EXAMPLES = 3

_draw = np.random.Generator(np.random.PCG64(1))  # constants, the same everywhere
_BYTES = _draw.integers(1, 2**63, 256, dtype=np.uint64)
_FACTORS = {1 << power: _draw.integers(1, 2**62, dtype=np.uint64) * np.uint64(2) + np.uint64(1) for power in range(6)}
_SKETCHES = _draw.integers(1, 2**62, SKETCH, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def span_hashes(data: npt.NDArray[np.uint8]) -> tuple[Hashes, Hashes]:
    """Hashes of the short and of the long span at each position of `data`; (n - 15,) and (n - 63,), or empty.

    The hash of two neighbours is one hash times a constant plus the other: six doublings make 64 bytes out of one.
    """
    hashes, length, short = _BYTES[data], 1, np.empty(0, np.uint64)
    while length < LONG:
        if len(hashes) <= length:
            return short, np.empty(0, np.uint64)
        hashes = hashes[:-length] * _FACTORS[length] + hashes[length:]
        length *= 2
        if length == SHORT:
            short = _mixed(hashes)
    return short, _mixed(hashes)


def _mixed(hashes: Hashes) -> Hashes:
    """The same hashes with every bit depending on every other (David Stafford's constants, as in SplitMix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def blocks(data: npt.NDArray[np.uint8], starts: Places) -> Places:
    """Where the paragraphs of documents that start at `starts` begin: after empty lines, or lines if there are none."""
    newline = np.flatnonzero(data == ord("\n"))
    empty_lines = newline[1:][np.diff(newline) == 1]
    breaks = empty_lines if len(empty_lines) else newline
    return np.union1d(starts, breaks[breaks + 1 < len(data)] + 1)


class SpanSample:
    """A sample of the long spans of a text: for each span and document, where it first and last stands, how often."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self.n_spans = 0
        self._halvings = 0
        self._merged = _Places.empty()
        self._new: list[_Places] = []

    def add(self, hashes: Hashes, documents: Places, positions: Places) -> None:
        """Spans with the documents that they stand in and their positions there."""
        self.n_spans += len(hashes)
        below = hashes <= self._bound
        hashes, documents, positions = hashes[below], documents[below], positions[below]
        ones, zeros = np.ones(len(hashes), np.int64), np.zeros(len(hashes), np.int64)
        self._new.append(_Places(hashes, documents, positions, positions, ones, zeros))
        if sum(len(places.hashes) for places in self._new) > self.kept:
            self._merge()

    def repeated_share(self) -> float:
        """Spans that stood before, of all; told by the number of distinct ones, which frequent spans do not sway."""
        distinct = len(_distinct(self.places.hashes)) * 2.0**self._halvings
        return max(0.0, 1 - distinct / self.n_spans) if self.n_spans else 0.0

    def copied_share(self) -> float:
        """Of all spans, those that stood before and are no refrain: in another document, or much earlier in this one.

        Each distinct span says for how many of its repetitions that is true, so that frequent ones do not sway it: for
        all of them if it is for most, since what is copied a hundred times is no refrain where it is close.
        """
        places = self.places
        starts = np.flatnonzero(np.diff(places.hashes, prepend=~places.hashes[:1]))
        if not len(starts):
            return 0.0
        repetitions = np.add.reduceat(places.counts, starts) - 1
        refrains = np.add.reduceat(places.refrains, starts)[repetitions > 0]
        repetitions = repetitions[repetitions > 0]
        if not len(repetitions):
            return 0.0
        copies = 1 - refrains / repetitions
        return self.repeated_share() * float(np.mean(np.where(copies > 0.5, 1.0, copies)))

    def repeated_elsewhere_share(self) -> float:
        """Of the distinct spans of each document, those that an earlier document has."""
        in_documents = len(self.places.hashes)
        return 1 - len(_distinct(self.places.hashes)) / in_documents if in_documents else 0.0

    def leaked_share(self, held_out: HeldOut) -> float:
        """Of the distinct spans that stand in the held-out part, those that stand in the rest too."""
        places = self.places
        inside = _distinct(places.hashes[held_out(places.documents, places.lasts)])
        outside = places.hashes[~held_out(places.documents, places.firsts)]
        return float(np.isin(inside, outside, assume_unique=False).mean()) if len(inside) else 0.0

    def examples(self, head: bytes) -> list[tuple[str, int]]:
        """The most frequent spans, as they stand in `head`, the beginning of the text, with their counts."""
        places = self.places
        starts = np.flatnonzero(np.diff(places.hashes, prepend=~places.hashes[:1]))
        if not len(starts):
            return []
        counts = np.add.reduceat(places.counts, starts)
        order = np.argsort(-counts, kind="stable")[:500]
        wanted = {int(places.hashes[starts[at]]): int(counts[at]) for at in order if counts[at] > 2}
        _, hashes = span_hashes(np.frombuffer(head, np.uint8))
        hashes, first = np.unique(hashes, return_index=True)
        frequent = np.isin(hashes, np.array(list(wanted), np.uint64))
        at_head = dict(zip(hashes[frequent].tolist(), first[frequent].tolist(), strict=True))
        examples, seen = list[tuple[str, int]](), set[bytes]()
        for hash in sorted(at_head, key=lambda hash: (-wanted[hash], at_head[hash])):
            span = head[at_head[hash] : at_head[hash] + LONG]
            pieces = {span[i : i + SHORT] for i in range(LONG - SHORT + 1)}
            if seen.isdisjoint(pieces):  # or the same words would be shown again, one letter further
                examples.append((span.decode("utf-8", "ignore"), wanted[hash]))
                seen |= pieces
            if len(examples) == EXAMPLES:
                break
        return examples

    @property
    def places(self) -> "_Places":
        """All that is in the sample, sorted by hash and document."""
        if self._new:
            self._merge()
        return self._merged

    @property
    def _bound(self) -> np.uint64:
        return np.uint64(0xFFFFFFFFFFFFFFFF >> self._halvings)

    def _merge(self) -> None:
        self._merged = _Places.merged([self._merged, *self._new])
        self._new = []
        while len(self._merged.hashes) > self.kept:
            self._halvings += 1
            self._merged = self._merged.below(self._bound)


@dataclass(frozen=True)
class _Places:
    """A row for each span and document: where the span first and last stands in it, how often, and how often soon after
    it first stood there."""

    hashes: Hashes
    documents: Places
    firsts: Places
    lasts: Places
    counts: Places
    refrains: Places

    @classmethod
    def empty(cls) -> "_Places":
        none = np.empty(0, np.int64)
        return cls(np.empty(0, np.uint64), none, none, none, none, none)

    @classmethod
    def merged(cls, parts: "list[_Places]") -> "_Places":
        """The rows of all parts, those of the same span and document made one; later parts come later in the text."""
        hashes = np.concatenate([part.hashes for part in parts])
        documents = np.concatenate([part.documents for part in parts])
        order = np.argsort(hashes, kind="stable")  # documents are in order already
        hashes, documents = hashes[order], documents[order]
        new = np.ones(len(hashes), bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (documents[1:] != documents[:-1])
        starts = np.flatnonzero(new)
        if not len(starts):
            return cls.empty()
        firsts = np.concatenate([part.firsts for part in parts])[order]
        lasts = np.concatenate([part.lasts for part in parts])[order]
        counts = np.concatenate([part.counts for part in parts])[order]
        ends = np.append(starts[1:], len(hashes)) - 1
        refrains = np.concatenate([part.refrains for part in parts])[order]
        refrains = refrains + (~new & (firsts - firsts[starts][np.cumsum(new) - 1] <= REFRAIN))
        counts, refrains = np.add.reduceat(counts, starts), np.add.reduceat(refrains, starts)
        return cls(hashes[starts], documents[starts], firsts[starts], lasts[ends], counts, refrains)

    def below(self, bound: np.uint64) -> "_Places":
        keep = self.hashes <= bound
        return _Places(*(column[keep] for column in vars(self).values()))


def _distinct(hashes: Hashes) -> Hashes:
    """Sorted, each once. (np.unique took ten times as long.)"""
    ordered = np.sort(hashes)
    return ordered[np.diff(ordered, prepend=~ordered[:1]) != 0]


class Similar:
    """Sketches (MinHash, 32 values) of documents or paragraphs, and which of them are much like an earlier one."""

    def __init__(self) -> None:
        self._sketches: list[npt.NDArray[np.uint32]] = []
        self._documents: list[Places] = []
        self._positions: list[Places] = []
        self._n = 0

    def add(self, short: Hashes, starts: Places, size: int, documents: Places, positions: Places) -> None:
        """Units that begin at `starts` in a text of `size` bytes whose short spans have the hashes `short`.

        `documents` and `positions` say where each unit stands. A span that lies across two units counts for the first.
        """
        if self._n >= MAX_SKETCHES or not len(starts):
            return
        sampled = np.flatnonzero(short < np.uint64(2**64 // SKETCHED))
        sampled = sampled[sampled >= starts[0]]
        unit = np.searchsorted(starts, sampled, side="right") - 1
        ends = np.append(starts[1:], size)
        inside = sampled + SHORT <= ends[unit]
        sampled, unit = sampled[inside], unit[inside]
        enough = np.bincount(unit, minlength=len(starts)) >= MIN_SPANS
        keep = enough[unit]
        sampled, unit = sampled[keep], unit[keep]
        if not len(sampled):
            return
        hashes = short[sampled]
        first = np.flatnonzero(np.diff(unit, prepend=-1))
        sketches = np.empty((len(first), SKETCH), np.uint32)
        for column, factor in enumerate(_SKETCHES):
            sketches[:, column] = np.minimum.reduceat((hashes * factor) >> np.uint64(32), first)
        self._sketches.append(sketches)
        self._documents.append(documents[unit[first]])
        self._positions.append(positions[unit[first]])
        self._n += len(first)

    def resolve(self) -> "SimilarPairs":
        """Each unit with an earlier one that it is much like."""
        if not self._n:
            nothing = np.empty(0, np.int64)
            return SimilarPairs(nothing, np.empty(0), nothing, nothing)
        sketches = np.concatenate(self._sketches)
        documents, positions = np.concatenate(self._documents), np.concatenate(self._positions)
        like, similarity = np.full(len(sketches), -1), np.zeros(len(sketches))
        rows = SKETCH // BANDS
        for band in range(BANDS):
            columns = sketches[:, band * rows : (band + 1) * rows].astype(np.uint64)
            earliest = _earliest_with_the_same(columns[:, 0] << np.uint64(32) | columns[:, 1])
            refrain = (documents == documents[earliest]) & (positions - positions[earliest] < REFRAIN)
            at = np.flatnonzero((like < 0) & ~refrain)
            shares = (sketches[at] == sketches[earliest[at]]).mean(axis=1)
            similar = at[shares >= SIMILAR]
            like[similar], similarity[similar] = earliest[similar], shares[shares >= SIMILAR]
        return SimilarPairs(like, similarity, documents, positions)


@dataclass(frozen=True)
class SimilarPairs:
    """For each unit, an earlier one that it is much like (or -1), and where it stands."""

    like: Places
    similarity: npt.NDArray[np.float64]
    documents: Places
    positions: Places

    @property
    def copied_share(self) -> float:
        """Units so much like an earlier one that they are its copies."""
        return float((self.similarity >= COPIED).mean()) if len(self.similarity) else 0.0

    def leaked_share(self, held_out: HeldOut) -> float:
        """Of the held-out units, those that are much like one of the rest."""
        outside = held_out(self.documents, self.positions)
        if not outside.any():
            return 0.0
        later = np.flatnonzero(self.like >= 0)
        apart = outside[later] != outside[self.like[later]]
        leaked = np.where(outside[later], later, self.like[later])[apart]
        return len(set(leaked.tolist())) / int(outside.sum())


def _earliest_with_the_same(keys: Hashes) -> Places:
    """For each key, the index of its first occurrence."""
    order = np.argsort(keys, kind="stable")
    new = np.diff(keys[order], prepend=~keys[order][:1]) != 0
    firsts = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    earliest = np.empty(len(keys), np.int64)
    earliest[order] = firsts
    return earliest
