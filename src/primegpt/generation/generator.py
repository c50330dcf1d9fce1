"""The decode loop: prompt → tokens → logits → rules → token, again and again, → text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

import torch
from torch import Tensor

from primegpt.config import GenerateConfig
from primegpt.errors import MismatchError, NonFiniteError, UsageError
from primegpt.generation.logits import choose
from primegpt.generation.stream import TextStream
from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT
from primegpt.seeds import derive_seed
from primegpt.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Completion:
    """One continuation. `ids` and `text` are what was added to the prompt, without the id that stopped it."""

    prompt_ids: list[int]
    ids: list[int]
    text: str
    finish_reason: Literal["stop", "length"]


class Row:
    """A text being written: `ids` (the prompt and what was added), and the end of them that the model sees.

    The model sees at most `block_size` tokens. When one more is added, only the last half of the block is kept: the
    next half can then be written from the cache, where dropping the oldest token each time would move every position
    and so compute the whole context again for each token. A prompt that is too long is cut by the same rule. The rule
    looks at one row alone, so a text does not depend on the batch that it is written in.
    """

    def __init__(self, prompt: Sequence[int], block_size: int, random: Random) -> None:
        self.ids = list(prompt)
        self.prompt_length = len(self.ids)
        self.block_size = block_size
        self.random = random
        self.start = 0  # of what the model sees
        self.finish_reason: Literal["stop", "length"] | None = None
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
        """What was written behind the prompt."""
        return self.ids[self.prompt_length :]

    def add(self, id: int, stop_ids: frozenset[int], max_new_tokens: int) -> None:
        """Append `id`, or finish: at a stop id, which is not appended, or when this was the last token allowed."""
        if id in stop_ids:
            self.finish_reason = "stop"
            return
        self.ids.append(id)
        self.slide()
        if len(self.ids) - self.prompt_length >= max_new_tokens:
            self.finish_reason = "length"


class Context(Protocol):
    """How the logits behind each row's window come about: from a cache, or from the whole window anew."""

    def next_logits(self, rows: Sequence[Row]) -> Tensor:
        """Logits (B, V) of the token after each row."""
        ...

    def select(self, indices: Sequence[int]) -> None:
        """Only these rows go on."""
        ...


class CachedContext:
    """Computes each token once. The cache of a row holds its window but for the last token."""

    def __init__(self, model: GPT, rows: Sequence[Row], max_new_tokens: int, dtype: torch.dtype) -> None:
        self.model, self.dtype, self.device = model, dtype, model.wte.weight.device
        longest = max(row.seen for row in rows) + max_new_tokens - 1  # the last token is never read
        self.cache = self.room(len(rows), min(longest, model.config.block_size))

    def room(self, rows: int, tokens: int) -> KVCache:
        return KVCache(self.model.config, rows, tokens, self.dtype, self.device)

    def next_logits(self, rows: Sequence[Row]) -> Tensor:
        behind = [b for b, row in enumerate(rows) if self.cache.lengths[b] != row.seen - 1]
        if behind:  # at the start, and when a window has slid
            self.prefill(behind, [row.window[:-1] for row in (rows[b] for b in behind)])
        last = torch.tensor([row.ids[-1:] for row in rows], device=self.device)  # (B, 1)
        return self.model(last, cache=self.cache, logits_for="last")[:, -1]

    def prefill(self, indices: Sequence[int], windows: Sequence[list[int]]) -> None:
        """Put `windows` into the cache rows `indices`, in one pass; equal windows (samples of one prompt) share it."""
        different = {window: n for n, window in enumerate(dict.fromkeys(map(tuple, windows)))}
        ids = padded(list(different), self.device)  # (N, T)
        T = ids.size(1)
        if T:
            fresh = self.room(len(different), T)
            self.model(ids, cache=fresh, logits_for="last")
            source = torch.tensor([different[tuple(window)] for window in windows], device=self.device)
            target = torch.tensor(indices, device=self.device)
            self.cache.k[:, target, :, :T] = fresh.k[:, source]
            self.cache.v[:, target, :, :T] = fresh.v[:, source]
        for b, window in zip(indices, windows, strict=True):
            self.cache.lengths[b] = len(window)  # the true one: padding behind it is not seen

    def select(self, indices: Sequence[int]) -> None:
        self.cache.select(indices)


class UncachedContext:
    """Computes every window anew for each token: slow and plain, the reference for `CachedContext`."""

    def __init__(self, model: GPT) -> None:
        self.model, self.device = model, model.wte.weight.device

    def next_logits(self, rows: Sequence[Row]) -> Tensor:
        last = torch.tensor([row.seen - 1 for row in rows], device=self.device)
        return self.model(padded([row.window for row in rows], self.device), logits_for=last)[:, -1]

    def select(self, indices: Sequence[int]) -> None:
        pass  # nothing is kept between tokens


