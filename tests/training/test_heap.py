"""The heap of a training process comes in huge pages, where the system has them; and nothing breaks where not."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from primegpt.training import heap

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import re, sys, torch
from primegpt.training.heap import keep_in_huge_pages

def huge():
    return sum(int(kb) for kb in re.findall(r"AnonHugePages: +(\\d+) kB", open("/proc/self/smaps").read()))

asked = keep_in_huge_pages(256 << 20) if sys.argv[1] == "asked" else True
before = huge()
for _ in range(3):
    tensors = [torch.ones(1 << 18) for _ in range(100)]  # a megabyte each
assert asked and all(t.sum() == 1 << 18 for t in tensors)
print(huge() - before)
"""


def growth(how: str) -> int:
    """KB of huge pages that 100 tensors of a megabyte add, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(
    not SWITCH.exists() or "[madvise]" not in SWITCH.read_text(), reason="the system gives them to all, or to none"
)
def test_tensors_live_in_huge_pages() -> None:
    assert growth("asked") >= 90_000
    assert growth("as it comes") < 10_000


LIMITED = """
import ctypes, resource
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from primegpt.training.heap import keep_in_huge_pages
print(keep_in_huge_pages(64 << 30))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of addresses that the system heeds")
def test_where_addresses_are_limited_nothing_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # a library without mallopt
    assert not heap.keep_in_huge_pages()
