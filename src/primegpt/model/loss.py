"""The cross-entropy of hidden states in fp32, summed or a number a token, with never too many logits at once."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from primegpt.model.size import rows_of_logits

IGNORED = -100  # a target that is not in the loss, as in torch's cross_entropy


def summed_cross_entropy(
    hidden: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor], vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Sum of -log p(target) and the number of targets that count, both scalars.

    The sum, not a mean: a mean over one micro-batch would weigh its tokens by how many others it happens to hold.
    `hidden` (B, T, C), `targets` (B, T) with -100 where ignored; `logits` maps (N, C) to (N, V).
    """
    parts = _cross_entropy(hidden, targets, logits, vocab_size, "sum")
    total = parts[0] if len(parts) == 1 else sum(parts, hidden.new_zeros((), dtype=torch.float32))
    return total, (targets != IGNORED).sum()


def token_log_probabilities(
    hidden: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor], vocab_size: int
) -> Tensor:
    """log p of each target, (B, T) in fp32, 0 where it is ignored. Arguments as for `summed_cross_entropy`."""
    return -torch.cat(_cross_entropy(hidden, targets, logits, vocab_size, "none")).view_as(targets)


def _cross_entropy(
    hidden: Tensor,
    targets: Tensor,
    logits: Callable[[Tensor], Tensor],
    vocab_size: int,
    reduction: Literal["sum", "none"],
) -> list[Tensor]:
    """-log p(target), a scalar or (N,) for each slice of N tokens; one slice unless that would be too many logits."""
    hidden, targets = hidden.flatten(0, 1), targets.flatten()  # (B * T, C), (B * T,)

    def loss(rows: Tensor, answers: Tensor) -> Tensor:
        return F.cross_entropy(logits(rows).float(), answers, ignore_index=IGNORED, reduction=reduction)

    size = rows_of_logits(len(targets), vocab_size)
    if len(targets) <= size:
        return [loss(hidden, targets)]
    slices = zip(hidden.split(size), targets.split(size), strict=True)
    return [checkpoint(loss, *part, use_reentrant=False) for part in slices]
