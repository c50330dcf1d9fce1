"""The benchmark of a GPU, run where there is none: both contestants as programs, on the CPU, with a small network."""

import pytest
import torch

from primegpt.bench.gpu import bench_gpu
from primegpt.errors import UsageError
from primegpt.model.size import flops_per_token

SIZES = {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16, "vocab_size": 50}
BENCH = """
import sys
settings = dict(word[2:].split("=") for word in sys.argv[1:])
assert settings == {"real_data": "False", "batch_size": "2", "block_size": "16", "dtype": "bfloat16",
                    "device": "cpu", "compile": "False"}, settings
print("9/10 loss: 4.0")
print("time per iteration: 4.0000ms, MFU: 1.00%")
"""


@pytest.mark.reliability
def test_both_programs_run_and_are_held_against_the_rate_of_products(tmp_path, monkeypatch):
    (tmp_path / "bench.py").write_text(BENCH, encoding="utf-8")
    monkeypatch.setattr("primegpt.bench.gpu.matmul_rate", lambda device, dtype: 1e9)
    found = bench_gpu(nanogpt=tmp_path, batch_size=2, steps=8, turns=1, compile=False, sizes=SIZES, device="cpu")
    ours, theirs = found.results
    assert theirs.rates == pytest.approx([2 * 16 / 0.004])
    assert 0 < ours.median < 1e6
    # 6 FLOPs a weight that multiplies, and attention's 12 * layers * width * context, counted by hand.
    weights = 12 * 16 * 16 + 64 * 16  # one block, and the head, padded to 64 rows
    assert ours.limit == pytest.approx(1e9 / (6 * weights + 12 * 16 * 16), rel=0.1)
    assert "of the limit" in found.as_markdown()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(UsageError, match="no CUDA GPU"):
        bench_gpu()


@pytest.mark.parametrize("wrong", [{"steps": 1}, {"batch_size": 0}])
def test_too_little_is_refused(wrong):
    with pytest.raises(UsageError, match="at least"):
        bench_gpu(device="cpu", **wrong)


def test_a_folder_that_is_no_checkout(tmp_path):
    with pytest.raises(UsageError, match=r"no bench\.py"):
        bench_gpu(nanogpt=tmp_path, device="cpu")


def test_flops_are_those_of_the_real_shape():
    from primegpt.bench.gpu import GPT2
    from primegpt.config import resolve

    model = resolve({"model": {"preset": "gpt2", "bias": False, **GPT2}}).model
    # nanoGPT's count for its MFU: 6 N + 12 L H Q T, with N = 123.6M without position embeddings.
    assert flops_per_token(model, 1024) == pytest.approx(6 * 123.6e6 + 12 * 12 * 768 * 1024, rel=0.02)
