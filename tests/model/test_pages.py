"""Weights in large pages are the same weights, in one block."""

import mmap

import pytest
import torch
from torch import nn

from primegpt.model.pages import ALIGNED, HUGE, use_huge_pages


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    kinds = {(512, 512): torch.float32, (7,): torch.bfloat16, (1024, 999): torch.int8, (300, 401): torch.bfloat16}
    return [nn.Parameter((50 * torch.randn(shape)).to(dtype), requires_grad=False) for shape, dtype in kinds.items()]


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no way to ask for huge pages")
def test_values_stay_and_lie_together() -> None:
    moved, before = parameters(), [p.clone() for p in parameters()]
    old = [p.data_ptr() for p in moved]
    use_huge_pages([*moved, moved[0]])  # a tied weight comes twice
    places = [p.data_ptr() for p in moved]
    assert not set(places) & set(old)
    assert all(place % ALIGNED == 0 for place in places)
    assert places[-1] - places[0] < sum(p.nbytes + ALIGNED for p in moved)
    for p, value in zip(moved, before, strict=True):
        assert (p.dtype, p.shape) == (value.dtype, value.shape)
        assert torch.equal(p, value)


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no way to ask for huge pages")
def test_what_was_moved_can_be_trained() -> None:
    layer = nn.Linear(1024, 1024, bias=False)
    use_huge_pages(layer.parameters())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before, x = layer.weight.detach().clone(), torch.ones(1, 1024)
    layer(x).sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before - 0.1)


def test_little_and_systems_without_huge_pages_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    few = nn.Parameter(torch.ones(HUGE // 4 - 16), requires_grad=False)
    place = few.data_ptr()
    use_huge_pages([few])
    assert few.data_ptr() == place
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    moved = parameters()
    places = [p.data_ptr() for p in moved]
    use_huge_pages(moved)
    assert [p.data_ptr() for p in moved] == places
