"""The character tokenizer against the dictionary that it replaces."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt import tokenizers
from primegpt.errors import ConfigError, DataError
from primegpt.tokenizers.char import CharTokenizer

EVERY_KIND_OF_CHARACTER = "\0\t\n\r\x1c aZ~\x7f\x85\xa0ée\u0301ßﷺ日\ufeff\ufffd\uffff\U00010000😀\U0010ffff"


def dictionary_encode(characters: str, text: str) -> list[int]:
    """The obvious way: <PAD> <UNK> <BOS> <EOS>, then the characters in order."""
    ids = {c: 4 + i for i, c in enumerate(sorted(set(characters)))}
    return [ids.get(c, 1) for c in text]


@given(characters=st.text(), text=st.text())
def test_ids_are_those_of_a_dictionary(characters, text):
    tokenizer = CharTokenizer(characters)
    assert tokenizer.encode(text + characters) == dictionary_encode(characters, text + characters)


@given(texts=st.lists(st.text(), min_size=1).filter(any))
def test_training_finds_every_character_and_round_trips(texts):
    tokenizer = tokenizers.train("char", iter(texts))
    assert tokenizer.characters == "".join(sorted(set("".join(texts))))
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


def test_every_kind_of_character_has_an_id_here_and_at_hugging_face(huggingface):
    tokenizer = CharTokenizer(EVERY_KIND_OF_CHARACTER)
    text = "".join(random.Random(0).choices(EVERY_KIND_OF_CHARACTER, k=5000))
    ids = tokenizer.encode(text)
    assert tokenizer.unk_id not in ids
    assert tokenizer.decode(ids) == text
    assert huggingface(tokenizer).encode(text).ids == ids


@given(characters=st.text(max_size=5), text=st.text(alphabet="abcdeé日😀\n"))
def test_unknown_characters_are_counted_and_named(characters, text):
    tokenizer = CharTokenizer(characters)
    expected = Counter(c for c in text if c not in characters)
    unknown = tokenizer.count_unknown(text)
    assert unknown == expected
    assert sum(unknown.values()) == tokenizer.encode(text).count(tokenizer.unk_id)
    assert list(unknown.values()) == sorted(unknown.values(), reverse=True)


def test_unknown_characters_are_counted_across_sections():
    text = "ab" * 120_000 + "é"
    assert CharTokenizer("a").count_unknown(text) == {"b": 120_000, "é": 1}
    assert CharTokenizer("a").encode(text) == [4, 1] * 120_000 + [1]


def test_a_smaller_vocabulary_keeps_the_most_frequent_characters():
    text = "a" * 5 + "é" * 4 + "b" * 3 + "z" * 3 + "😀"
    assert tokenizers.train("char", [text[:7], text[7:]], 4 + 3).characters == "abé"  # b before z: lower code point
    assert tokenizers.train("char", [text], 100).characters == "abzé😀"
    assert tokenizers.train("char", [text], 4 + 2, {"control": ["<song>"]}).vocab_size == 6
    with pytest.raises(
        ConfigError, match=r"tokenizer.vocab_size = 5 leaves no room beside 5 special tokens.*at least 6"
    ):
        tokenizers.train("char", [text], 5, {"control": ["<song>"]})


def test_own_special_tokens_come_after_the_characters():
    tokenizer = CharTokenizer("ab", {"control": ["<song>"]})
    assert tokenizer.token_id("<song>") == 6
    assert tokenizer.encode("ab<") == [4, 5, 1]


def test_no_text_is_an_error():
    for texts in ([], ["", ""]):
        with pytest.raises(DataError, match="no text"):
            tokenizers.train("char", texts)


def test_half_a_character_in_the_training_text_is_refused():
    with pytest.raises(DataError, match=r"U\+D83D at character 1"):
        tokenizers.train("char", ["fine", "a\ud83d"])


def test_more_than_65_535_ids_need_a_wider_type():
    tokenizer = CharTokenizer(map(chr, range(0x10000, 0x10000 + 70_000)))
    text = chr(0x10000 + 69_999) + chr(0x10000)
    assert tokenizer.encode(text) == [70_003, 4]
    assert tokenizer.encode_array(text).dtype.itemsize == 4
