"""The peers of `primegpt bench` run, on the same weights, and write as many tokens as they are timed for."""

import importlib.util

import pytest

from primegpt.bench.decode import bench_decode
from primegpt.bench.train import SHAPES, Recipe, transformers_run

pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 64, "block_size": 64, "vocab_size": 700}


def test_writers():
    found = bench_decode(sizes=TINY, prompt=4, tokens=8, streams=[1, 3], turns=1, threads=1, buffer_megabytes=8)
    for comparison in found:
        ours, transformers, llama = comparison.results
        assert ours.rates
        assert bool(transformers.rates) == ("int8" not in comparison.task)
        one = "1 stream:" in comparison.task
        assert bool(llama.rates) == (one and importlib.util.find_spec("llama_cpp") is not None)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plain_loop_learns(precision, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the river ran under a bridge of stone\n" * 60, encoding="utf-8")
    run = transformers_run(Recipe(SHAPES["small"], steps=12, dropout=0.0, threads=1), text, precision)
    assert not isinstance(run, str)
    progress = run()
    assert len(progress.losses) == 12
    assert progress.losses[-1] < progress.losses[0] - 0.5
    assert progress.milliseconds > 0
