"""The peers of `primegpt bench` run, on the same weights, and write as many tokens as they are timed for."""

import importlib.util

import pytest

from primegpt import api
from primegpt.bench.decode import bench_decode, random_prompts
from primegpt.bench.random_run import save_random_run
from primegpt.bench.train import SHAPES, Recipe, transformers_run
from primegpt.bench.writers import llama_writer, our_writer, transformers_writer

pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 64, "block_size": 64, "vocab_size": 700}


@pytest.fixture
def run(tmp_path):
    return save_random_run(tmp_path / "run", TINY)


def test_all_write_the_same_text_with_the_same_weights(run, tmp_path):
    """In fp32, where nothing but the order of sums differs; prompts of the same length in one batch."""
    prompts = random_prompts(TINY["vocab_size"], 3, 5)
    expected = our_writer(api.load(run), "fp32")(prompts, 20).ids
    assert len({tuple(ids) for ids in expected}) == 3
    exported = api.export(run, tmp_path / "hf")
    assert transformers_writer(exported, "fp32")(prompts, 20).ids == expected
    if importlib.util.find_spec("llama_cpp"):
        write = llama_writer(api.export(run, tmp_path / "m.gguf", to="gguf", dtype="f32"), 1, 32)
        assert write(prompts, 20).ids == expected
        assert write(prompts[:1], 20).ids == expected[:1]
        assert write(prompts, 20).ids == expected  # nothing is left in its cache


def test_every_comparison_has_its_peers(run):
    found = bench_decode(run, prompt=4, tokens=8, streams=[1, 3], turns=1, threads=1, buffer_megabytes=8)
    assert len(found) == 4 * 2 * 2
    for comparison in found:
        ours, transformers, llama = comparison.results
        assert ours.rates
        assert bool(transformers.rates) == ("int" not in comparison.task.split(",")[1])
        assert bool(llama.rates) == (importlib.util.find_spec("llama_cpp") is not None)


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
