"""What of the network depends on the device, the number format or a compiler: norms, activations, rotation, attention.

gpt.py reads as the formula and calls these; each is the same function however it is computed. Four have gradients
written by hand: on a CPU a training step of a small model spends more on such functions than on attention, since
autograd takes each formula apart and visits memory for each part. A compiler would join the parts; these need none.

Letters in shapes are those of gpt.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from primegpt.model.apart import Apart

Kernel = Literal["sdpa", "explicit", "sums"]  # implementations of attention; "sums" is for compiled steps

KERNEL = getattr(torch.ops.aten, "_weight_norm_interface_backward", None)  # private to torch, hence with a way back
PIECE = 3 << 17  # numbers, 1.5 MB in fp32

# ---- norms


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


def rms_norm(x: Tensor, gain: Tensor | None, eps: float | None) -> Tensor:
    """x / √(mean(x²) + ε) over the last dimension, times a gain if there is one."""
    if not x.is_cpu:  # elsewhere torch has a kernel for it
        return F.rms_norm(x, x.shape[-1:], gain, eps)
    y = RMSNorm.apply(x, eps)
    return y if gain is None else y * gain


# ---- activations


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


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)²."""
    return SquaredReLU.apply(x)


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


def gelu(x: Tensor) -> Tensor:
    """The GELU that GPT-2 was trained with; ours where torch's slow tanh would count."""
    if x.is_cpu and torch.compiler.is_compiling():
        return gelu_formula(x)
    if x.is_cpu and x.requires_grad:
        return GELU.apply(x)
    return F.gelu(x, approximate="tanh")


# ---- positions and visibility


def swap(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((b, a), dim=-1)


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


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by its position's angle. x (B, T, heads, D); cos, sin (B or 1, T, 1, D)."""
    return Rotation.apply(x, cos, sin)


def triangle(T: int, device: torch.device) -> Tensor:
    """What causal attention sees, (T, T): True up to the diagonal."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


@dataclass
class View:
    """What every block needs to know of where the tokens stand; computed once a forward pass."""

    rotation: tuple[Tensor, Tensor] | None  # cos and sin as `rotate` takes them, (B or 1, T, 1, D)
    mask: Tensor | None  # (B or 1, 1, T, S), True where visible; None = all visible, or the triangle if causal
    causal: bool  # the plain triangle, which fused kernels do without a tensor
    slots: tuple[Tensor, Tensor] | None = None  # where the cache takes in the new tokens; None: after the others
    maps: list[Tensor] | None = None  # collects the attention maps of a trace
    added: Tensor | None = None  # the mask as explicit attention adds it, once it was asked for
    apart: Apart | None = None  # segments that attention takes one by one, each causal, in place of a mask
    inside: "Sequence[View] | None" = None  # what is seen of each group of them

    def turn(self, qk: Tensor) -> Tensor:
        """Queries and keys (B, T, heads, D) turned by their positions, if these are rotary ones."""
        if self.rotation is None:
            return qk
        cos, sin = self.rotation[0].to(qk.dtype), self.rotation[1].to(qk.dtype)
        if not torch.compiler.is_compiling():  # for the other blocks; those that share a compiled graph may not write
            self.rotation = cos, sin
        return rotate(qk, cos, sin)

    def of_groups(self, parts: Apart) -> "Sequence[View]":
        """What attention sees of each group of segments: all of a segment, from its beginning. Made once, as `bias`."""
        self.inside = self.inside or [View(None, None, causal=True) for _ in parts.groups]
        return self.inside

    def bias(self, q: Tensor) -> Tensor | None:
        """What explicit attention adds to the scores of queries q (B, H, T, D): 0, or -∞; made once, as `turn` does."""
        if self.added is not None or not (self.causal or self.mask is not None):
            return self.added
        mask = triangle(q.size(2), q.device) if self.mask is None else self.mask
        added = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
        if not torch.compiler.is_compiling():
            self.added = added
        return added


# ---- attention


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √D + bias), fp32 inside. q (B, H, T, D), k (B, H, S, D), bias (B or 1, 1, T, S): 0, or -∞ where
    nothing is seen."""
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)  # (B, H, T, S)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1).to(q.dtype)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention as the formula reads, with k and v (B, H, S, D).

    The T x S scores are kept in memory, yet for short contexts on a CPU this is faster than the fused kernel.
    """
    return F.dropout(attention_weights(q, k, bias), dropout) @ v


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0, causal: bool = False
) -> Tensor:
    """The same function without its scores in memory; k and v (B, K, S, D) may have fewer heads than q."""
    grouped = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, enable_gqa=grouped)


def summed_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same function for one query (T = 1) that sees all, its products written as sums, which a compiler merges."""
    (B, H, _, D), dtype = q.shape, q.dtype
    q, k, v = q.view(B, k.size(1), -1, 1, D).float(), k.unsqueeze(2).float(), v.unsqueeze(2).float()
    scores = (q * k).sum(dim=-1) * D**-0.5  # (B, K, H / K, S)
    return (scores.softmax(dim=-1).unsqueeze(-1) * v).sum(dim=-2).view(B, H, 1, D).to(dtype)


def attention_by_text(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`fused_attention` in fp32, one text after another, whose converted keys and values then stay in the cache."""
    masks = [None] * len(q) if mask is None else mask.expand(len(q), -1, -1, -1).split(1)
    texts = zip(q.float().split(1), k.split(1), v.split(1), masks, strict=True)
    return torch.cat([fused_attention(q, k.float(), v.float(), seen) for q, k, v, seen in texts]).to(q.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, view: View, kernel: Kernel, dropout: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √D) v over the keys that `view` shows, by the implementation `kernel`. Returns (B, H, T, D).

    q (B, H, T, D); k, v (B, K, S, D), where query head h reads key/value head h // (H / K).
    """
    k, v = k.to(q.dtype), v.to(q.dtype)
    if (parts := view.apart) is not None:
        groups = zip(parts.take(q), parts.take(k), parts.take(v), view.of_groups(parts), strict=True)
        return parts.put_back([attention(*group, kernel, dropout) for group in groups], len(q))
    if q.size(2) == 1 and view.maps is None and not dropout:
        if kernel == "sums" and len(q) == 1:
            return summed_attention(q, k, v)
        if q.dtype == torch.bfloat16 and q.is_cpu:  # there fused attention is slow for single queries
            return attention_by_text(q, k, v, view.mask)
    if kernel != "explicit" and view.maps is None:
        return fused_attention(q, k, v, None if view.causal else view.mask, dropout, view.causal)
    if q.size(1) != k.size(1):
        k, v = (t.repeat_interleave(q.size(1) // k.size(1), dim=1) for t in (k, v))
    bias = view.bias(q)
    if view.maps is not None:
        view.maps.append(attention_weights(q, k, bias))
    return explicit_attention(q, k, v, bias, dropout)
