"""Preparing a text beside tiktoken processes."""

import pytest

from primegpt.bench.tokenize import bench_tokenize
from primegpt.errors import ConfigError
from primegpt.tokenizers import store


def test_shards_beside_tiktoken_processes(tmp_path):
    (tmp_path / "text.txt").write_text("the river runs under the bridge of stone\n" * 200, encoding="utf-8")
    store.save(store.train("bpe", ["the river runs under the bridge"], 270), tmp_path / "tokenizer")
    found = bench_tokenize(str(tmp_path / "text.txt"), str(tmp_path / "tokenizer"), megabytes=0.05, turns=1)
    assert [len(result.rates) for result in found.results] == [1, 1]
    assert all(result.median > 0 for result in found.results)
    store.save(store.train("char", ["the river"]), tmp_path / "char")
    with pytest.raises(ConfigError, match="does not encode through tiktoken"):
        bench_tokenize(str(tmp_path / "text.txt"), str(tmp_path / "char"), megabytes=0.01, turns=1)
