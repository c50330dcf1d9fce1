"""Attention and the loss by themselves: every contestant computes the same, and what is not there says so."""

import pytest
import torch

from primegpt.bench import kernels
from primegpt.bench.compare import NO_TIME, Allowance
from primegpt.bench.exactness import distance
from primegpt.bench.kernels import bench_attention, bench_loss

SIZES = {"n_head": 2, "n_embd": 32, "block_size": 64, "vocab_size": 300}


@pytest.fixture
def gradients(monkeypatch):
    """What each contestant computed, with its gradients, in order; its time is a second."""
    kept = []

    def timed(work, inputs, repeats):
        assert repeats == 3
        result = work()
        torch.autograd.backward(result, torch.ones_like(result))
        kept.append([result.detach().float(), *(tensor.grad.float() for tensor in inputs)])
        for tensor in inputs:
            tensor.grad = None
        return 1000.0, 0.0

    monkeypatch.setattr(kernels, "timed", timed)
    return kept


def apart(computed, expected):
    """The largest distance of a result or a gradient, which are in bf16."""
    return max(distance(*pair) for pair in zip(computed, expected, strict=True))


def test_attention_is_the_same_by_every_kernel(gradients):
    (found,) = bench_attention(SIZES, 2, "cpu", turns=1, repeats=3)
    names = [result.name for result in found.results if result.rates]
    computed = dict(zip(names, gradients, strict=True))
    expected = computed.pop("as the formula reads")
    in_documents = [computed.pop(name) for name in list(computed) if "documents" in name]
    assert set(computed) >= {"torch's choice"}
    for each in computed.values():
        assert apart(each, expected) < 0.02
    assert apart(*in_documents) < 0.02
    assert apart(in_documents[0], expected) > 0.5  # which see less
    assert {result.name for result in found.results if result.absent} == set(names) ^ {r.name for r in found.results}
    assert found.less_is_better


def test_the_loss_is_the_same_by_every_way(gradients, monkeypatch):
    monkeypatch.setattr("primegpt.model.size.MAX_LOGITS", 1000)  # so that there are slices
    monkeypatch.setattr("primegpt.model.size.SLICE_LOGITS", 10_000)
    (found,) = bench_loss(SIZES, 2, "cpu", turns=1, compile=False, repeats=3)
    first, *others = gradients
    assert len(others) == len([result for result in found.results if result.rates]) - 1 >= 1
    for each in others:
        assert apart(each, first) < 0.02


def test_a_turn_is_the_median_of_passes_and_leaves_no_gradient():
    (found,) = bench_loss(SIZES, 1, "cpu", turns=2, compile=False, repeats=1)
    assert all(len(result.rates) == 2 and min(result.rates) > 0 for result in found.results)
    x = torch.ones(2, requires_grad=True)
    assert kernels.timed(lambda: x.sum(), [x], 3)[0] > 0
    assert x.grad is None


def test_no_turn_begins_when_the_time_is_over():
    (found,) = bench_attention(SIZES, 1, "cpu", turns=1, repeats=1, allowance=Allowance(until=0.0))
    assert {result.absent for result in found.results} == {NO_TIME}
    assert NO_TIME in found.as_markdown()
