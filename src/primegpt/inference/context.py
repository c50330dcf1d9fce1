"""Texts that are being written: what the model sees of each, its logits after it (from a cache, or anew), and the text
so far, in pieces that never split a character and end at a stop string.
"""

import codecs
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from primegpt import notebook
from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT
from primegpt.tokenizers.base import Tokenizer


class Row:
    """A text being written: `ids` (the prompt and what was added), and the end of them that the model sees.

    The model sees at most `block_size` tokens. When one more is added, only the last half of the block is kept: the
    next half can then be written from the cache, where dropping the oldest token each time would move every position
    and so compute the whole context again for each token. A prompt that is too long is cut by the same rule. The rule
    looks at one row alone, so a text does not depend on the batch that it is written in.
    """

    def __init__(self, prompt: Sequence[int], block_size: int, random: Random | None = None) -> None:
        self.ids = list(prompt)
        self.prompt_length = len(self.ids)
        self.block_size = block_size
        self.random = random or Random(0)
        self.start = 0  # of what the model sees
        self.finish_reason: Literal["stop", "length"] | None = None
        self.stop_id: int | None = None
        self.logprobs: list[float] = []
        self.slide()

    def slide(self) -> None:
        """Keep what the model sees within its block."""
        if self.seen > self.block_size:
            self.start = len(self.ids) - self.block_size // 2

    @property
    def seen(self) -> int:
        """How many tokens the model sees."""
        return len(self.ids) - self.start

    @property
    def window(self) -> list[int]:
        """The tokens that the model sees."""
        return self.ids[self.start :]

    @property
    def added(self) -> list[int]:
        """What was written after the prompt."""
        return self.ids[self.prompt_length :]

    def add(self, id: int, stop_ids: frozenset[int], max_new_tokens: int) -> None:
        """Append `id`, or finish: at a stop id, which is not appended, or when this was the last token allowed."""
        if id in stop_ids:
            self.finish_reason, self.stop_id = "stop", id
            return
        self.ids.append(id)
        self.slide()
        if len(self.ids) - self.prompt_length >= max_new_tokens:
            self.finish_reason = "length"

    def branch(self, id: int) -> "Row":
        """A row of its own with `id` after this one's, for beam search."""
        other = copy(self)
        other.ids = [*self.ids, id]
        other.slide()
        return other


@dataclass(frozen=True)
class Completion:
    """One continuation. `ids` and `text` are what was added to the prompt, without the id that stopped it.

    With a stop string, `text` ends before it, and `ids` with the token that completed it. `logprobs` are the model's
    own log-probabilities of `ids`, before any rule, where they were asked for.
    """

    prompt_ids: list[int]
    ids: list[int]
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: list[float] | None = None
    score: float | None = None  # of beam search
    pieces: list[str] | None = None
    """With `logprobs`: `text` by the token. Of a character that takes several, all is with the last of them."""

    def _repr_html_(self) -> str:
        """In a notebook: the text, warm where a token was unlikely."""
        return notebook.completion(self.text, self.pieces, self.logprobs, self.finish_reason)


class Context(Protocol):
    """How the logits after each row's window come about: from a cache, or from the whole window anew."""

    def next_logits(self, rows: Sequence[Row]) -> Tensor:
        """Logits (B, V) of the token after each row."""
        ...

    def select(self, indices: Sequence[int]) -> None:
        """Only these rows go on."""
        ...