class Generator:
    """Writes text with a model and its tokenizer, wherever the model is and in its dtype.

    >>> Generator(model, tokenizer).generate(["ROMEO:"], GenerateConfig(max_new_tokens=100), num_samples=3)

    `autocast` runs each pass in a 16-bit dtype over the weights as they are, as training does; for much text,
    `model.bfloat16()` beforehand is faster. `use_cache=False` is for tests: the same text, slowly.
    Raises MismatchError when the tokenizer has ids that the model lacks.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, *, autocast: torch.dtype | None = None, use_cache: bool = True
    ) -> None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise MismatchError(
                f"the tokenizer has {tokenizer.vocab_size} ids, the model {model.config.vocab_size}",
                "use the tokenizer that the model was trained with",
            )
        self.model, self.tokenizer = model, tokenizer
        self.autocast, self.use_cache = autocast, use_cache
        self.device = model.wte.weight.device
        self.stop_ids = frozenset({tokenizer.eot_id})
        self.banned = torch.tensor(sorted(self.unwritable() - self.stop_ids), dtype=torch.long, device=self.device)

    def unwritable(self) -> set[int]:
        """Ids that are no text: padding, unknown, beginning of text, and rows of the model that no token uses."""
        special = (self.tokenizer.pad_id, self.tokenizer.unk_id, self.tokenizer.bos_id)
        unused = range(self.tokenizer.vocab_size, self.model.config.vocab_size)
        return {id for id in special if id is not None}.union(unused)

    def generate(
        self, prompts: Sequence[str | Sequence[int]], settings: GenerateConfig, *, num_samples: int = 1
    ) -> list[list[Completion]]:
        """`num_samples` continuations of each prompt, written side by side.

        Sample i of a prompt depends on the prompt, the settings and i alone, not on what else is in the batch.
        """
        rows = [[self.row(prompt, settings, i) for i in range(num_samples)] for prompt in prompts]
        for _ in self.decode_loop([row for samples in rows for row in samples], settings):
            pass
        return [[self.completion(row) for row in samples] for samples in rows]

    def stream(self, prompt: str | Sequence[int], settings: GenerateConfig) -> Iterator[str]:
        """The text of `generate([prompt], settings)[0][0]` in pieces, each as soon as it is certain."""
        text = TextStream(self.tokenizer)
        for rows in self.decode_loop([self.row(prompt, settings)], settings):
            if piece := "".join(text.push(row.ids[-1]) for row in rows):
                yield piece
        if piece := text.flush():
            yield piece

    def row(self, prompt: str | Sequence[int], settings: GenerateConfig, sample: int = 0) -> Row:
        """The start of sample number `sample` of a prompt, with a random stream of its own."""
        random = Random(derive_seed(settings.seed, "sample", sample))
        return Row(self.prompt_ids(prompt, settings), self.model.config.block_size, random)

    def prompt_ids(self, prompt: str | Sequence[int], settings: GenerateConfig) -> list[int]:
        """A prompt in ids. Text gets the end-of-text id before it if `settings.start_document`; ids stay as given.

        An empty prompt becomes the end-of-text id, behind which a document begins. Raises UsageError for an id
        outside the vocabulary.
        """
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if bad := [id for id in ids if not 0 <= id < self.tokenizer.vocab_size]:
            raise UsageError(f"the prompt holds the id {bad[0]}; ids run from 0 to {self.tokenizer.vocab_size - 1}")
        if not ids or (settings.start_document and isinstance(prompt, str)):
            ids.insert(0, self.tokenizer.eot_id)
        return ids

    def completion(self, row: Row) -> Completion:
        assert row.finish_reason, "the row is still being written"
        text = self.tokenizer.decode(row.added)
        return Completion(row.ids[: row.prompt_length], row.added, text, row.finish_reason)

    def decode_loop(self, rows: Sequence[Row], settings: GenerateConfig) -> Iterator[list[Row]]:
        """Write `rows` to their ends; after each step, yields those that got a token (`row.ids[-1]`).

        The reader may end a row early by setting its `finish_reason`.
        """
        if not rows:
            return
        context = self.context(rows, settings)
        while rows:
            for row, id in zip(rows, self.next_ids(context, rows, settings), strict=True):
                row.add(id, self.stop_ids, settings.max_new_tokens)
            yield [row for row in rows if row.finish_reason != "stop"]
            going = [b for b, row in enumerate(rows) if row.finish_reason is None]
            if 0 < len(going) < len(rows):
                context.select(going)
            rows = [rows[b] for b in going]

    def context(self, rows: Sequence[Row], settings: GenerateConfig) -> Context:
        if not self.use_cache:
            return UncachedContext(self.model)
        dtype = self.autocast or self.model.wte.weight.dtype
        return CachedContext(self.model, rows, settings.max_new_tokens, dtype)

    def next_ids(self, context: Context, rows: Sequence[Row], settings: GenerateConfig) -> list[int]:
        """One step: the next id of each row. Raises NonFiniteError when the logits are not numbers."""
        # Python promises that `Random.random()` keeps its sequence in every version.
        uniforms = torch.tensor([row.random.random() for row in rows], dtype=torch.float64)
        with inference(self.model, self.autocast):
            logits = context.next_logits(rows)  # (B, V)
            ids = choose(logits, settings, uniforms, self.banned)
            finite = logits.sum(dim=-1, dtype=torch.float32).isfinite().to(ids.device)
            chosen = ids.where(finite, -1).tolist()
        if -1 in chosen:
            raise NonFiniteError("the model's logits are not finite numbers", "use an earlier checkpoint")
        return chosen


def padded(windows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """`windows` as one tensor (N, T), short ones filled up on the right, where causal attention never looks."""
    T = max(map(len, windows))
    rows = [[*window, *[0] * (T - len(window))] for window in windows]
    return torch.tensor(rows, dtype=torch.long, device=device)


@contextmanager
def inference(model: GPT, autocast: torch.dtype | None = None) -> Iterator[None]:
    """No gradients and no dropout inside; training mode returns afterwards.

    Entered for each step, not around a loop that yields: what reads a stream may train in between.
    """
    training = model.training
    if training:
        model.eval()
    try:
        kind = model.wte.weight.device.type
        with torch.inference_mode(), torch.autocast(kind, autocast, enabled=autocast is not None):
            yield
    finally:
        if training:
            model.train()
