"""Loss, perplexity and bits per byte on a fixed set of targets, each predicted once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primegpt.data.batching.batches import Batch
from primegpt.data.batching.examples import padded
from primegpt.model.gpt import GPT

Figures = dict[str, tuple[Tensor | float, float]]
"""Named numbers that are measured beside a loss, each a sum and how many it is of: pairs, tokens, completions."""


def add_figures(total: Figures, more: Figures) -> None:
    """Add `more` to `total`, name by name."""
    for name, (value, count) in more.items():
        before = total.get(name, (0.0, 0.0))
        total[name] = before[0] + value, before[1] + count


def means(figures: Figures) -> dict[str, float]:
    return {name: float(value) / count for name, (value, count) in figures.items() if count}


def cross_entropy(model: GPT, batch: Batch) -> tuple[Tensor, Tensor, Figures]:
    """-log p of the supervised targets, summed, and how many they are."""
    loss, count = model(batch.ids, positions=batch.positions, segments=batch.segments, targets=batch.targets)
    return loss, count, {}


@dataclass(frozen=True)
class LossResult:
    """The summed cross-entropy in nats of `targets` tokens that stand for `text_bytes` bytes of text.

    Of another objective: the sum of what it minimises, over as many pairs or completions.
    """

    total: float
    targets: int
    text_bytes: float = 0.0
    figures: Figures = field(default_factory=dict)

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


@dataclass
class EvaluationSet:
    """A fixed list of batches and the bytes of text that their targets stand for."""

    batches: Sequence[Batch]
    text_bytes: float
    part: "EvaluationSet | None" = None
    """Some of it, which early evaluations read."""


@torch.inference_mode()
def evaluate_loss(
    model: GPT,
    batches: Iterable[Batch],
    *,
    objective: Callable[[GPT, Batch], tuple[Tensor, Tensor | int, Figures]] = cross_entropy,
    text_bytes: float = 0.0,
    device: str = "cpu",
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    poll: Callable[[], None] = lambda: None,
) -> LossResult:
    """Sum the loss over `batches` with dropout off, and leave the model in the mode it was in.

    Nothing random is drawn, so evaluating more often changes nothing else. `poll` is called between batches and may
    raise to stop.
    """
    was_training = model.training
    model.eval()
    try:
        total, targets, figures = 0.0, 0, Figures()
        for batch in batches:
            poll()
            batch = batch.to(device)
            with autocast():
                loss, count, measured = objective(model, batch)
            total += loss.item()
            targets += int(count)
            add_figures(figures, measured)
    finally:
        model.train(was_training)
    return LossResult(total, targets, text_bytes, figures)


def sliding_windows(
    documents: Iterable[npt.NDArray[np.integer]], *, length: int, batch_size: int, stride: int | None = None
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
        yield padded([(window, np.arange(len(window)) > counted) for window, counted in batch], first)
        first += len(batch)


Row = tuple[npt.NDArray[np.integer], int]  # the ids of a window with the last target, and how many targets do not count


def _windows(document: npt.NDArray[np.integer], length: int, stride: int) -> Iterator[Row]:
    n_targets = len(document) - 1
    start, done = 0, 0
    while done < n_targets:
        window = document[start : start + length + 1]
        yield window, done - start
        done = start + len(window) - 1
        start += stride
