"""SentencePiece BPE against the library: its ids, its training, its reading of our file; and what it cannot do."""

import random
import struct
import time

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from primegpt import tokenizers
from primegpt.errors import ConfigError, DataError, TokenizerError
from primegpt.tokenizers import sentencepiece as our_module
from primegpt.tokenizers import store
from primegpt.tokenizers.sentencepiece import SPACE, SentencePieceBPE, count_words
from primegpt.tokenizers.sentencepiece_model import read_names, write_model

MILLION = 10**6
wordy = st.lists(
    st.sampled_from(
        ["lo", "ve", "ver", "the", " ", "  ", "\n", "song", "é", "日本", "'s", "12", "!", "\t", "\0", "😀", "▅"]
    )
).map("".join)


@pytest.fixture(scope="module")
def library(sentencepiece, tmp_path_factory):
    """The library, with the file that we save."""
    folder = tmp_path_factory.mktemp("saved")
    store.save(sentencepiece, folder)
    return read_by_library(folder)


def read_by_library(folder):
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def library_training(texts, **options) -> list[str]:
    """The pieces that the library learns from whole lines."""
    import io

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.split("\n")),
        model_writer=model,
        model_type="bpe",
        character_coverage=0.9995,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
        **options,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ordinary = [id for id in range(theirs.vocab_size()) if not (theirs.is_byte(id) or theirs.is_control(id))]
    return [theirs.id_to_piece(id) for id in ordinary if not theirs.is_unknown(id)]


# ---- encoding


@settings(max_examples=300)
@given(text=st.one_of(wordy, st.text()).filter(lambda text: SPACE not in text))
def test_ids_are_the_librarys_and_it_reads_them_back(request, text):
    ours, library = request.getfixturevalue("sentencepiece"), request.getfixturevalue("library")
    ids = ours.encode(text)
    assert ids == library.encode(text)
    assert library.decode(ids) == text


def test_the_real_text_has_the_ids_of_the_library(shared_data, tmp_path):
    shakespeare = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    tokenizer = tokenizers.train("sentencepiece", shakespeare, 8000, {"control": ["<song>"]})
    assert tokenizer.vocab_size == 8000
    store.save(tokenizer, tmp_path)
    assert tokenizer.encode_array(shakespeare).tolist() == read_by_library(tmp_path).encode(shakespeare)


def test_the_library_sees_the_vocabulary_that_we_mean(sentencepiece, library):
    assert (library.pad_id(), library.unk_id(), library.bos_id(), library.eos_id()) == (0, 1, 2, 3)
    assert library.vocab_size() == sentencepiece.vocab_size
    for name, id in sentencepiece.special_tokens.items():
        assert library.piece_to_id(name) == id
        assert library.is_unknown(id) if name == "<UNK>" else library.is_control(id)
    first_byte = len(sentencepiece.special_tokens)
    for byte in range(256):
        assert library.is_byte(first_byte + byte)
        assert sentencepiece.decode_bytes([first_byte + byte]) == bytes([byte])
    pieces = range(first_byte + 256, library.vocab_size())
    assert [library.id_to_piece(id) for id in pieces] == sentencepiece.pieces
    assert [library.get_score(id) for id in pieces] == [-float(rank) for rank in range(len(pieces))]


def test_the_space_sign_of_a_text_is_no_space(sentencepiece):
    first_byte = len(sentencepiece.special_tokens)
    sign = [first_byte + byte for byte in SPACE.encode()]
    assert sentencepiece.encode(SPACE) == sign
    assert sentencepiece.encode(f"the{SPACE} the") == [
        *sentencepiece.encode("the"),
        *sign,
        *sentencepiece.encode(" the"),
    ]
    assert sentencepiece.encode(" ") != sign


def test_a_newline_is_one_byte_and_one_id(sentencepiece):
    assert [sentencepiece.piece(id) for id in sentencepiece.encode("\n\n\t")] == [r"\n", r"\n", r"\t"]


