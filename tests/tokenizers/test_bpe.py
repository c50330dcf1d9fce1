"""Byte-level BPE against the definition, the two libraries, GPT-2's files, and text made to break it."""

import os
import re
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from primegpt import tokenizers
from primegpt.errors import ConfigError, DataError
from primegpt.tokenizers import bpe as bpe_module
from primegpt.tokenizers.base import sections
from primegpt.tokenizers.bpe import ByteLevelBPE, learn_merges, to_bytes
from primegpt.tokenizers.gpt2_split import SURE_SPLIT

# As published with GPT-2.
GPT2_SPLIT = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
MILLION = 10**6

wordy = st.lists(
    st.sampled_from(["lo", "ve", "ver", "the", " ", "  ", "\n", "song", "é", "日本", "'s", "12", "!", "\t", "😀"])
).map("".join)


def bpe_by_definition(merges, text: str) -> list[int]:
    """Merge, everywhere and from the left, the pair that was learnt first; repeat (Sennrich et al. 2016)."""
    rank = {pair: i for i, pair in enumerate(merges)}
    ids = {piece: i for i, piece in enumerate([to_bytes(c) for c in bpe_module.LETTERS.values()])}
    ids |= {left + right: 256 + i for i, (left, right) in enumerate(merges)}
    found = []
    for part in GPT2_SPLIT.findall(text):
        symbols = [bytes([b]) for b in part.encode()]
        while pairs := [pair for pair in pairwise(symbols) if pair in rank]:
            first, i = min(pairs, key=rank.__getitem__), 0
            while i < len(symbols) - 1:
                if (symbols[i], symbols[i + 1]) == first:
                    symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
                i += 1
        found += [ids[symbol] for symbol in symbols]
    return found


@settings(max_examples=200)
@given(text=st.one_of(wordy, st.text()))
def test_ids_are_those_of_the_definition(bpe, text):
    assert bpe.encode(text) == bpe_by_definition(bpe.merges, text)


@settings(max_examples=100)
@given(corpus=st.lists(st.text(alphabet="ab ", min_size=1), min_size=1, max_size=4), text=st.text(alphabet="ab "))
def test_merges_that_overlap_themselves_agree_too(corpus, text):
    """A tiny alphabet makes "aaaa" and "abab", where the order of merging matters most."""
    tokenizer = tokenizers.train("bpe", corpus, 290)
    assert tokenizer.encode(text) == bpe_by_definition(tokenizer.merges, text)


def test_ids_are_those_of_tiktoken_built_from_our_ranks(bpe, corpus):
    import tiktoken

    ranks = {to_bytes(letters): id for letters, id in bpe._model()["vocab"].items()}
    theirs = tiktoken.Encoding("x", pat_str=GPT2_SPLIT.pattern, mergeable_ranks=ranks, special_tokens={})
    assert bpe.encode(corpus) == theirs.encode_ordinary(corpus)
    assert bpe.encoding.n_vocab == bpe.vocab_size
    assert bpe.encoding.eot_token == bpe.eot_id


