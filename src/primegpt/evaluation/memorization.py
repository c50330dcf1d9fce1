"""How much of a text was copied from the training text: n-grams of tokens found there, and the longest span.

The n-grams of the text are hashed, and the training stream is read once for each n, hashing every n-gram of it from
running sums: time linear in the stream whatever n is, memory for one piece of it. Whether a span of length L was
copied is such a question with n = L, so the longest is found by doubling and bisection. With 64-bit hashes, a billion
tokens against 100,000 n-grams make a false match with probability 5e-6.

The share means something only beside the same measure on text that was held out: common phrases are no copies.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Ids = npt.ArrayLike

SIZES = (8, 12, 20)
PIECE = 1 << 20  # tokens of the stream in memory at once: some 50 MB with their hashes
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
INVERSE = pow(BASE, -1, 1 << 64)
SIEVE_BITS = 20


class Stream(Protocol):
    """A stream of tokens on disk, as `Shards` is."""

    def __len__(self) -> int: ...
    def slice(self, start: int, stop: int) -> npt.NDArray[np.integer]: ...


@dataclass(frozen=True)
class Copied:
    """What some texts share with a stream."""

    shares: dict[int, float]
    """n → the share of their n-grams of tokens found in it; each counts once a text. 0.0 where no text has n tokens."""
    longest: int
    """Tokens of the longest span found in it."""
    span: tuple[int, ...]
    """The ids of the first such span."""


def copied_from(texts: Sequence[Ids], stream: Stream, sizes: Sequence[int] = SIZES) -> Copied:
    """How much of `texts`, each a row of ids, stands in `stream` word for word."""
    rows = [np.asarray(text, np.int64) for text in texts]
    shares, known = {}, {0: True}
    for n in sizes:
        grams = [np.unique(hashes(row, n)) for row in rows]
        found = _found(np.concatenate([*grams, np.empty(0, np.uint64)]), stream, n)
        shares[n] = float(found.mean()) if len(found) else 0.0
        known[n] = bool(found.any())
    longest = _longest(known, max(map(len, rows), default=0), lambda n: _find_span(rows, stream, n) is not None)
    place = _find_span(rows, stream, longest) if longest else None
    span = tuple(rows[place[0]][place[1] : place[1] + longest].tolist()) if place else ()
    return Copied(shares, longest, span)


def hashes(ids: npt.NDArray[np.integer], n: int) -> Hashes:
    """A 64-bit hash of each n-gram of `ids` (N,), (N - n + 1,); equal n-grams have equal hashes.

    The polynomial of the tokens' own hashes modulo 2^64, from running sums, so that n costs nothing.
    """
    if len(ids) < n:
        return np.empty(0, np.uint64)
    powers = _powers(BASE, len(ids))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_scattered(ids) * powers, dtype=np.uint64)])
    return (sums[n:] - sums[:-n]) * _powers(INVERSE, len(ids) - n + 1)


def _scattered(ids: npt.NDArray[np.integer]) -> Hashes:
    """Each id as 64 bits without pattern (the finaliser of splitmix64)."""
    x = ids.astype(np.uint64) + np.uint64(BASE)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _powers(base: int, count: int) -> Hashes:
    """base^0, base^1, ... modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _found(grams: Hashes, stream: Stream, n: int) -> npt.NDArray[np.bool_]:
    """Which of the n-grams with these hashes stand in the stream."""
    wanted, places = np.unique(grams, return_inverse=True)
    seen = np.zeros(len(wanted), bool)
    if len(wanted):
        # Nearly every n-gram of the stream is unwanted, which one look at a table of leading bits mostly tells.
        shift = np.uint64(64 - SIEVE_BITS)
        sieve = np.zeros(1 << SIEVE_BITS, bool)
        sieve[(wanted >> shift).astype(np.int64)] = True
        for piece in _pieces(stream, n):
            here = hashes(piece, n)
            here = here[sieve[(here >> shift).astype(np.int64)]]
            at = np.minimum(np.searchsorted(wanted, here), len(wanted) - 1)
            seen[at[wanted[at] == here]] = True
    return seen[places]


def _pieces(stream: Stream, n: int) -> Iterator[npt.NDArray[np.integer]]:
    """The stream in pieces that overlap by n - 1 tokens: each n-gram is in exactly one."""
    for start in range(0, len(stream) - n + 1, PIECE):
        yield stream.slice(start, min(start + PIECE + n - 1, len(stream)))


def _find_span(rows: Sequence[npt.NDArray[np.integer]], stream: Stream, n: int) -> tuple[int, int] | None:
    """Text and place of the first span of n tokens that stands in the stream."""
    grams = [hashes(row, n) for row in rows]
    found = _found(np.concatenate(grams), stream, n)
    if not found.any():
        return None
    first, ends = int(found.argmax()), np.cumsum([len(gram) for gram in grams])
    text = int(np.searchsorted(ends, first, side="right"))
    return text, first - int(ends[text] - len(grams[text]))


def _longest(known: dict[int, bool], limit: int, copied: Callable[[int], bool]) -> int:
    """The largest n up to `limit` with `copied(n)`, which is true up to it; `known` holds answers given already."""
    low = max(n for n, answer in known.items() if answer)
    high = min((n for n, answer in known.items() if not answer), default=limit + 1)
    high = min(high, limit + 1)
    while high - low > 1:
        middle = min(2 * low, (low + high) // 2) if low else (low + high) // 2
        low, high = (middle, high) if copied(middle) else (low, middle)
    return low
