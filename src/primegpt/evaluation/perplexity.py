"""Loss, perplexity and bits per byte on a fixed set of targets, each predicted once."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from primegpt.data.batches import Batch
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
