"""How far a model has gone from another: the KL divergence of the two, over texts that the first one writes.

With p the model and q the other, a text y that p writes to a prompt x diverges by

    sum over t of KL(p(. | x, y before t) || q(. | x, y before t))

whose mean over texts drawn from p is KL(p || q) of whole answers, by the chain rule. It is what is paid for a reward
(Ziegler et al. 2019, arXiv:1909.08593). Each term is the sum over the vocabulary, and not log p - log q of the token
that was drawn, which has the same mean and more variance (Amini et al. 2025, arXiv:2504.10637).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from primegpt.data.batching.batches import IGNORED
from primegpt.data.batching.examples import padded
from primegpt.errors import DataError
from primegpt.evaluation.scoring import LOGITS_AT_ONCE, Ids
from primegpt.inference.context import inference
from primegpt.model.gpt import GPT
from primegpt.seeds import derive_seed

RESAMPLES = 2000


@dataclass(frozen=True)
class Drawn:
    """A text that a model has written, after what stood before it."""

    context: Ids
    ids: Ids
    ended: bool
    """Whether it came to an end by itself, which was drawn like any token."""


@dataclass(frozen=True)
class Divergence:
    """KL(model || other) in nats, of texts that the model has written."""

    per_token: float
    interval: tuple[float, float]
    """95% of `per_token`, by bootstrap over the texts."""
    per_answer: float
    tokens: int
    """That were drawn, ends of texts included."""


def divergence(model: GPT, other: GPT, drawn: Sequence[Drawn], banned: Tensor, seed: int = 0) -> Divergence:
    """How far `model` is from `other` where it has `drawn` texts without the `banned` ids.

    Of a text that goes beyond the smaller block, what is within. Both models have one vocabulary. Raises DataError when
    of no text a token is within.
    """
    found = [each for each in divergences(model, other, drawn, banned) if len(each)]
    if not found:
        raise DataError("no token of these texts is within what both models see", "take shorter prompts")
    sums, sizes = (np.array(each, float) for each in ([each.sum() for each in found], [len(each) for each in found]))
    draw = np.random.default_rng(derive_seed(seed, "bootstrap", "divergence"))
    times = draw.multinomial(len(found), np.full(len(found), 1 / len(found)), RESAMPLES)  # how often each is drawn
    low, high = np.percentile(times @ sums / (times @ sizes), [2.5, 97.5])
    return Divergence(float(sums.sum() / sizes.sum()), (float(low), float(high)), float(sums.mean()), int(sizes.sum()))


def divergences(model: GPT, other: GPT, drawn: Sequence[Drawn], banned: Tensor) -> Iterator[Tensor]:
    """KL(model || other) at each token of each text, (tokens,) in fp32."""
    sees, V = min(model.config.block_size, other.config.block_size), model.config.vocab_size
    allowed = torch.ones(V, dtype=torch.bool, device=banned.device).index_fill(0, banned, False)
    at_once = max(1, LOGITS_AT_ONCE // (sees * V))
    for start in range(0, len(drawn), at_once):
        batch = padded([_row(each, sees) for each in drawn[start : start + at_once]], start).to(model.device.type)
        with inference(model), inference(other):
            p, q = (each(batch.ids)[..., allowed].float().log_softmax(-1) for each in (model, other))  # (B, T, V)
            each = (p.exp() * (p - q)).sum(-1)  # (B, T)
        yield from (values[targets != IGNORED].cpu() for values, targets in zip(each, batch.targets, strict=True))


def _row(drawn: Drawn, sees: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and which of them were drawn; in place of the end stands any id, which is not read."""
    ids = [*drawn.context, *drawn.ids, *([0] if drawn.ended else [])][: sees + 1]
    return np.array(ids), np.arange(len(ids)) >= len(drawn.context)
