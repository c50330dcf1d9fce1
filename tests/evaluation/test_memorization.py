"""Copied n-grams and spans, against a plain search."""

import numpy as np
import pytest

from primegpt.evaluation import memorization
from primegpt.evaluation.memorization import copied_from, hashes


class Tokens:
    """A stream in memory that notes what was read of it."""

    def __init__(self, ids):
        self.ids, self.largest = np.asarray(ids, np.uint16), 0

    def __len__(self):
        return len(self.ids)

    def slice(self, start, stop):
        self.largest = max(self.largest, stop - start)
        return self.ids[start:stop]


def plain(texts, stream, n):
    """The share of n-grams by sets, each once a text."""
    there = {tuple(stream[i : i + n]) for i in range(len(stream) - n + 1)}
    grams = [{tuple(text[i : i + n]) for i in range(len(text) - n + 1)} for text in texts]
    total = sum(map(len, grams))
    return sum(len(each & there) for each in grams) / total if total else 0.0


def plain_longest(texts, stream):
    n = 0
    while plain(texts, stream, n + 1):
        n += 1
    return n


@pytest.mark.parametrize("seed", range(8))
def test_as_a_plain_search_finds(seed, monkeypatch):
    """Few different ids, so that much is copied by chance, some of it planted; pieces cut n-grams everywhere."""
    monkeypatch.setattr(memorization, "PIECE", 37)
    random = np.random.default_rng(seed)
    stream = random.integers(0, 3 + seed, 600)
    texts = [random.integers(0, 3 + seed, size).tolist() for size in (0, 1, 7, 30, 90)]
    planted = stream[200 : 200 + 11 * seed].tolist()
    texts.append([1, *planted, 2])
    stream_list = stream.tolist()
    copied = copied_from(texts, Tokens(stream), sizes=(1, 2, 5, 8, 20))
    assert copied.shares == pytest.approx({n: plain(texts, stream_list, n) for n in (1, 2, 5, 8, 20)})
    assert copied.longest == plain_longest(texts, stream_list) == len(copied.span)
    n = copied.longest
    assert copied.span in {tuple(stream_list[i : i + n]) for i in range(len(stream) - n + 1)}


def test_a_text_from_the_stream_is_copied_whole():
    stream = np.random.default_rng(0).integers(0, 5000, 3000)
    copied = copied_from([stream[1000:1500]], Tokens(stream))
    assert copied.shares == {8: 1.0, 12: 1.0, 20: 1.0}
    assert copied.longest == 500
    assert copied.span == tuple(stream[1000:1500].tolist())


@pytest.mark.parametrize("texts", [[], [[]], [[7] * 10]])
def test_nothing_to_find(texts):
    copied = copied_from(texts, Tokens([1, 2, 3] * 100))
    assert (copied.shares, copied.longest, copied.span) == ({8: 0.0, 12: 0.0, 20: 0.0}, 0, ())


def test_a_stream_shorter_than_an_n_gram():
    assert copied_from([[1, 2, 3] * 10], Tokens([1, 2, 3])).longest == 3


def test_an_n_gram_hashes_alike_wherever_it_stands():
    ids = np.array([5, 1, 2, 3, 9, 1, 2, 3, 65535, 0])
    each = hashes(ids, 3)
    assert each[1] == each[5]
    assert len(set(each.tolist())) == len(each) - 1
    assert hashes(np.array([1, 2, 3]), 3)[0] == each[1]
    assert hashes(np.array([1, 2, 3]), 3)[0] != hashes(np.array([3, 2, 1]), 3)[0]


def test_memory_is_bounded_by_a_piece(monkeypatch):
    monkeypatch.setattr(memorization, "PIECE", 1000)
    stream = Tokens(np.arange(20_000) % 7919)
    copied_from([np.arange(40)], stream)
    assert stream.largest <= 1000 + 40
