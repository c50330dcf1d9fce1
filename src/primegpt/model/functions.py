"""Two small functions with gradients written by hand; the same values as their formulas, fewer passes over memory.

On a CPU a training step of a small model spends more on such functions than on attention, since autograd takes each
formula apart and visits memory for each part. A compiler would join the parts; these need none.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class RMSNorm(torch.autograd.Function):
    """x / √(mean(x²) + ε) over the last dimension, in x's own format with the mean in fp32 (arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, eps: float) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        scale = torch.rsqrt(size.square() / x.size(-1) + eps).to(x.dtype)  # (..., 1)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyrefly: ignore[bad-override]
        y, scale = ctx.saved_tensors  # what points along y changes only the length
        along = (gradient * y).mean(dim=-1, keepdim=True)
        return torch.addcmul(gradient, y, along, value=-1).mul_(scale), None


class SquaredReLU(torch.autograd.Function):
    """max(x, 0)² (So et al. 2021, Primer, arXiv:2109.08668)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        (positive,) = ctx.saved_tensors
        return (gradient * positive).mul_(2)
