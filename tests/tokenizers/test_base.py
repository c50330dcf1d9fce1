"""What holds for every kind: exact round trips, no special id from text, ids equal to Hugging Face's."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primegpt import tokenizers
from primegpt.errors import ConfigError, DataError, MismatchError
from primegpt.tokenizers import base, store
from primegpt.tokenizers.bpe import ByteLevelBPE
from primegpt.tokenizers.char import CharTokenizer
from primegpt.tokenizers.sentencepiece import SentencePieceBPE

SPECIALS = ["<PAD>", "<UNK>", "<BOS>", "<EOS>", "<|endoftext|>", "<song>", "</song>", "<prompt>", "[chorus]", "[verse]"]
TRAPS = [
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\0",
    " 's",
    "'re",
    "'LL",
    "e\u0301",
    "👩‍👩‍👧",
    "\u00a0",
    "\u2028",
    "\x1c",
    "ﷺ",
    "Ġ",
    "▁",
    " ▁",
    "▅",
    "<0x41>",
]
WORDS = ["the", " love", "river", "123", "日本語", "привет", "...", "!?", "\ufffd", *TRAPS, *SPECIALS]

# Any Unicode text, often made of what splitters trip over: space runs, contractions, spelt special tokens.
awkward = st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=4))).map("".join))
thorough = settings(max_examples=300)


# ---- encoding and decoding


@thorough
@given(text=awkward)
def test_bpe_gives_back_every_text_exactly(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert bpe.decode_bytes(ids) == text.encode()


@thorough
@given(text=awkward)
def test_char_gives_back_every_text_but_for_unknown_characters(char, text):
    ids = char.encode(text)
    assert len(ids) == len(text)  # one id a character, whatever the character is
    assert char.decode(ids) == "".join(c if c in char.characters else "<UNK>" for c in text)


@thorough
@given(text=awkward)
def test_ids_equal_those_of_the_tokenizers_library(tokenizer_and_theirs, text):
    for ours, theirs in tokenizer_and_theirs:
        assert ours.encode(text) == theirs.encode(text).ids


@thorough
@given(data=st.data())
def test_any_ids_decode_as_the_tokenizers_library_decodes_them(tokenizer_and_theirs, data):
    for ours, theirs in tokenizer_and_theirs:
        ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=20))
        for skip in (False, True):
            shown = ours.decode(ids, skip_special_tokens=skip)
            assert shown == theirs.decode(ids, skip_special_tokens=skip)


@pytest.fixture(scope="session")
def tokenizer_and_theirs(char, bpe, huggingface):
    return [(ours, huggingface(ours)) for ours in (char, bpe)]


@pytest.mark.parametrize("kind", ["bpe", "gpt2", "sentencepiece"])
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(awkward, min_size=50, max_size=50))
def test_ten_thousand_strings_come_back_exactly(request, kind, texts):
    tokenizer = request.getfixturevalue(kind)
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not tokenizer._special_ids.intersection(ids)


@settings(max_examples=60)
@given(texts=st.lists(awkward, max_size=6))
def test_arrays_and_batches_hold_the_ids_of_encode(char, bpe, sentencepiece, texts):
    for tokenizer in (char, bpe, sentencepiece):
        assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
        for text in texts:
            array = tokenizer.encode_array(text)
            assert array.dtype == np.uint16
            assert array.tolist() == tokenizer.encode(text)


def test_a_large_batch_keeps_its_order(tokenizer):
    texts = [f"the {i}. river" for i in range(1000)]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_ids_are_plain_integers(tokenizer):
    assert {type(i) for i in tokenizer.encode("the 12") + tokenizer.encode_batch(["river", "love"])[1]} == {int}


@given(text=st.text())
def test_bytes_of_single_ids_add_up(bpe, text):
    ids = bpe.encode(text)
    assert b"".join(bpe.decode_bytes([i]) for i in ids) == text.encode()


def test_special_ids_decode_by_name_or_not_at_all(tokenizer):
    song = tokenizer.token_id("<song>")
    ids = [song, *tokenizer.encode("the"), tokenizer.token_id("[chorus]"), tokenizer.eot_id]
    assert tokenizer.decode(ids) == "<song>the[chorus]" + tokenizer.eot_token
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the"
    assert tokenizer.decode(np.array(ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer, bad):
    with pytest.raises(MismatchError, match=f"id {bad} is outside this {tokenizer.kind} tokenizer's vocabulary"):
        tokenizer.decode([0, bad, 1])


@pytest.mark.parametrize("half", [0xD83D, 0xDC00])
def test_half_a_character_is_refused_with_its_place(tokenizer, half):
    for encode in (tokenizer.encode, tokenizer.encode_array, lambda text: tokenizer.encode_batch(["", text])):
        with pytest.raises(DataError, match=f"U\\+{half:04X} at character 150000"):
            encode("ab cd " * 25_000 + chr(half) + " x")


def test_pieces_are_readable(char, bpe):
    assert char.piece(char.encode("\n")[0]) == r"\n"
    assert char.piece(char.pad_id) == "<PAD>"
    assert bpe.piece(bpe.encode("é")[0]) == "é"
    assert [bpe.piece(i) for i in bpe.encode("\U0010ffff")] == ["<0xF4>", "<0x8F>", "<0xBF>", "<0xBF>"]
    assert all(bpe.piece(i).isprintable() for i in range(bpe.vocab_size))


# ---- special tokens


def test_special_ids_by_kind(char, bpe, sentencepiece):
    assert (sentencepiece.pad_id, sentencepiece.unk_id, sentencepiece.bos_id, sentencepiece.eot_id) == (0, 1, 2, 3)
    assert (char.pad_id, char.unk_id, char.bos_id, char.eot_id) == (0, 1, 2, 3)
    assert (bpe.pad_id, bpe.unk_id, bpe.bos_id) == (None, None, None)
    assert bpe.eot_id == bpe.token_id("<|endoftext|>") == bpe.vocab_size - 6
    assert char.special_kinds["system"] == ("<PAD>", "<UNK>", "<BOS>", "<EOS>")
    for tokenizer in (char, bpe, sentencepiece):
        assert tokenizer.special_kinds["structure"] == ("[chorus]", "[verse]")
        named = [name for names in tokenizer.special_kinds.values() for name in names]
        assert sorted(named) == sorted(tokenizer.special_tokens)
        assert len(set(tokenizer.special_tokens.values())) == len(named)


def test_an_unknown_name_is_answered_with_what_exists(tokenizer):
    with pytest.raises(ConfigError, match=r"no special token '<sogn>'; did you mean '<song>'"):
        tokenizer.token_id("<sogn>")
    with pytest.raises(ConfigError, match=r"valid names: .*</song>"):
        tokenizer.token_id("qqqqqqqq")


@pytest.mark.parametrize(
    ("special_tokens", "complaint"),
    [
        ({"system": ["<x>"]}, "the tokenizer's own"),
        ({"control": ["<x>", "<x>"]}, "'<x>' .control. is there twice"),
        ({"control": ["<x>"], "genre": ["<x>"]}, "'<x>' .genre. is there twice"),
        ({"control": ["<|endoftext|>", "<EOS>"]}, "is there twice"),
        ({"control": ["x"]}, "cannot name a special token"),
        ({"control": [""]}, "cannot name a special token"),
        ({"control": ["<\ud800>"]}, "cannot name a special token"),
    ],
)
@pytest.mark.parametrize("kind", ["char", "bpe", "sentencepiece"])
def test_names_that_cannot_be_special_tokens(kind, special_tokens, complaint):
    with pytest.raises(ConfigError, match=complaint):
        tokenizers.train(kind, ["some text"], 300, special_tokens)


def test_a_special_token_must_not_be_spelt_like_a_piece(huggingface):
    """tokenizer.json files both under their spelling, so theirs would read the piece as the special token."""
    text = "happy happy happy song song " * 10
    with pytest.raises(ConfigError, match=r"'happy' is also an ordinary piece.*'<happy>'"):
        tokenizers.train("bpe", [text], 300, {"emotion": ["happy"]})
    with pytest.raises(ConfigError, match="'Ġhappy' is also an ordinary piece"):
        tokenizers.train("bpe", [text], 300, {"emotion": ["Ġhappy"]})


def test_an_empty_kind_is_left_out(bpe):
    assert tokenizers.train("char", ["ab"], special_tokens={"genre": []}).special_kinds.keys() == {"system"}


# ---- identity

CHARACTERS, MERGES = "abc", [(b"a", b"b"), (b"ab", b"c")]


def some_tokenizers():
    """Tokenizers no two of which encode (or let a template encode) alike."""
    yield CharTokenizer(CHARACTERS)
    yield CharTokenizer("abd")
    yield CharTokenizer(CHARACTERS, {"control": ["<song>"]})
    yield CharTokenizer(CHARACTERS, {"control": ["<sing>"]})
    yield CharTokenizer(CHARACTERS, {"structure": ["<song>"]})
    yield ByteLevelBPE([])
    yield ByteLevelBPE(MERGES)
    yield ByteLevelBPE([(b"a", b"b"), (b"a", b"c")])
    yield ByteLevelBPE([(b"b", b"c"), (b"a", b"bc")])  # the longest piece is the same, learnt otherwise
    yield ByteLevelBPE([(b"a", b"b"), (b"b", b"c"), (b"ab", b"c")])
    yield ByteLevelBPE([(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")])  # the order alone differs
    yield ByteLevelBPE([(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")])  # the same pieces, the last learnt otherwise
    yield ByteLevelBPE(MERGES, {"control": ["<song>"]})
    yield ByteLevelBPE(MERGES, {"control": ["<song>", "</song>"]})
    yield ByteLevelBPE(MERGES, {"control": ["</song>", "<song>"]})
    yield SentencePieceBPE(["ab", "a", "b", "▁"])
    yield SentencePieceBPE(["a", "b", "▁"])
    yield SentencePieceBPE(["ab", "b", "a", "▁"])
    yield SentencePieceBPE(["ab", "a", "b", "▁"], {"control": ["<song>"]})
    yield SentencePieceBPE(["ab", "a", "b", "▁"], {"structure": ["<song>"]})


def test_fingerprints_tell_apart_all_that_encode_differently():
    prints = [tokenizer.fingerprint for tokenizer in some_tokenizers()]
    assert len(set(prints)) == len(prints)
    assert all(len(bytes.fromhex(each)) == 32 for each in prints)


def test_fingerprints_are_equal_for_equal_tokenizers():
    assert CharTokenizer("abc").fingerprint == CharTokenizer(reversed("aabbcc")).fingerprint
    assert [each.fingerprint for each in some_tokenizers()] == [each.fingerprint for each in some_tokenizers()]


def test_fingerprints_survive_versions_of_primegpt():
    """Shards and checkpoints hold these: a change here makes every one of them unusable."""
    char, bpe = CharTokenizer("ab\n", {"control": ["<song>"]}), ByteLevelBPE(MERGES, {"control": ["<song>"]})
    assert char.fingerprint.startswith("aced5a161b4483b5")
    assert bpe.fingerprint.startswith("46c4a5712da7113e")
    assert SentencePieceBPE(["ab", "a", "b", "▁"], {"control": ["<song>"]}).fingerprint.startswith("8a9326658da68e45")


def test_a_mismatch_names_the_owner_and_both_fingerprints(char, bpe):
    char.check_fingerprint(char.fingerprint, "the run")
    with pytest.raises(MismatchError, match=f"the shards in data belongs to .*{bpe.fingerprint}.*{char.fingerprint}"):
        char.check_fingerprint(bpe.fingerprint, "the shards in data")


# ---- manners


def test_the_package_imports_nothing_heavy():
    code = """
