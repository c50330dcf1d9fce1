"""Prompts that begin alike (what the system says, a conversation so far) have their common beginning read once.

A prompt is read in portions of 128 tokens, each after what precedes it, and what the last ones gave is kept. Portions
begin at the same places whoever asks and whatever is kept, so that a text is the same bit for bit whether its
beginning was read for it or before. The servers of llama.cpp and vLLM cache prompts to the same end.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from primegpt.inference.context import CachedContext, Row, padded
from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT

PORTION = 128  # tokens; the products of fewer are slower
KEPT = 4  # portions are kept up to as many tokens as so many blocks of the model have


class PortionedContext(CachedContext):
    """The `CachedContext` of a server. What it reads of a prompt it looks for first among what it has read last."""

    def __init__(self, model: GPT, rows: Sequence[Row], max_new_tokens: int, dtype: torch.dtype) -> None:
        super().__init__(model, rows, max_new_tokens, dtype)
        self.portions: OrderedDict[tuple[int, ...], tuple[Tensor, Tensor]] = OrderedDict()
        """By all tokens up to its end: keys and values (L, K, PORTION, D) of a portion; the latest use is last."""

    def read(self, windows: Sequence[tuple[int, ...]]) -> KVCache:
        """A cache with a row for each window: portions one after another, what is left of all windows together."""
        fresh = self.room(len(windows), max(map(len, windows)))
        by_portions: defaultdict[int, list[int]] = defaultdict(list)
        for row, window in enumerate(windows):
            by_portions[len(window) // PORTION * PORTION].append(row)
        for begun, rows in by_portions.items():
            part = self.room(len(rows), max(len(windows[row]) for row in rows))
            for at, row in enumerate(rows):
                self.begin(part, at, windows[row][:begun])
            part.lengths = [begun] * len(rows)
            rest = padded([windows[row][begun:] for row in rows], self.device)
            if rest.size(1):
                self.model(rest, cache=part, logits_for="last")
            end = begun + rest.size(1)
            fresh.k[:, rows, :, :end], fresh.v[:, rows, :, :end] = part.k[..., :end, :], part.v[..., :end, :]
        return fresh

    def begin(self, cache: KVCache, row: int, beginning: tuple[int, ...]) -> None:
        """Put whole portions into a row of `cache`."""
        for start in range(0, len(beginning), PORTION):
            end = start + PORTION
            k, v = self.portion(beginning[:end])
            cache.k[:, row, :, start:end], cache.v[:, row, :, start:end] = k, v

    def portion(self, tokens: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Keys and values of the last portion of `tokens`, kept or read."""
        if tokens not in self.portions:
            before, alone = len(tokens) - PORTION, self.room(1, len(tokens))
            self.begin(alone, 0, tokens[:before])
            alone.lengths = [before]
            self.model(padded([tokens[before:]], self.device), cache=alone, logits_for="last")
            self.portions[tokens] = alone.k[:, 0, :, before:].clone(), alone.v[:, 0, :, before:].clone()
            while len(self.portions) > KEPT * self.model.config.block_size // PORTION:
                self.portions.popitem(last=False)
        self.portions.move_to_end(tokens)
        return self.portions[tokens]
