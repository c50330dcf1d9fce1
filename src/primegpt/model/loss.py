"""The objective: summed cross-entropy in fp32 over supervised targets."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

IGNORED = -100  # a target that does not count

# Above this many logits at once (0.5 GB in fp32) the head runs in slices whose logits are recomputed in the backward
# pass: a third more work in the head alone, and a long batch with GPT-2's vocabulary fits.
MAX_LOGITS = 1 << 27


def summed_cross_entropy(
    hidden: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor], vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Sum of -log p(target) and the number of targets that count, both scalars.

    The sum, not a mean: a mean over one micro-batch would weigh its tokens by how many others it happens to hold.
    `hidden` (B, T, C), `targets` (B, T) with -100 where ignored; `logits` maps (N, C) to (N, V).
    """
    hidden, targets = hidden.flatten(0, 1), targets.flatten()  # (B * T, C), (B * T,)

    def loss(rows: Tensor, answers: Tensor) -> Tensor:
        return F.cross_entropy(logits(rows).float(), answers, ignore_index=IGNORED, reduction="sum")

    size = max(1, MAX_LOGITS // vocab_size)
    if len(targets) <= size:
        total = loss(hidden, targets)
    else:
        slices = zip(hidden.split(size), targets.split(size), strict=True)
        total = sum(
            (checkpoint(loss, *part, use_reentrant=False) for part in slices), hidden.new_zeros((), dtype=torch.float32)
        )
    return total, (targets != IGNORED).sum()
