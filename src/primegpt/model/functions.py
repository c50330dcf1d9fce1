"""Four small functions with gradients written by hand; the same values as their formulas, fewer passes over memory.

On a CPU a training step of a small model spends more on such functions than on attention, since autograd takes each
formula apart and visits memory for each part. A compiler would join the parts; these need none.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

KERNEL = getattr(torch.ops.aten, "_weight_norm_interface_backward", None)  # private to torch, hence with a way back
PIECE = 3 << 17  # numbers, 1.5 MB in fp32


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
        """scale (gradient - y mean(gradient y)): what points along y changes only the length.

        Weight normalisation, g v / |v|, has a kernel for g (gradient - v (gradient v) / |v|²) / |v|, a row at a time:
        the same with v = y, |v| = √n and g = √n scale.
        """
        y, scale = ctx.saved_tensors
        if KERNEL is None or torch.compiler.is_compiling():  # a compiler joins the passes itself
            return (gradient - y * (gradient * y).mean(dim=-1, keepdim=True)) * scale, None
        n, exact = y.size(-1), torch.promote_types(y.dtype, torch.float32)
        g = scale.reshape(-1, 1) * math.sqrt(n)  # (N, 1)
        length = torch.full_like(g, math.sqrt(n), dtype=exact)
        rows = (t.reshape(-1, n).contiguous() for t in (gradient, y))  # the kernel does not look at strides
        result, _ = KERNEL(*rows, g.contiguous(), length.contiguous(), 0)
        return result.view(y.shape), None


class Rotation(torch.autograd.Function):
    """x cos + swap(x) sin, where swap exchanges the halves of the last dimension; cos and sin are constants.

    With cos = (c, c) and sin = (-s, s) each pair (x[i], x[i + D/2]) turns; back again by the other sign.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.addcmul(x * cos, swap(x), sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyrefly: ignore[bad-override]
        cos, sin = ctx.saved_tensors
        return torch.addcmul(gradient * cos, swap(gradient), sin, value=-1), None, None


def swap(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((b, a), dim=-1)


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


class GELU(torch.autograd.Function):
    """½ x (1 + tanh u) with u = √(2/π) (x + 0.044715 x³), the GELU of GPT-2 (arXiv:1606.08415), as x σ(2u).

    That is the same number, and torch's tanh takes six times as long as its sigmoid. The slope is taken along with
    the value, in fp32, in pieces that stay in the cache.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        flat = x.reshape(-1)
        y, slope = torch.empty_like(flat), torch.empty_like(flat)
        exact = torch.promote_types(x.dtype, torch.float32)
        linear, cubic = torch.full((1,), math.sqrt(8 / math.pi), dtype=exact), 0.044715 * math.sqrt(8 / math.pi)
        for start in range(0, len(flat), PIECE):
            piece = slice(start, start + PIECE)
            z = flat[piece].to(exact)
            s = torch.addcmul(linear, z, z, value=cubic).mul_(z).sigmoid_()
            value = z * s
            y[piece] = value
            value.addcmul_(value, s, value=-1)  # z s (1 - s): how much z s grows with 2u
            slope[piece] = s.addcmul_(value, torch.addcmul(linear, z, z, value=3 * cubic))
        ctx.save_for_backward(slope.view(x.shape))
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        (slope,) = ctx.saved_tensors
        return gradient * slope


def gelu_formula(x: Tensor) -> Tensor:
    """`GELU` for compilers, which join its passes and take its gradient; their tanh is as slow as torch's."""
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    return (z * torch.sigmoid(math.sqrt(8 / math.pi) * (z + 0.044715 * z * z * z))).to(x.dtype)
