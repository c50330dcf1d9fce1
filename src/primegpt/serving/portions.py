"""Prompts that begin alike (what the system says, a conversation so far) have what they share read once.

A prompt is read in portions of 128 tokens, each after what precedes it, and the keys and values of the portions used
last are kept. Portions begin at the same places whoever asks and whatever is kept, so that a text is the same bit for
bit whether its beginning was read for it or before. The servers of llama.cpp and vLLM cache prompts to the same end.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from primegpt.inference.context import CachedContext, Row, padded
from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT

PORTION = 128  # tokens; the products of fewer are slower
KEPT = 1 << 28  # bytes

Window = tuple[int, ...]


class PortionedContext(CachedContext):
    """The `CachedContext` of a server. What it is to read it looks for first among what it has read last."""

    def __init__(self, model: GPT, rows: Sequence[Row], max_new_tokens: int, dtype: torch.dtype) -> None:
        super().__init__(model, rows, max_new_tokens, dtype)
        self.portions: OrderedDict[Window, tuple[Tensor, Tensor]] = OrderedDict()
        """By all tokens up to its end: keys and values (L, K, PORTION, D) of a portion; the latest use is last."""
        self.most = KEPT // (2 * self.room(1, PORTION).k.nbytes)

    def unread(self, window: Window) -> int:
        """How many tokens of a window have to be read."""
        ends = range(PORTION, len(window) + 1, PORTION)
        return len(window) - PORTION * sum(window[:end] in self.portions for end in ends)

    def read(self, windows: Mapping[Window, Row]) -> KVCache:
        """A cache with a row for each window: whole portions one by one, what is left of several together."""
        fresh = self.room(len(windows), max(map(len, windows)))
        by_portions: defaultdict[int, list[int]] = defaultdict(list)
        for row, window in enumerate(windows):
            by_portions[len(window) // PORTION * PORTION].append(row)
        whole = list(windows)
        for begun, rows in by_portions.items():
            part = self.room(len(rows), max(len(whole[row]) for row in rows))
            for at, row in enumerate(rows):
                beginning = self.begun(whole[row][:begun], windows[whole[row]])
                part.k[:, at, :, :begun], part.v[:, at, :, :begun] = beginning.k[:, 0], beginning.v[:, 0]
            part.lengths = [begun] * len(rows)
            rest = padded([whole[row][begun:] for row in rows], self.device)
            if rest.size(1):
                self.model(rest, cache=part, logits_for="last")
            end = begun + rest.size(1)
            fresh.k[:, rows, :, :end], fresh.v[:, rows, :, :end] = part.k[..., :end, :], part.v[..., :end, :]
        return fresh

    def begun(self, beginning: Window, row: Row) -> KVCache:
        """A cache of one row that holds `beginning`, whole portions of the window of `row`.

        What only this text has, since it was written or its window has slid, would push out what others ask for.
        """
        cache = self.room(1, len(beginning))
        asked = 0 if row.start else row.prompt_length
        for start in range(0, len(beginning), PORTION):
            end = start + PORTION
            part = cache.k[:, 0, :, start:end], cache.v[:, 0, :, start:end]
            if kept := self.portions.get(beginning[:end]):
                self.portions.move_to_end(beginning[:end])
                part[0].copy_(kept[0])
                part[1].copy_(kept[1])
                continue
            cache.lengths = [start]
            self.model(padded([beginning[start:end]], self.device), cache=cache, logits_for="last")
            if end <= min(asked, self.most // 2 * PORTION):  # of a prompt of any length there is room for others
                self.portions[beginning[:end]] = part[0].clone(), part[1].clone()
                while len(self.portions) > self.most:
                    self.portions.popitem(last=False)
        return cache
