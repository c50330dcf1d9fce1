"""Vocabularies as tiktoken has them: ids of the library, special tokens where the published ones have them."""

import base64
import json

import pytest
import tiktoken

from primegpt import tokenizers
from primegpt.errors import TokenizerError
from primegpt.tokenizers import splits, tiktoken_files
from primegpt.tokenizers.bpe import learn_merges, ranks_of
from primegpt.tokenizers.tiktoken_files import PUBLISHED, Published

TEXTS = ["the <|endoftext|> river 12345 it'S", "日本語\r\n\n  é 😀", "", "</s>[INST]"]


@pytest.fixture(scope="module")
def ranks(corpus):
    """Pieces in tiktoken's order: the bytes by their value, then as learnt."""
    learnt = ranks_of(learn_merges([corpus], 200))
    pieces = [bytes([byte]) for byte in range(256)] + [piece for piece in learnt if len(piece) > 1]
    return {piece: rank for rank, piece in enumerate(pieces)}


@pytest.mark.parametrize("name", ["cl100k_base.tiktoken", "tokenizer.model"])
def test_ranks_in_lines(ranks, name, tmp_path, monkeypatch):
    known = Published(splits.CL100K, {"<|endoftext|>": len(ranks) + 1})
    monkeypatch.setattr(tiktoken_files, "PUBLISHED", {len(ranks): known})
    lines = "".join(f"{base64.b64encode(piece).decode()} {rank}\n" for piece, rank in ranks.items())
    (tmp_path / name).write_text(lines)
    loaded = tokenizers.load(tmp_path / name)
    theirs = tiktoken.Encoding("x", pat_str=splits.CL100K, mergeable_ranks=ranks, special_tokens={})
    assert (loaded.vocab_size, loaded.eot_id) == (len(ranks) + 2, len(ranks) + 1)
    for text in TEXTS:
        assert loaded.encode(text) == theirs.encode_ordinary(text)
        assert loaded.decode(loaded.encode(text)) == text
    assert tokenizers.load(tmp_path).fingerprint == loaded.fingerprint


def test_ranks_that_are_not_published_are_refused(ranks, tmp_path):
    (tmp_path / "x.tiktoken").write_text(f"{base64.b64encode(b'a').decode()} 0\n")
    with pytest.raises(TokenizerError, match="it has 1 ranks, as none of the published"):
        tokenizers.load(tmp_path / "x.tiktoken")
    assert PUBLISHED[128_000].special_tokens["<|eot_id|>"] == 128_009
    assert len(PUBLISHED[128_000].special_tokens) == 256


def tekken(ranks, **changes):
    entries = [{"rank": rank, "token_bytes": base64.b64encode(piece).decode()} for piece, rank in ranks.items()]
    config = {"pattern": splits.TEKKEN, "default_vocab_size": len(ranks), "default_num_special_tokens": 20}
    return json.dumps({"config": {**config, **changes}, "vocab": entries})


def test_tekken(ranks, tmp_path):
    (tmp_path / "tekken.json").write_text(tekken(ranks))
    loaded = tokenizers.load(tmp_path)
    used = {piece: rank for piece, rank in ranks.items() if rank < len(ranks) - 20}
    theirs = tiktoken.Encoding("x", pat_str=splits.TEKKEN, mergeable_ranks=used, special_tokens={})
    for text in TEXTS:
        assert loaded.encode(text) == [20 + rank for rank in theirs.encode_ordinary(text)]
    assert (loaded.eot_token, loaded.bos_token, loaded.vocab_size) == ("</s>", "<s>", len(ranks))
    assert loaded.decode([3, 19]) == "[INST]<SPECIAL_19>"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pattern": "(a+)+$"}, "not the one of the published"),
        ({"default_vocab_size": 10**12}, "claims 1000000000000 ids"),
        ({"default_num_special_tokens": 0}, "0 of them special"),
        ({"default_vocab_size": 100}, "one of the 256 bytes"),
    ],
)
def test_a_tekken_file_that_says_something_else_is_refused(ranks, changes, reason, tmp_path):
    (tmp_path / "tekken.json").write_text(tekken(ranks, **changes))
    with pytest.raises(TokenizerError, match=reason):
        tokenizers.load(tmp_path)
