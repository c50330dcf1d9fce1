"""Splitting without looking ahead, against tiktoken with the published pattern."""

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from primegpt import tokenizers
from primegpt.errors import DataError
from primegpt.tokenizers.gpt2_split import _KIND, _SPACE, CUT, END, SPLIT, WORDS, apart

PUBLISHED = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Where a run of whitespace begins, ends and has its last character is what matters: little else is drawn.
spaced = st.text(alphabet=" \n\t\r\x0b\x85\xa0\u2003\u2028\u3000\x1c\x1f\u200b\ufeffa9é日😀'!", max_size=40)
spelling = st.sampled_from([END, CUT, f" {END} ", f"  {CUT}a", "<|endoftext|>", "<song>"])


@pytest.fixture(scope="module")
def bpe():
    """With merges of whitespace, or it would not show where a run of it was cut."""
    runs = [first + last for first in "\n \t\u3000" for last in ("\n", "  ", "\n\n\n", " a", "\n\n it's")]
    return tokenizers.train("bpe", 2 * runs, 320, {"control": ["<song>"]})


@pytest.fixture(scope="module")
def published(bpe):
    return tiktoken.Encoding("x", pat_str=PUBLISHED, mergeable_ranks=bpe._ranks, special_tokens={})


def test_the_pattern_is_tiktokens():
    from tiktoken_ext import openai_public

    assert openai_public.r50k_pat_str == SPLIT


@settings(max_examples=400)
@given(texts=st.lists(st.one_of(spaced, st.text(max_size=20)), max_size=6))
def test_texts_in_one_call_have_the_ids_of_each_by_itself(bpe, published, texts):
    assert [ids.tolist() for ids in bpe.encode_arrays(texts)] == [published.encode_ordinary(text) for text in texts]


@settings(max_examples=100)
@given(texts=st.lists(st.one_of(spelling, spaced), min_size=1, max_size=6))
def test_text_that_spells_a_mark_is_ordinary(bpe, published, texts):
    text = "".join(texts) * 40  # enough that putting it apart would be worth while
    assert bpe.encode(text) == published.encode_ordinary(text)
    assert [ids.tolist() for ids in bpe.encode_arrays(texts)] == [published.encode_ordinary(text) for text in texts]


def test_whitespace_is_unicodes():
    """Over every character there is; as the patterns have it, not as Python has it."""
    white_space = regex.compile(r"\p{White_Space}")
    ours = {character for character in range(0x110000) if _KIND[min(character, len(_KIND) - 1)] >= _SPACE}
    assert ours == {character for character in range(0x110000) if white_space.match(chr(character))}


def test_every_whitespace_is_left_to_the_word_behind_it(bpe, published):
    for first in filter(str.isspace, map(chr, range(0x110000))):
        for last in " \n\u3000":
            text = f"a{first}{last}b{last}{first}c{first}{last}"
            assert bpe.encode(text) == published.encode_ordinary(text), ascii(text)


def test_cuts_are_where_looking_ahead_would_matter():
    assert apart(["a \n b\n\n", "  c  ", "d e"]) == f"a \n{CUT} b\n\n{END} {CUT} c  {END}d e"
    assert apart(["no", "cuts here\n"]) == f"no{END}cuts here\n"
    assert apart([]) is None
    assert apart([""]) == ""
    assert apart([f"a{END}", "b"]) is None
    assert apart(["a", f"{CUT}b"]) is None
    assert "(?!" not in WORDS


def test_half_a_character_is_named(bpe):
    with pytest.raises(DataError, match=r"U\+D83D at character 3"):
        bpe.encode_arrays(["fine", "no \ud83d"])