import sys, primegpt.tokenizers as t
assert not {"numpy", "torch", "tokenizers", "tiktoken", "sentencepiece"} & set(sys.modules), "import"
t.load
import primegpt.tokenizers.char, primegpt.tokenizers.gpt2, primegpt.tokenizers.sentencepiece
assert not {"torch", "tokenizers", "tiktoken", "sentencepiece"} & set(sys.modules), "load"
assert set(dir(t)) == {"Tokenizer", "load", "save", "train"}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        tokenizers.frobnicate  # noqa: B018


def test_threads_keep_order_and_pass_errors_on(monkeypatch):
    for cores in (1, 3):
        monkeypatch.setattr(base, "available_cores", lambda cores=cores: cores)
        for count in (0, 1, 2, 7, 100):
            assert base.in_threads(lambda x: x * x, list(range(count))) == [x * x for x in range(count)]
        with pytest.raises(ZeroDivisionError):
            base.in_threads(lambda x: 1 / x, [1, 0])


def test_threads_do_not_start_threads_of_their_own(monkeypatch):
    """Encoding many long texts would otherwise run the square of the number of cores."""
    monkeypatch.setattr(base, "available_cores", lambda: 4)
    workers = base.in_threads(lambda _: base.in_threads(lambda _: threading.get_ident(), range(8)), range(8))
    assert all(len(set(each)) == 1 for each in workers)
    assert len({each[0] for each in workers}) <= 4


@pytest.mark.parametrize(
    "texts", [["one two", "three", "", " four"], ["<|endoftext|>", "a<|endoftext|>b", "c"], [""], ["x"]]
)
def test_several_texts_at_once_have_the_ids_of_each(texts):
    for kind in ("bpe", "char", "sentencepiece"):
        tokenizer = store.train(kind, ["one two three four <|endoftext|> abcx"], 400 if kind != "char" else None)
        arrays = tokenizer.encode_arrays(texts)
        assert [array.tolist() for array in arrays] == [tokenizer.encode(text) for text in texts]
        assert all(array.dtype == tokenizer.id_dtype for array in arrays)
        assert not any(tokenizer.eot_id in array for array in arrays)
