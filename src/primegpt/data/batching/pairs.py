"""Pairs of answers as a source of batches: a row is a pair, and so a micro-batch is divided between pairs alone.

`ids` and `targets` are of the chosen answers; the extras `rejected_ids` and `rejected_targets`, as wide, are of the
rejected ones, with the same prompt before them. What a frozen model says of the answers, `reference_chosen` and
`reference_rejected`, comes from `Shards.reference`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primegpt.data.batching.batches import Batch
from primegpt.data.batching.examples import Examples, padded, validation_records
from primegpt.data.preparing.shards import CONTEXT, REJECTED, SUPERVISED, Shards

Integers = npt.NDArray[np.int64]


class PairSource(Examples):
    """The shuffled pairs of a split; those whose longer answers are of like length go together."""

    def __init__(self, shards: Shards, *, rows_per_step: int, seed: int, lengths: Sequence[int] = ()) -> None:
        longest = row_lengths(shards)
        super().__init__(shards, rows_per_step=rows_per_step, seed=seed, lengths=lengths, row_lengths=longest)

    def assemble(self, examples: Integers) -> Batch:
        """The pairs of `examples`, (B,), as one batch."""
        records = [self._visit(example)[1] for example in examples.tolist()]
        return batch_of_pairs(self.shards, records, int(examples[0]), self.lengths)


def validation_pairs(
    shards: Shards, *, batch_size: int, max_targets: int | None = None, lengths: Sequence[int] = ()
) -> Iterator[Batch]:
    """Every pair once, in order; or so many, spread evenly, as have about `max_targets` tokens in chosen answers."""
    records = validation_records(shards, max_targets)
    for first in range(0, len(records), batch_size):
        yield batch_of_pairs(shards, records[first : first + batch_size].tolist(), first, lengths)


def batch_of_pairs(shards: Shards, records: Sequence[int], first_example: int, lengths: Sequence[int] = ()) -> Batch:
    """The pairs `records` as one batch (B, T). While there is no reference, as when steps are timed, it says 0."""
    rows = [rows_of_pair(shards, record) for record in records]
    both = padded([chosen for chosen, _ in rows] + [rejected for _, rejected in rows], first_example, lengths)
    B = len(records)
    known = np.zeros((B, 2), np.float32) if shards.reference is None else shards.reference[list(records)]
    batch = Batch(both.ids[:B], both.targets[:B], None, None, first_example)
    return as_pairs(batch, both.ids[B:], both.targets[B:], torch.from_numpy(known))


def as_pairs(batch: Batch, ids: Tensor, targets: Tensor, reference: Tensor | None = None) -> Batch:
    """`batch` with rejected answers, (B, T) each, and the reference's log-probabilities (B, 2), 0 if not given."""
    reference = torch.zeros(len(ids), 2) if reference is None else reference
    chosen, rejected = reference.unbind(1)
    extras = {"rejected_ids": ids, "rejected_targets": targets}
    return replace(batch, extras=extras | {"reference_chosen": chosen, "reference_rejected": rejected})


def rows_of_pair(shards: Shards, record: int) -> list[tuple[npt.NDArray, npt.NDArray[np.bool_]]]:
    """Of the chosen and of the rejected answer, each after the prompt: ids, and which of them are asked for."""
    start, stop = shards.document(record)
    ids, roles = shards.slice(start, stop), shards.roles(start, stop)
    kept = [(roles == CONTEXT) | (roles == answer) for answer in (SUPERVISED, REJECTED)]
    return [(ids[row], roles[row] != CONTEXT) for row in kept]


def row_lengths(shards: Shards) -> Integers:
    """Tokens of the row of each record, (n_documents,); of a pair, of the longer one of its two."""
    whole = np.diff(np.append(shards.document_starts, len(shards)))
    if not shards.has_pairs:
        return whole
    roles = shards.roles(0, len(shards))
    chosen, rejected = (
        np.add.reduceat((roles == role).astype(np.int64), shards.document_starts) for role in (SUPERVISED, REJECTED)
    )
    return whole - np.minimum(chosen, rejected)
