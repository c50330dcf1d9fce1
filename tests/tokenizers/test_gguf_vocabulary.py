"""Vocabularies in GGUF files, written by the `gguf` library: read as what they were made of, or refused in one line."""

import json
import random
import struct
from contextlib import suppress

import pytest
from gguf import GGUFWriter, TokenType

from primegpt import tokenizers
from primegpt.errors import TokenizerError, UsageError
from primegpt.tokenizers.gguf_metadata import GGUFHeader
from primegpt.tokenizers.gguf_vocabulary import files_from
from tokenizers import Tokenizer


def write(path, model, **values):
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    for name, value in values.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def byte_level(foreign_files, corpus):
    """The keys of a byte-level vocabulary, and the library's reading of the tokenizer that it was made of."""
    files = foreign_files(corpus)
    document = json.loads(files["tokenizer.json"])
    ids = {**document["model"]["vocab"], **{t["content"]: t["id"] for t in document["added_tokens"]}}
    names = {token["content"] for token in document["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    theirs = Tokenizer.from_str(files["tokenizer.json"].decode())
    theirs.encode_special_tokens = True
    kinds = [TokenType.CONTROL if token in names else TokenType.NORMAL for token in tokens]
    return theirs, {
        "tokenizer_pre": "llama-bpe",
        "token_list": [*tokens, "[PAD604]"],
        "token_types": [*kinds, TokenType.USER_DEFINED],
        "token_merges": [" ".join(pair) for pair in document["model"]["merges"]],
        "eos_token_id": 1,
        "bos_token_id": 0,
        "add_bos_token": True,
        "chat_template": "{{ messages }}",
    }


def test_byte_level_pairs(byte_level, corpus, tmp_path):
    theirs, values = byte_level
    loaded = tokenizers.load(write(tmp_path / "a.gguf", "gpt2", **values))
    for text in (corpus, "the <|im_end|> 12345 [PAD604]", ""):
        assert loaded.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    assert loaded.vocab_size == len(values["token_list"])
    assert (loaded.eot_token, loaded.adds_bos) == ("<|end_of_text|>", True)
    assert loaded.chat_template == "{{ messages }}"


def sentencepiece_values():
    letters = ["▁", "t", "h", "e", "▁t", "he", "▁the"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256, *[TokenType.NORMAL] * 7]
    scores = [0.0] * 259 + [-float(rank) for rank in (6, 5, 4, 3, 0, 1, 2)]
    ids = {"eos_token_id": 2, "bos_token_id": 1, "unk_token_id": 0}
    return {"tokenizer_pre": "default", "token_list": pieces, "token_scores": scores, "token_types": kinds, **ids}


@pytest.mark.parametrize("prefix", [True, False])
def test_llamas_sentencepiece(prefix, tmp_path):
    values = sentencepiece_values()
    loaded = tokenizers.load(write(tmp_path / "a.gguf", "llama", **values, add_space_prefix=prefix))
    space, the, e = values["token_list"].index("▁"), values["token_list"].index("▁the"), 262
    assert loaded.encode("the the") == ([the, the] if prefix else [260, 264, the])
    assert loaded.encode("</s>") == [*([space] if prefix else []), *(3 + byte for byte in b"</s>")]
    assert loaded.encode("éee") == [*([space] if prefix else []), 3 + 0xC3, 3 + 0xA9, e, e]
    assert loaded.decode(loaded.encode("the\nthe")) == "the\nthe"


@pytest.mark.parametrize(
    ("model", "values", "reason"),
    [
        ("bert", {"token_list": ["a"]}, "tokenizer.ggml.model is 'bert'"),
        ("gpt2", {}, "has no vocabulary"),
        ("gpt2", {"token_list": ["a"], "token_types": [1, 1]}, "1 tokens and 2 types"),
        ("gpt2", {"token_list": ["a"]}, "does not say how text is split"),
        ("gpt2", {"token_list": ["a"], "tokenizer_pre": "qwen3"}, "'qwen3' .*did you mean 'qwen"),
        ("gpt2", {"token_list": ["a", "a"], "tokenizer_pre": "gpt-2"}, "there twice"),
        ("gpt2", {"token_list": ["a"], "tokenizer_pre": "gpt-2", "token_merges": ["aa"]}, "not a merge"),
        ("gpt2", {"token_list": ["a"], "tokenizer_pre": "gpt-2", "eos_token_id": 7}, "eos_token has the id 7"),
        ("llama", {"token_list": ["a", "b"], "token_scores": [0.0, float("nan")]}, "is no number"),
        ("llama", {"token_list": ["a", "b"], "token_scores": [0.0]}, "not as many"),
        ("llama", {"token_list": ["a"], "token_scores": [0.0], "token_types": [2]}, "which token ends a text"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(model, values, reason, tmp_path):
    path = write(tmp_path / "a.gguf", model, **values)
    with pytest.raises(TokenizerError, match=reason) as caught:
        tokenizers.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_counts_that_lie_are_refused_at_once(tmp_path):
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    key = struct.pack("<Q", 21) + b"tokenizer.ggml.tokens"
    lies = {
        "keys": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
        "a key": head + struct.pack("<Q", 2**62) + b"x",
        "an array": head + key + struct.pack("<IIQ", 9, 8, 2**40),
        "an array that just fits": head + key + struct.pack("<IIQ", 9, 4, 5_000_000),
        "a string": head + key + struct.pack("<IIQQ", 9, 8, 1, 2**63) + b"x",
        "a type": head + key + struct.pack("<I", 77),
        "arrays of arrays": head + key + struct.pack("<IIQ", 9, 9, 1),
        "nothing": b"GGUF",
        "a version": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        "another file": b"PK\x03\x04 something else",
    }
    for content in lies.values():
        (tmp_path / "a.gguf").write_bytes(content)
        with pytest.raises(UsageError, match=r"a\.gguf"):
            tokenizers.load(tmp_path / "a.gguf")


def test_any_damage_is_refused_or_another_tokenizer(byte_level, tmp_path):
    whole, rng = write(tmp_path / "a.gguf", "gpt2", **byte_level[1]).read_bytes(), random.Random(0)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / "a.gguf").write_bytes(damaged[: rng.choice([len(whole), rng.randrange(len(whole))])])
        with suppress(UsageError):
            tokenizers.load(tmp_path / "a.gguf").encode("the river")


def test_keys_that_no_tokenizer_needs_are_not_looked_at(byte_level, tmp_path):
    """A file may give millions of numbers to any of them."""

    class Untouched:
        def tolist(self):
            raise AssertionError

        __iter__ = tolist

    _, values = byte_level
    with GGUFHeader.opened(write(tmp_path / "a.gguf", "gpt2", **values)) as header:
        files = files_from(header.metadata)
        assert files_from(header.metadata | {"tokenizer.ggml.more": Untouched(), "tokenizer.x": Untouched()}) == files
