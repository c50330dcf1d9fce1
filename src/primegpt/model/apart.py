"""Attention inside the segments of a row, each taken out as a row of its own: the same function as with a mask.

A mask hides most of what is computed where a row holds many segments: of N tokens in segments of n it leaves N n of N²
scores. Taken apart they are what plain causal attention computes, at the price of copying queries, keys, values and the
result once each. Segments of like length go together: a few groups, each at most half as long as the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

WORTH = 0.4  # of the scores that may be left, for segments to be taken apart
STEP = 16  # tokens: kernels for products in 16 bits are kept for each length


@dataclass(frozen=True)
class Apart:
    """Where the tokens of all rows go: groups of S segments, filled up to L tokens each, one after the other."""

    places: Tensor
    """(Σ S L,) which token stands there, of B * T; after the end of a segment any."""
    back: Tensor
    """(B * T,) where each token went."""
    groups: Sequence[tuple[int, int]]
    """S and L of each group."""

    def take(self, x: Tensor) -> Sequence[Tensor]:
        """(B, heads, T, D), each segment as a row of its own: (S, heads, L, D) for each group."""
        heads, D = x.size(1), x.size(3)
        taken: Tensor = Take.apply(x.transpose(1, 2).reshape(-1, heads, D), self.places, self.back)
        pieces = taken.split([S * L for S, L in self.groups])
        return [piece.view(S, L, heads, D).transpose(1, 2) for piece, (S, L) in zip(pieces, self.groups, strict=True)]

    def put_back(self, groups: Sequence[Tensor], rows: int) -> Tensor:
        """(S, heads, L, D) for each group as `rows` rows again, (B, heads, T, D)."""
        heads, D = groups[0].size(1), groups[0].size(3)
        y = torch.cat([group.transpose(1, 2).reshape(-1, heads, D) for group in groups])
        together: Tensor = PutBack.apply(y, self.back)
        return together.view(rows, -1, heads, D).transpose(1, 2)


def apart(segments: Tensor) -> Apart | None:
    """How to take apart rows whose `segments` (B, T) are runs of equal numbers; None where that saves too little."""
    (B, T), device = segments.shape, segments.device
    opens = torch.ones_like(segments, dtype=torch.bool)
    opens[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = opens.flatten().nonzero().squeeze(1)  # (S,) over all groups
    sizes = torch.diff(starts, append=starts.new_tensor([B * T]))
    lengths = lengths_for(sizes)
    groups = [(S, L) for S, L in zip(*(t.tolist() for t in reversed(lengths.unique(return_counts=True))), strict=True)]
    if sum(S * L**2 for S, L in groups) > WORTH * B * T**2:
        return None
    order = lengths.argsort(stable=True)  # short ones first, as `unique` has them
    begins = torch.empty_like(starts)  # where each segment goes
    begins[order] = lengths[order].cumsum(0) - lengths[order]
    number = opens.flatten().cumsum(0) - 1  # (B * T,) of its segment
    token = torch.arange(B * T, device=device)
    back = begins[number] + token - starts[number]
    places = torch.zeros(int(lengths.sum()), dtype=torch.long, device=device).index_copy_(0, back, token)
    return Apart(places, back, groups)


def lengths_for(sizes: Tensor) -> Tensor:
    """What segments of `sizes` (S,) are filled up to: the longest, or the half, a quarter … of it, in whole STEPs."""
    length = -(-int(sizes.max()) // STEP) * STEP
    lengths = torch.full_like(sizes, length)
    while length > STEP:
        length = -(-length // (2 * STEP)) * STEP
        lengths[sizes <= length] = length
    return lengths


class Take(torch.autograd.Function):
    """x[places]. Of what stands after the end of a segment nothing comes, so that its gradient is nothing."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, places: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyrefly: ignore[bad-override]
        (back,) = ctx.saved_tensors
        return gradient.index_select(0, back), None, None


class PutBack(torch.autograd.Function):
    """y[back], in which each place stands once at most."""

    @staticmethod
    def forward(ctx: FunctionCtx, y: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.places = len(y)  # pyrefly: ignore[missing-attribute]
        return y.index_select(0, back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyrefly: ignore[bad-override]
        (back,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.places, *gradient.shape[1:]).index_copy_(0, back, gradient), None
