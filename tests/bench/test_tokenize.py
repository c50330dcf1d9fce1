"""The benchmark runs, takes turns, and reports ratios of medians."""

import pytest

from primegpt.bench.compare import Comparison, Result, compare
from primegpt.bench.tokenize import bench_tokenize
from primegpt.errors import ConfigError
from primegpt.tokenizers import store


def test_contestants_take_turns_and_medians_are_compared():
    order, rates = [], {"ours": iter([10.0, 30.0, 20.0]), "theirs": iter([8.0, 1.0, 5.0])}

    def turn(name):
        order.append(name)
        return next(rates[name])

    contestants = {name: lambda name=name: turn(name) for name in rates} | {"gone": "not installed"}
    found = compare("work", "MB/s", contestants, turns=3)
    assert order == ["ours", "theirs"] * 3
    assert [found.ratio(result) for result in found.results[:2]] == [1.0, 4.0]
    lines = found.as_markdown().splitlines()
    assert "| theirs | 5.0 | 1.0 | 8.0 | 4.00× |" in lines
    assert "| gone | absent: not installed | | | |" in lines
    assert '"medians"' in found.as_json()
    assert isinstance(found, Comparison)
    assert isinstance(found.results[0], Result)


def test_shards_beside_tiktoken_processes(tmp_path):
    (tmp_path / "text.txt").write_text("the river runs under the bridge of stone\n" * 200, encoding="utf-8")
    store.save(store.train("bpe", ["the river runs under the bridge"], 270), tmp_path / "tokenizer")
    found = bench_tokenize(str(tmp_path / "text.txt"), str(tmp_path / "tokenizer"), megabytes=0.05, turns=1)
    assert [len(result.rates) for result in found.results] == [1, 1]
    assert all(result.median > 0 for result in found.results)
    store.save(store.train("char", ["the river"]), tmp_path / "char")
    with pytest.raises(ConfigError, match="does not encode through tiktoken"):
        bench_tokenize(str(tmp_path / "text.txt"), str(tmp_path / "char"), megabytes=0.01, turns=1)