class CachedContext:
    """Computes each token once. The cache of a row holds its window but for the last token."""

    def __init__(self, model: GPT, rows: Sequence[Row], max_new_tokens: int, dtype: torch.dtype) -> None:
        self.model, self.dtype, self.device = model, dtype, model.device
        longest = max(row.seen for row in rows) + max_new_tokens - 1  # the last token is never read
        # One more than is used: keys of a whole room have other strides, for which steps would be compiled anew.
        self.cache = self.room(len(rows), min(longest, model.config.block_size) + 1)

    @classmethod
    def with_slots(cls, model: GPT, slots: int, dtype: torch.dtype) -> Self:
        """Without a row as yet, and with room for `slots` of any length, which `join` and leave as they like."""
        whole_block = [Row([0], model.config.block_size)] * slots
        context = cls(model, whole_block, model.config.block_size, dtype)
        context.select([])
        return context

    def join(self) -> None:
        """One more row, the last, will be asked for; it is read when its logits are."""
        self.cache.join()

    def room(self, rows: int, tokens: int) -> KVCache:
        return KVCache(self.model.config, rows, tokens, self.dtype, self.device)

    def next_logits(self, rows: Sequence[Row]) -> Tensor:
        behind = [b for b, row in enumerate(rows) if self.cache.lengths[b] != row.seen - 1]
        if behind:  # at the start, and when a window has slid
            self.prefill(behind, [rows[b] for b in behind])
        last = torch.tensor([row.ids[-1:] for row in rows], device=self.device)  # (B, 1)
        return self.model(last, cache=self.cache, logits_for="last")[:, -1]

    def prefill(self, indices: Sequence[int], rows: Sequence[Row]) -> None:
        """Put the windows of `rows` into the cache rows `indices`; equal ones (samples of one prompt) are read once."""
        windows = [tuple(row.window[:-1]) for row in rows]
        different = dict(zip(windows, rows, strict=True))
        T = max(map(len, windows))
        if T:
            fresh, order = self.read(different), {window: n for n, window in enumerate(different)}
            source = torch.tensor([order[window] for window in windows], device=self.device)
            target = torch.tensor(indices, device=self.device)
            self.cache.k[:, target, :, :T] = fresh.k[:, source]
            self.cache.v[:, target, :, :T] = fresh.v[:, source]
        for b, window in zip(indices, windows, strict=True):
            self.cache.lengths[b] = len(window)  # the true one: padding after it is not seen

    def read(self, windows: Mapping[tuple[int, ...], Row]) -> KVCache:
        """A cache with a row for each window, all read in one pass; what follows a short one is padding."""
        ids = padded(list(windows), self.device)  # (N, T)
        fresh = self.room(*ids.shape)
        self.model(ids, cache=fresh, logits_for="last")
        return fresh

    def select(self, indices: Sequence[int]) -> None:
        self.cache.select(indices)


class UncachedContext:
    """Computes every window anew for each token: slow and plain, the reference for `CachedContext`."""

    def __init__(self, model: GPT) -> None:
        self.model, self.device = model, model.device

    def next_logits(self, rows: Sequence[Row]) -> Tensor:
        last = torch.tensor([row.seen - 1 for row in rows], device=self.device)
        return self.model(padded([row.window for row in rows], self.device), logits_for=last)[:, -1]

    def select(self, indices: Sequence[int]) -> None:
        pass  # nothing is kept between tokens


def padded(windows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """`windows` as one tensor (N, T), short ones filled up on the right, where causal attention never looks."""
    T = max(map(len, windows))
    rows = [[*window, *[0] * (T - len(window))] for window in windows]
    return torch.tensor(rows, dtype=torch.long, device=device)


@contextmanager
def inference(model: GPT) -> Generator[None]:
    """No gradients and no dropout inside; training mode returns afterwards.

    Entered for each step, not around a loop that yields: what reads a stream may train in between.
    """
    training = model.training
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()


class TextStream:
    """Turns ids into text one by one. A token may end inside a character; its bytes then wait for the next.

    >>> text = TextStream(tokenizer)
    >>> "".join([text.push(id) for id in ids]) + text.flush() == tokenizer.decode(ids)
    True

    U+FFFD stands for bytes that no continuation can make a character, and, at the end, for an unfinished one.
    At the first of the `stop` strings the text ends: `stopped` is True and nothing more comes out. What may be the
    beginning of one waits until it is known not to be.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.held = ""
        self.stopped = False

    def push(self, id: int) -> str:
        """The text that is certain once `id` is known; often empty inside a character."""
        return self.release(self.decoder.decode(self.tokenizer.decode_bytes([id])), last=False)

    def flush(self) -> str:
        """What is left at the end of the text; the stream can then be used for another one."""
        rest = self.release(self.decoder.decode(b"", final=True), last=True)
        self.stopped = False
        return rest

    def release(self, new: str, last: bool) -> str:
        """The part of what is held and `new` that no stop string can touch any more."""
        if self.stopped:
            return ""
        text, self.held = self.held + new, ""
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        if last or not self.stop:
            return text
        end = len(text) - max(overlap(text, stop) for stop in self.stop)
        self.held = text[end:]
        return text[:end]


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[str] | None:
    """`text` cut where the tokens of `ids` end; None where they spell something else.

    A text that ends before a stop string leaves nothing for the tokens after it.
    """
    stream = TextStream(tokenizer)
    pieces = [stream.push(id) for id in ids]
    if not pieces or not (whole := "".join(pieces) + stream.flush()).startswith(text):
        return None
    ends = [min(len(text), end) for end in accumulate(map(len, pieces))]
    ends[-1] = min(len(text), len(whole))
    return [text[start:end] for start, end in pairwise([0, *ends])]


class Offsets:
    """Where each token of a text begins, in characters; inside a character, at that character.

    Below 0 in the `space` that the tokenizer puts before the text.
    """

    def __init__(self, tokenizer: Tokenizer, space: int = 0) -> None:
        self.text, self.length = TextStream(tokenizer), -space

    def next(self, id: int) -> int:
        at = self.length
        self.length += len(self.text.push(id))
        return at