def test_gpt2s_own_files_give_gpt2s_own_ids(shared_data):
    """Byte order, id order and split are GPT-2's: its published vocabulary follows from its merges alone."""
    import json

    lines = (shared_data / "gpt2" / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    published = json.loads((shared_data / "gpt2" / "encoder.json").read_text(encoding="utf-8"))
    tokenizer = ByteLevelBPE([(to_bytes(a), to_bytes(b)) for a, b in (line.split() for line in lines)])
    assert tokenizer._model()["vocab"] | tokenizer.special_tokens == published
    assert tokenizer.encode("hello world") == [31373, 995]  # from tiktoken's documentation
    assert tokenizer.eot_id == 50256


# ---- training


def test_training_compresses_and_reports_its_true_size(bpe, corpus):
    assert bpe.vocab_size == 600
    assert bpe.vocab_size == 256 + len(bpe.merges) + len(bpe.special_tokens)
    assert len(bpe.encode(corpus)) < 0.5 * len(corpus.encode())
    small = tokenizers.train("bpe", ["abab abab"], 1000)
    assert small.merges == [(b"a", b"b"), (b"ab", b"ab")]  # " abab" is there once: not worth an id
    assert small.vocab_size == 256 + 2 + 1
    assert small.decode(small.encode("abab")) == "abab"


def test_training_equals_the_tokenizers_library_on_the_whole_text(corpus, monkeypatch):
    """Feeding the learner in sections changes no merge."""
    monkeypatch.setattr(bpe_module, "LEARNER_SECTION", 10**9)
    whole = learn_merges([corpus], 400)
    monkeypatch.setattr(bpe_module, "LEARNER_SECTION", 200)
    assert learn_merges([corpus], 400) == whole


@pytest.mark.parametrize("vocab_size", [None, 0, 256, 257])
def test_a_vocabulary_without_room_for_the_bytes_is_refused(vocab_size):
    with pytest.raises(ConfigError, match=f"tokenizer.vocab_size = {vocab_size} is too small.*at least 258"):
        tokenizers.train("bpe", ["text"], vocab_size, {"control": ["<song>"]})


def test_the_smallest_vocabulary_is_bytes():
    tokenizer = tokenizers.train("bpe", ["text"], 257)
    assert tokenizer.vocab_size == 257
    assert tokenizer.decode(tokenizer.encode("\0é日😀")) == "\0é日😀"


@pytest.mark.parametrize("texts", [[], [""], "", ["fine", "a\ud83d"]])
def test_training_refuses_no_text_and_what_is_not_text(texts):
    with pytest.raises(DataError):
        tokenizers.train("bpe", texts, 300)


def test_a_string_is_one_text(corpus):
    assert tokenizers.train("bpe", corpus, 400).fingerprint == tokenizers.train("bpe", [corpus], 400).fingerprint


TRAIN = """
import random, sys
from primegpt import tokenizers
rng = random.Random(1)
words = ["".join(rng.choices("abcdefé日", k=rng.randint(1, 6))) for _ in range(3000)]
texts = [" ".join(rng.choices(words, k=50)) for _ in range(400)]
print(tokenizers.train("bpe", texts, 2000).fingerprint)
"""


def test_the_same_text_gives_the_same_tokenizer_on_any_number_of_threads():
    prints = set()
    for setting in ({"RAYON_NUM_THREADS": "1"}, {"RAYON_NUM_THREADS": "4"}, {"TOKENIZERS_PARALLELISM": "false"}):
        run = subprocess.run(
            [sys.executable, "-c", TRAIN], env=os.environ | setting, check=True, capture_output=True, text=True
        )
        prints.add(run.stdout)
    assert len(prints) == 1


def test_merges_out_of_order_are_refused():
    for merges in ([(b"ab", b"c")], [(b"a", b"b"), (b"a", b"b")], [(b"a", b"b"), (b"b", b"")]):
        with pytest.raises(ValueError, match="out of order"):
            ByteLevelBPE(merges)


# ---- long text


def test_a_cut_is_a_split_for_every_letter_and_digit_there_is():
    """If tiktoken ever took the character and what follows as one piece, it would find that piece among the ranks."""
    import tiktoken

    before = [c for c in map(chr, range(0x110000)) if re.match(r"[^\W_]", c)]
    for after in "! ":
        ranks = {bytes([b]): b for b in range(256)}
        ranks |= {(c + after).encode(): 256 + i for i, c in enumerate(before)}
        judge = tiktoken.Encoding("x", pat_str=GPT2_SPLIT.pattern, mergeable_ranks=ranks, special_tokens={})
        assert max(judge.encode_ordinary("".join(c + after for c in before))) < 256


@settings(max_examples=200)
@given(
    parts=st.lists(st.text(max_size=6), min_size=1), joints=st.lists(st.sampled_from(["a ", "9.", "é'", "t'", "日。"]))
)
def test_cutting_at_a_sure_split_never_changes_ids(bpe, parts, joints):
    text = "".join(part + joint for part, joint in zip(parts, [*joints, *["s "] * len(parts)], strict=False))
    for found in SURE_SPLIT.finditer(text):
        left, right = text[: found.end()], text[found.end() :]
        assert bpe_by_definition(bpe.merges, left) + bpe_by_definition(bpe.merges, right) == bpe.encode(text)


@settings(max_examples=100)
@given(text=wordy)
def test_sections_are_the_text_in_bounded_parts(text):
    parts = sections(text, SURE_SPLIT, 8)
    assert "".join(parts) == text
    assert all(0 < len(part) <= 8 for part in parts) or text == ""


def test_long_text_has_the_ids_of_the_library(bpe, corpus, huggingface):
    long = corpus * 12
    assert len(sections(long, SURE_SPLIT)) > 4
    expected = huggingface(bpe).encode(long).ids
    assert bpe.encode(long) == expected
    assert bpe.encode_array(long).tolist() == expected
    assert bpe.encode_batch([long, "the"]) == [expected, bpe.encode("the")]


def test_the_real_text_has_the_ids_of_the_library(bpe, shared_data, huggingface):
    shakespeare = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")[:300_000]
    assert bpe.encode_array(shakespeare).tolist() == huggingface(bpe).encode(shakespeare).ids


@pytest.mark.parametrize(
    "text",
    ["a" * MILLION, " " * MILLION, " " * MILLION + "x", "\n" * MILLION, "😀" * MILLION, "!" * MILLION, "日" * MILLION],
    ids=["letters", "spaces", "spaces then a letter", "newlines", "emoji", "punctuation", "ideographs"],
)
def test_a_million_of_one_character_is_encoded_quickly_and_exactly(bpe, text):
    """Unprotected, the splitter's stack overflows on the spaces with an error that no `except Exception` catches."""
    start = time.process_time()
    ids = bpe.encode(text)
    assert time.process_time() - start < 2
    assert bpe.decode(ids) == text


def test_training_survives_a_million_of_one_character():
    start = time.process_time()
    tokenizer = tokenizers.train("bpe", ["a" * MILLION, " " * MILLION, "the cat sat on the mat"], 300)
    assert time.process_time() - start < 5
    assert tokenizer.decode(tokenizer.encode("aaa   the")) == "aaa   the"
