"""What this machine offers: devices, cores, memory, and how fast it multiplies matrices in which number format.

torch is imported where it is asked, since whoever only counts cores need not wait for it.
"""

import math
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from primegpt.errors import ConfigError

if TYPE_CHECKING:
    import torch

Format = Literal["bf16", "fp16", "fp32"]

CGROUPS = Path("/sys/fs/cgroup")  # what a container may use
SHARING = 16  # threads that training of a few million parameters may gain from


def available_cores() -> int:
    """CPU cores that this process may use, of all that there are: by its mask, and by the share of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _share_of_a_container())))


@cache
def _share_of_a_container() -> float:
    """Cores' worth of time that this process gets (`docker run --cpus`); infinite where nothing limits it."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # cgroups 2, and 1
        with suppress(OSError, ValueError):  # not there; "max"
            quota, period = map(float, " ".join((CGROUPS / file).read_text(encoding="ascii") for file in files).split())
            return quota / period if quota > 0 else math.inf
    return math.inf


def other_load() -> float:
    """How many more cores than there are other programs would use, roughly; 0.0 where there are enough, or unknown.

    The system's mean over the last minute, less what the threads of this process and of its fellow ranks want. The
    system counts all its cores: where this process may use some only, nobody knows who computes on these.
    """
    import torch

    cores, ranks = os.cpu_count() or 1, os.environ.get("LOCAL_WORLD_SIZE", "1")
    own = torch.get_num_threads() * (int(ranks) if ranks.isdecimal() else 1)
    if available_cores() < cores:
        return 0.0
    try:
        return max(0.0, os.getloadavg()[0] - max(cores, own))
    except (AttributeError, OSError):  # Windows; a system that does not tell
        return 0.0


def choose_device(wanted: str) -> str:
    """`wanted`, or for "auto" the best device present. Raises ConfigError when it is not there."""
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, here in present.items() if here)
    if not present.get(wanted):
        here = ", ".join(device for device, is_here in present.items() if is_here)
        raise ConfigError(f"train.device = {wanted!r} is not available here", f"this machine has: {here}")
    return wanted


def choose_precision(wanted: str, device: str) -> Format:
    """`wanted`, or for "auto" what the device is fast in.

    cuda: bf16 from Ampere on, else fp16. cpu: bf16 where its matrix products are measurably faster (AVX-512-bf16,
    AMX, Arm's bf16), else fp32. mps: fp32 (unverified: no such machine was at hand to measure on).
    """
    import torch

    if wanted != "auto":
        return cast(Format, wanted)
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device == "cpu" and bf16_speedup() > 1.3 else "fp32"


def matmul_rate(device: str, dtype: "torch.dtype", size: int = 768, repeats: int = 5) -> float:
    """Measured FLOP/s of square matrix products, best of `repeats`; some milliseconds on any device."""
    import torch

    if device == "cuda":
        size = 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats + 1):  # the first one warms up and is as likely the slowest as any
        start = time.perf_counter()
        a @ b
        if device != "cpu":
            getattr(torch, device).synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def product_rate(device: str, dtype: "torch.dtype", threads: int | None = None, repeats: int = 60) -> float:
    """FLOP/s of matrix products by as many threads, all cores when None; on a CPU that of one times their number.

    One thread at a time gets a core even beside other programs, for a product of half a millisecond. Above SHARING
    threads a network of a few million parameters gains nothing more.
    """
    import torch

    if device != "cpu":
        return matmul_rate(device, dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cores = available_cores()
        return min(threads or cores, cores, SHARING) * matmul_rate(device, dtype, size=384, repeats=repeats)
    finally:
        torch.set_num_threads(before)


def bf16_speedup() -> float:
    """How much faster this CPU multiplies matrices in bf16 than in fp32: one thread, which other programs leave be."""
    import torch

    bf16, fp32 = (product_rate("cpu", dtype, 1, repeats=20) for dtype in (torch.bfloat16, torch.float32))
    return bf16 / fp32


def resident_memory(key: str) -> int | None:
    """Bytes of this process by a line of /proc/self/status, VmRSS or (at its peak) VmHWM; None where there is none.

    The peak that getrusage tells may be that of the process which started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
    except (OSError, StopIteration):
        return None


def memory_of(device: str) -> float:
    """Bytes of memory that the device has, or that this process may have of the machine's; infinite where unknown."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[1]
    try:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # Windows
        return math.inf
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # ValueError: "max"
            limits.append(int((CGROUPS / file).read_text(encoding="ascii")))
    return min(limits)
