"""Several records in one row: a micro-batch without its padding, for the same loss and gradients.

    one record a row        one row of all records
    a a a a a a . .         a a a a a a b b b c c c c c c c c .
    b b b . . . . .
    c c c c c c c c         segments 0 … 1 … 2 …, positions from 0 in each of them

Attention stays inside a segment, so that each record is read as if it were alone. What comes after the last target of a
record is left out: nobody asks for it, and nothing that is asked for sees it.
"""

from collections.abc import Sequence

import torch

from primegpt.data.batching.batches import Batch
from primegpt.model.loss import IGNORED

WORTH = 0.9  # of the tokens of a micro-batch that may be left, for it to be packed: taking records apart costs time


def packed(batch: Batch, lengths: Sequence[int]) -> Batch:
    """The records of `batch`, (B, T), in one row (1, N), N the next of `lengths`, ascending; or `batch` as it is.

    It stays so without `lengths`, where that saves too little, and where an objective needs more than ids and targets.
    """
    kept = needed_lengths(batch)
    total, n = int(kept.sum()), next((length for length in lengths if length >= kept.sum()), batch.ids.numel())
    if not lengths or not total or n > WORTH * batch.ids.numel() or batch.segments is not None or batch.extras:
        return batch
    B, T = batch.ids.shape
    rest, longest = torch.arange(n - total), int(kept.max())
    inside = torch.arange(T) < kept[:, None]  # (B, T)
    segments, positions = torch.arange(B)[:, None].expand(B, T)[inside], torch.arange(T).expand(B, T)[inside]
    return Batch(
        torch.cat((batch.ids[inside], torch.zeros_like(rest)))[None],
        torch.cat((batch.targets[inside], torch.full_like(rest, IGNORED)))[None],
        torch.cat((segments, B + rest // longest))[None],  # what fills the row up is no longer than a record
        torch.cat((positions, rest % longest))[None],
        batch.first_example,
    )


def needed_lengths(batch: Batch) -> torch.Tensor:
    """Tokens of each row up to the last that a target follows, (B,)."""
    asked = batch.targets != IGNORED
    return (asked * torch.arange(1, asked.size(1) + 1)).amax(dim=1)
