"""Where and in what number format to compute: the device, autocast, and the gradient scaler that fp16 needs."""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, cast

import torch
from torch import Tensor

from primegpt.errors import ConfigError

Format = Literal["bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_device(wanted: str) -> str:
    """`wanted`, or for "auto" the best device present. Raises ConfigError when it is not there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, here in present.items() if here)
    if not present[wanted]:
        here = ", ".join(device for device, is_here in present.items() if is_here)
        raise ConfigError(f"train.device = {wanted!r} is not available here", f"this machine has: {here}")
    return wanted


def choose_precision(wanted: str, device: str) -> Format:
    """`wanted`, or for "auto" what the device is fast in.

    cuda: bf16 from Ampere on, else fp16. cpu: bf16 where its matrix products are measurably faster (AVX-512-bf16,
    AMX, Arm's bf16), else fp32. mps: fp32 (unverified: no such machine was at hand to measure on).
    """
    if wanted != "auto":
        return cast(Format, wanted)
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device == "cpu" and bf16_speedup() > 1.3 else "fp32"


def matmul_rate(device: str, dtype: torch.dtype, size: int = 768, repeats: int = 5) -> float:
    """Measured FLOP/s of square matrix products, best of `repeats`; some milliseconds on any device."""
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


def bf16_speedup() -> float:
    """How much faster this CPU multiplies matrices in bf16 than in fp32."""
    return matmul_rate("cpu", torch.bfloat16) / matmul_rate("cpu", torch.float32)


def available_threads() -> int:
    """CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Precision:
    """The number format of one run: `autocast()` for the forward pass, `scaler` for fp16's gradients."""

    def __init__(self, name: str, device: str) -> None:
        assert name in DTYPES, "choose_precision resolves auto"
        self.name, self.device, self.dtype = name, device, DTYPES[name]
        # fp16 underflows below 6e-8: the loss is scaled up, the gradients down again before they are used.
        self.scaler = torch.amp.GradScaler(device, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """Matrix products in the 16-bit format, reductions in fp32; nothing for fp32."""
        return nullcontext() if self.name == "fp32" else torch.autocast(self.device, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Back-propagate the scaled loss."""
        self.scaler.scale(loss).backward()
