"""GPT-2's vocabulary, from each of the places it can come from, against tiktoken."""

import re

import pytest

from primegpt import tokenizers
from primegpt.config import ModelConfig
from primegpt.errors import ConfigError, MismatchError, TokenizerError
from primegpt.tokenizers import gpt2 as our_module
from primegpt.tokenizers import store
from primegpt.tokenizers.gpt2 import GPT2, VOCAB_BPE, VOCAB_BPE_SHA256, are_gpt2s

PUBLISHED_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
FINGERPRINT = "ccdae87e9c7c18864160d9bd59c5bdcbbd527eb503496adf253890566eea62c7"  # no special tokens added


@pytest.fixture(scope="module")
def files(shared_data):
    return shared_data / "gpt2"


@pytest.fixture(scope="module")
def plain(files):
    return tokenizers.load(files)


@pytest.fixture(scope="module")
def reference(files):
    """tiktoken's "gpt2", as its `get_encoding` builds it."""
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    ranks = data_gym_to_mergeable_bpe_ranks(str(files / "vocab.bpe"), str(files / "encoder.json"))
    specials = {"<|endoftext|>": 50256}
    return tiktoken.Encoding("gpt2", pat_str=PUBLISHED_SPLIT, mergeable_ranks=ranks, special_tokens=specials)


def test_ids_are_tiktokens(plain, reference, shared_data):
    text = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    assert plain.encode(text) == reference.encode_ordinary(text)
    assert plain.vocab_size == reference.n_vocab == 50257
    assert plain.eot_id == reference.eot_token == 50256
    for line in ["<|endoftext|>", "日本語 😀\t\n\n  x", "I'LL they're\r\n", "\0"]:
        assert plain.encode(line) == reference.encode_ordinary(line)


def test_the_model_pads_the_vocabulary(plain):
    assert ModelConfig(vocab_size=plain.vocab_size).padded_vocab_size == 50304


def test_own_special_tokens_come_after_gpt2s(plain, gpt2):
    assert isinstance(gpt2, GPT2)
    assert gpt2.token_id("<song>") == 50257
    assert gpt2.vocab_size == 50257 + 5
    assert gpt2.encode("<song> a") == plain.encode("<song> a")
    assert plain.fingerprint == FINGERPRINT != gpt2.fingerprint


def test_it_is_saved_and_loaded_as_gpt2(gpt2, tmp_path):
    store.save(gpt2, tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert isinstance(loaded, GPT2)
    assert loaded.fingerprint == gpt2.fingerprint
    assert tokenizers.load(tmp_path, dict(list(gpt2.special_kinds.items())[1:])).fingerprint == gpt2.fingerprint
    with pytest.raises(MismatchError, match=r"has the special tokens .*<song>.*leave them out"):
        tokenizers.load(tmp_path, {"control": ["<sing>"]})


def test_other_merges_are_not_gpt2s(plain, tmp_path):
    assert are_gpt2s(plain.merges)
    for other in (plain.merges[:-1], [plain.merges[1], plain.merges[0], *plain.merges[2:]]):
        assert not are_gpt2s(other)
        with pytest.raises(ValueError, match="not those of GPT-2"):
            GPT2(other)
    store.save(plain, tmp_path)
    record = tmp_path / "primegpt.json"
    record.write_text(record.read_text(encoding="utf-8").replace('"gpt2"', '"bpe"'), encoding="utf-8")
    with pytest.raises(MismatchError, match=FINGERPRINT):
        tokenizers.load(tmp_path)


# ---- from tiktoken's copy


def test_it_comes_from_where_tiktoken_keeps_it(files, monkeypatch, tmp_path):
    import hashlib

    (tmp_path / hashlib.sha1(VOCAB_BPE.encode()).hexdigest()).write_bytes((files / "vocab.bpe").read_bytes())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    read = []
    tokenizer = tokenizers.train("gpt2", (read.append(text) or text for text in ["text"]), None, {"control": ["<s>"]})
    assert tokenizer.vocab_size == 50258
    assert not read
    assert tokenizers.train("gpt2", []).fingerprint == FINGERPRINT
    with pytest.raises(ConfigError, match=r"vocab_size = 300, but GPT-2's has 50257 ids"):
        tokenizers.train("gpt2", [], 300)


def test_the_address_is_tiktokens():
    import inspect

    from tiktoken_ext import openai_public

    source = inspect.getsource(openai_public.gpt2)
    assert VOCAB_BPE in source
    assert VOCAB_BPE_SHA256 in source


def test_without_a_network_the_other_way_is_named(monkeypatch):
    from requests.exceptions import ConnectionError

    def offline(*_):
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr("tiktoken.load.read_file_cached", offline)
    with pytest.raises(TokenizerError, match=re.escape("cannot be downloaded (ConnectionError)")) as caught:
        our_module.download()
    for word in ("vocab.bpe", "encoder.json", "tokenizer.json", "tokenizer.path"):
        assert word in str(caught.value)
