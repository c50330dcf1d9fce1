"""Memory in pages of 2 MB, where the system has them: a core reads it faster, because it looks up fewer addresses.

Weights are moved into such pages, and the heap of a training process is kept in them.
"""

import ctypes
import mmap
import os
from collections.abc import Iterable

import torch
from torch import nn

HUGE = 2 << 20  # bytes of a huge page; what is smaller as a whole is left where it is
ALIGNED = 64  # bytes, the width of the widest vector register

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # <malloc.h>
LARGE = 32 << 20  # bytes, the highest threshold that every glibc takes; larger blocks come from the system, and go back


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


def keep_in_huge_pages(size: int | None = None) -> bool:
    """Ask that the next `size` bytes of heap (half of the machine's memory) come in pages of 2 MB, and stay. False
    where this cannot be asked: other systems than Linux, other libraries than glibc.

    A training step makes and frees hundreds of tensors of about a megabyte. As it comes, the C library hands much of
    that back to the system and gets it again in pages of 4 KB, cleared one by one. Nothing is taken before it is used;
    what was used once is given back when the process ends. That holds for tensors of any size while there is room in
    the heap, so that large ones leave holes in it too (model/memory.py: HOLES_ONCE).
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc, free, madvise = libc.mallopt, libc.malloc, libc.free, libc.madvise
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library without a name
        return False
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = size or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    mallopt(M_TRIM_THRESHOLD, -1)  # the heap never shrinks
    mallopt(M_MMAP_MAX, 0)  # for the next line: from the heap, however large
    block = malloc(size)  # addresses only, no memory yet
    mallopt(M_MMAP_MAX, 65_536)  # as it was
    start, end = -(-(block or 0) // HUGE) * HUGE, ((block or 0) + size) // HUGE * HUGE
    if not block or madvise(start, end - start, mmap.MADV_HUGEPAGE):  # too few addresses are allowed; no huge pages
        mallopt(M_TRIM_THRESHOLD, 128 << 10)
        free(block)
        return False
    free(block)
    mallopt(M_MMAP_THRESHOLD, LARGE)
    return True
