"""Weights in huge pages are the same weights; the heap of training comes in them; nothing breaks without."""

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from primegpt.hugepages import ALIGNED, HUGE, keep_in_huge_pages, use_huge_pages


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


# ---- the heap

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import re, sys, torch
from primegpt.hugepages import keep_in_huge_pages

assert sys.argv[1] != "asked" or keep_in_huge_pages(1 << 30)  # holes that are a few bytes too small take room as well
for _ in range(3):
    tensors = [torch.ones(1 << 18) for _ in range(100)]  # a megabyte each
assert all(t.sum() == 1 << 18 for t in tensors)
regions = re.split("^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read(), flags=re.MULTILINE)
asked = [region.split()[0].split("-") for region in regions if re.search("^VmFlags:.* hg", region, re.MULTILINE)]
ranges = [range(int(start, 16), int(end, 16)) for start, end in asked]
print(sum(any(t.data_ptr() in r and t.data_ptr() + t.nbytes - 1 in r for r in ranges) for t in tensors))
"""


def asked_for(how: str) -> int:
    """Of 100 tensors of a megabyte, made in a process of its own, those that lie where huge pages are asked for.

    Whether the system then has pages of 2 MB left, which a busy one has not, is not ours to test.
    """
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not SWITCH.exists(), reason="a kernel without huge pages")
def test_tensors_live_in_huge_pages() -> None:
    assert asked_for("asked") >= 90
    assert asked_for("as it comes") == 0


LIMITED = """
import ctypes, resource
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from primegpt.hugepages import keep_in_huge_pages
print(keep_in_huge_pages(64 << 30))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of addresses that the system keeps to")
def test_where_addresses_are_limited_nothing_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # a library without mallopt
    assert not keep_in_huge_pages()