def test_a_text_without_any_space_learns_a_piece_for_it_all_the_same():
    tokenizer = tokenizers.train("sentencepiece", "日本語日本語", 300)
    assert SPACE in tokenizer.pieces
    assert tokenizer.decode(tokenizer.encode(f" 日{SPACE} 本")) == f" 日{SPACE} 本"


def test_forgetting_words_changes_nothing(sentencepiece, corpus, monkeypatch):
    monkeypatch.setattr(our_module, "MAX_CACHED_WORDS", 3)
    fresh = SentencePieceBPE(sentencepiece.pieces, dict(list(sentencepiece.special_kinds.items())[1:]))
    assert fresh.encode(corpus + SPACE) == sentencepiece.encode(corpus + SPACE)
    assert len(fresh._words) <= 3


@pytest.mark.parametrize("text", ["a" * MILLION, " " * MILLION, "\n" * MILLION, "😀" * MILLION, SPACE * MILLION])
def test_a_million_of_one_character_is_encoded_quickly_and_exactly(sentencepiece, text):
    start = time.process_time()
    ids = sentencepiece.encode(text)
    assert time.process_time() - start < 5
    assert sentencepiece.decode(ids) == text


# ---- training


def test_training_on_counted_words_equals_the_librarys_on_lines(corpus, shared_data):
    shakespeare = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")[:200_000]
    for text in (corpus.replace("\t", " "), shakespeare):
        tokenizer = SentencePieceBPE.train([text], 700)
        assert tokenizer.pieces == library_training([text], vocab_size=700 - 4 + 3)  # theirs: <unk> <s> </s>


def test_where_the_text_is_cut_determines_nothing(corpus):
    long = (corpus + "\n") * 10
    lines = long.splitlines(keepends=True)
    whole, pieces = (tokenizers.train("sentencepiece", texts, 600) for texts in ([long], iter(lines)))
    assert len(whole._sections(long)) > 2
    assert whole.fingerprint == pieces.fingerprint


def test_training_is_silent(corpus, capfd):
    tokenizers.train("sentencepiece", [corpus, "\0\x01▅\t▁" * 10], 600)
    assert capfd.readouterr() == ("", "")


def test_a_text_that_gives_no_more_pieces_gives_a_smaller_vocabulary():
    tokenizer = tokenizers.train("sentencepiece", "abab abab", 8000)
    assert tokenizer.vocab_size < 300
    assert {"ab", "abab"} < set(tokenizer.pieces)
    assert len(tokenizer.encode("abab abab")) == 2


def test_text_without_spaces_is_learnt_from_however_long_it_is():
    """The library leaves out sentences of more than 4,192 bytes."""
    tokenizer = tokenizers.train("sentencepiece", "日本語を話す" * 5000, 300)
    assert any(len(piece) == 6 for piece in tokenizer.pieces)


def test_rare_characters_go_through_their_bytes():
    text = "the cat sat on the mat\n" * 1000 + "日"
    tokenizer = tokenizers.train("sentencepiece", text, 300)
    assert "日" not in tokenizer.pieces
    assert len(tokenizer.encode("日")) == 3
    assert tokenizer.decode(tokenizer.encode("日")) == "日"


@pytest.mark.parametrize("vocab_size", [None, 0, 261])
def test_a_vocabulary_without_room_is_refused(vocab_size):
    with pytest.raises(ConfigError, match=f"tokenizer.vocab_size = {vocab_size} is too small.*more than 261"):
        SentencePieceBPE.train(["text"], vocab_size, {"control": ["<song>"]})


def test_a_vocabulary_without_room_for_the_characters_is_refused_with_the_least():
    with pytest.raises(
        ConfigError, match=r"tokenizer.vocab_size = 270 has no room for the characters.*at least \d\d\d, or"
    ):
        tokenizers.train("sentencepiece", ["abcdefghijklmnopqrstuvwxyz"], 270)
    assert tokenizers.train("sentencepiece", ["abcdefghijklmnopqrstuvwxyz"], 287).vocab_size == 287


@pytest.mark.parametrize("text", ["\n \n", "\0", SPACE, "\t\t", "▅", "\ufeff", "\ufffe"])
def test_text_that_teaches_nothing_still_gives_a_tokenizer(text):
    tokenizer = tokenizers.train("sentencepiece", [text], 8000)
    assert tokenizer.decode(tokenizer.encode(text + " the\n")) == text + " the\n"


