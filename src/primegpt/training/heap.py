"""The memory that training steps take and give back: kept by the process, and in large pages."""

import ctypes
import mmap
import os

from primegpt.model.pages import HUGE

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # <malloc.h>
LARGE = (
    32 << 20
)  # bytes, the highest threshold that every glibc takes: a larger block comes from the system, and goes back


def keep_in_huge_pages(size: int | None = None) -> bool:
    """Ask that the next `size` bytes of heap (half of the machine's memory) come in pages of 2 MB, and stay. False
    where this cannot be asked: other systems than Linux, other libraries than glibc.

    A training step makes and frees hundreds of tensors of about a megabyte. As it comes, the C library hands much of
    that back to the system and gets it again in pages of 4 KB, cleared one by one. Nothing is taken before it is used;
    what was used once by tensors of up to 32 MB is given back when the process ends.
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
