"""Weights in large pages of memory, which a core reads faster, because it looks up fewer addresses."""

import mmap
from collections.abc import Iterable

import torch
from torch import nn

HUGE = 2 << 20  # bytes of a huge page; what is smaller as a whole is left where it is
ALIGNED = 64  # bytes, the width of the widest vector register


@torch.no_grad()
def use_huge_pages(parameters: Iterable[nn.Parameter]) -> None:
    """Move the values of `parameters` into one block of memory for which the system is asked for huge pages.

    Nothing happens where it cannot be asked (other systems than Linux, other devices than CPUs). Nothing else may
    share the old storage: it would no longer see changes.
    """
    unique = list({id(p): p for p in parameters if p.device.type == "cpu"}.values())
    ends = [0]
    for p in unique:
        ends.append(-(-(ends[-1] + p.nbytes) // ALIGNED) * ALIGNED)
    if ends[-1] < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    size = -(-ends[-1] // HUGE) * HUGE
    room = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory gets no huge pages
    try:
        room.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return
    memory = torch.frombuffer(room, dtype=torch.uint8)
    for p, start in zip(unique, ends, strict=False):
        p.data = memory[start : start + p.nbytes].view(p.dtype).view(p.shape).copy_(p)