def test_every_character_there_is_can_be_learnt_from():
    every = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    sample = random.Random(0).sample(every, 4000) + every[:1000]
    text = " ".join("".join(sample[i : i + 9]) for i in range(0, len(sample), 9))
    tokenizer = tokenizers.train("sentencepiece", [text], 8000)
    assert tokenizer.decode(tokenizer.encode("".join(every))) == "".join(every)
    assert set(every[0x21:0x7F]) <= set(tokenizer.pieces)


def test_no_text_and_what_is_not_text_are_refused():
    for texts in ([], [""], "", ["fine", "a\ud83d"]):
        with pytest.raises(DataError):
            tokenizers.train("sentencepiece", texts, 300)


def test_memory_for_words_is_bounded_and_keeps_the_frequent_ones(monkeypatch):
    monkeypatch.setattr(our_module, "MAX_LEARNER_WORDS", 100)
    texts = [f"the river {number} " * 2 for number in range(1000)]
    counts = count_words(texts)
    assert len(counts) <= 102
    assert counts[" river"] == 2000


# ---- files


def test_special_names_may_hold_anything():
    names = ["<a b>", "x,y", "▁▁▁", "日\n", "<0x4>", "</s>", "<unk>"]
    tokenizer = SentencePieceBPE(["ab", "a", "b", SPACE], {"control": names})
    assert [tokenizer.processor.id_to_piece(4 + i) for i in range(len(names))] == names
    text = "".join(names)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not tokenizer._special_ids.intersection(tokenizer.encode(text))


@pytest.mark.parametrize("name", ["<0x41>", "happy"])
def test_a_special_name_must_not_be_a_piece(name):
    with pytest.raises(ConfigError, match=f"'{name}' is also an ordinary piece"):
        tokenizers.train("sentencepiece", "happy happy", 300, {"emotion": [name]})


@pytest.mark.parametrize(
    "pieces", [["a", "a", SPACE], ["a"], ["", SPACE], ["a\n", SPACE], ["a b", SPACE], [f"a{SPACE}", SPACE]]
)
def test_pieces_that_no_training_gives_are_refused(pieces):
    with pytest.raises(ValueError, match="piece"):
        SentencePieceBPE(pieces)


def test_the_file_says_what_protocol_buffers_say():
    """One entry by hand: field 1 is an entry of name, score and type; a long name has two bytes of size."""
    name = "<" + 150 * "x" + ">"
    content = write_model(["<PAD>", "<UNK>", "<BOS>", "<EOS>"], [name], [SPACE])
    size = 2 + 1 + 152 + 5 + 2
    entry = b"\x0a" + bytes([size & 0x7F | 0x80, size >> 7]) + b"\x0a\x98\x01" + name.encode()
    assert entry + b"\x15" + struct.pack("<f", 0.0) + b"\x18\x03" in content
    assert read_names(content)[4:6] == [name, "<0x00>"]


def hostile_models(tokenizer):
    whole = tokenizer._files()["tokenizer.model"]
    rng = random.Random(0)
    yield from (whole[: rng.randrange(len(whole))] for _ in range(40))
    yield from (rng.randbytes(200) for _ in range(40))
    yield whole + whole
    yield whole + b"\x1a\x0a\x12\x08\xff\xff\xff\xff\xff\xff\xff\xff"  # a character map of someone else's making
    yield whole + b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"  # a field of 2**63 bytes
    yield b"\x0a\x00" * 100
    yield b"\xff" * 100
    yield b""


def test_hostile_models_are_refused_before_the_library_sees_them(sentencepiece, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the library was given a hostile file")

    store.save(sentencepiece, tmp_path)
    monkeypatch.setattr("sentencepiece.SentencePieceProcessor", never)
    for content in hostile_models(sentencepiece):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(TokenizerError, match="damaged") as caught:
            tokenizers.load(tmp_path).encode("a")
        assert "\n" not in str(caught.value)
