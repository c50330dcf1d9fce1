"""Loss, perplexity and bits per byte on a fixed set of targets, each predicted once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from primegpt.data.batches import IGNORED, Batch
from primegpt.model.gpt import GPT


@dataclass(frozen=True)
class LossResult:
    """The summed cross-entropy in nats of `targets` tokens that stand for `text_bytes` bytes of text."""

    total: float
    targets: int
    text_bytes: float = 0.0

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.total / max(1, self.targets)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers, as a loss per token is not."""
        return self.total / math.log(2) / max(1.0, self.text_bytes)


@torch.inference_mode()
def evaluate_loss(
    model: GPT,
    batches: Iterable[Batch],
    *,
    text_bytes: float = 0.0,
    device: str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    poll: Callable[[], None] = lambda: None,
) -> LossResult:
    """Sum the loss over `batches` with dropout off, and leave the model in the mode it was in.

    Nothing random is drawn, so evaluating more often changes nothing else. `poll` is called between batches and may
    raise to stop.
    """
    was_training = model.training
    model.eval()
    try:
        total, targets = 0.0, 0
        for batch in batches:
            poll()
            batch = batch.to(device)
            with autocast():
                loss, count = model(
                    batch.ids, positions=batch.positions, segments=batch.segments, targets=batch.targets
                )
            total += loss.item()
            targets += int(count)
    finally:
        model.train(was_training)
    return LossResult(total, targets, text_bytes)


def sliding_windows(
    documents: Iterable[npt.NDArray[Any]], *, length: int, batch_size: int, stride: int | None = None
) -> Iterator[Batch]:
    """Windows of at most `length` targets that ask for every token of each document once, but for its first.

    Each document is a row of ids (N,) that the end-of-text id opens, and is read by itself. Windows start every
    `stride` tokens (`length` when None, side by side). Where they overlap, a window is asked only for what the one
    before it was not, so that all but the first targets have `length - stride` tokens of context or more: a lower
    loss for more computation. A document of one token has no target.
    """
    stride = stride or length
    assert 1 <= stride <= length
    rows = (row for document in documents for row in _windows(document, length, stride))
    first = 0
    while batch := list(islice(rows, batch_size)):
        yield _padded(batch, first)
        first += len(batch)


Row = tuple[npt.NDArray[Any], int]  # the ids of a window with the last target, and how many targets do not count


def _windows(document: npt.NDArray[Any], length: int, stride: int) -> Iterator[Row]:
    n_targets = len(document) - 1
    start, done = 0, 0
    while done < n_targets:
        window = document[start : start + length + 1]
        yield window, done - start
        done = start + len(window) - 1
        start += stride


def _padded(rows: Sequence[Row], first_example: int) -> Batch:
    """Rows as one batch, short ones filled up on the right, where causal attention never looks."""
    longest = max(len(window) for window, _ in rows) - 1
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    targets = torch.full_like(ids, IGNORED)
    for b, (window, counted) in enumerate(rows):
        tokens = torch.from_numpy(window.astype(np.int64))
        ids[b, : len(window) - 1] = tokens[:-1]
        targets[b, counted : len(window) - 1] = tokens[1 + counted :]
    return Batch(ids, targets, None, None, first_example)
