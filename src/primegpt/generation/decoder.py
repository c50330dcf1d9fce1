"""The decode loop: prompt → tokens → logits → rules → token, again and again, → text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from torch import Tensor

from primegpt.config import GenerateConfig
from primegpt.errors import MismatchError, NonFiniteError, UsageError
from primegpt.generation.context import CachedContext, Context, Row, UncachedContext
from primegpt.generation.logits import choose
from primegpt.generation.stream import TextStream
from primegpt.model.gpt import GPT
from primegpt.seeds import derive_seed
from primegpt.tokenizers.base import Tokenizer

WRITABLE_KINDS = ("structure",)  # special tokens of these kinds are part of a text; of any other they never are
STOP_TOKENS = (
    "</song>",
    "</response>",
    "</turn>",
    "<EOS>",
)  # they end a text where the tokenizer has them, beside its own end of text


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


class Decoder:
    """Writes rows of tokens side by side, wherever the model is and in its dtype.

    `use_cache=False` is for tests: the same text, slowly. Raises MismatchError when the tokenizer has ids that the
    model lacks.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, *, use_cache: bool = True) -> None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise MismatchError(
                f"the tokenizer has {tokenizer.vocab_size} ids, the model {model.config.vocab_size}",
                "use the tokenizer that the model was trained with",
            )
        self.model, self.tokenizer, self.use_cache = model, tokenizer, use_cache
        self.device = model.wte.weight.device
        specials = tokenizer.special_tokens
        self.stop_ids = frozenset({tokenizer.eot_id, *(specials[name] for name in STOP_TOKENS if name in specials)})
        self.banned = torch.tensor(sorted(self.unwritable() - self.stop_ids), dtype=torch.long, device=self.device)

    def unwritable(self) -> set[int]:
        """Ids that are no text: special tokens of all kinds but those of `WRITABLE_KINDS` (padding, unknown and
        beginning of text among them), and rows of the model that no token uses."""
        kinds = self.tokenizer.special_kinds
        names = [name for kind, names in kinds.items() if kind not in WRITABLE_KINDS for name in names]
        return {
            *(self.tokenizer.special_tokens[name] for name in names),
            *range(self.tokenizer.vocab_size, self.model.config.vocab_size),
        }

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

    def completion(self, row: Row, text: str | None = None, logprobs: bool = False) -> Completion:
        """A finished row; its `text` where that is not simply the decoding of its ids."""
        assert row.finish_reason, "the row is still being written"
        prompt = row.ids[: row.prompt_length]
        text = self.tokenizer.decode(row.added) if text is None else text
        return Completion(prompt, row.added, text, row.finish_reason, row.logprobs if logprobs else None)

    def pieces(
        self, rows: Sequence[Row], settings: GenerateConfig, logprobs: bool = False
    ) -> Iterator[tuple[Row, str]]:
        """Write `rows` to their ends; each row's text as it becomes certain, the last piece of each at its end."""
        texts = {id(row): TextStream(self.tokenizer, settings.stop_strings) for row in rows}
        for written in self.decode_loop(rows, settings, logprobs):
            for row in written:
                text = texts[id(row)]
                piece = text.push(row.ids[-1])
                if text.stopped:
                    row.finish_reason = "stop"
                yield row, piece
        for row in rows:
            yield row, texts[id(row)].flush()

    def decode_loop(self, rows: Sequence[Row], settings: GenerateConfig, logprobs: bool = False) -> Iterator[list[Row]]:
        """Write `rows` to their ends; after each step, yields those that got a token (`row.ids[-1]`).

        The reader may end a row early by setting its `finish_reason`.
        """
        if not rows:
            return
        context, trigger = self.context(rows, settings), self.trigger(settings)
        while rows:
            temperatures = None if trigger is None else [decayed(settings, row, trigger) for row in rows]
            for row, id in zip(rows, self.next_ids(context, rows, settings, temperatures, logprobs), strict=True):
                row.add(id, self.stop_ids, settings.max_new_tokens)
            yield [row for row in rows if row.finish_reason != "stop"]
            going = [b for b, row in enumerate(rows) if row.finish_reason is None]
            if 0 < len(going) < len(rows):
                context.select(going)
            rows = [rows[b] for b in going]

    def context(self, rows: Sequence[Row], settings: GenerateConfig) -> Context:
        if not self.use_cache:
            return UncachedContext(self.model)
        return CachedContext(self.model, rows, settings.max_new_tokens, self.model.wte.weight.dtype)

    def trigger(self, settings: GenerateConfig) -> int | None:
        """The id behind which the temperature decays, where that is asked for and the tokenizer has it."""
        name = settings.decay_trigger
        if settings.temperature == 0 or settings.temperature_decay == 1 or not name:
            return None
        if name in self.tokenizer.special_tokens:
            return self.tokenizer.special_tokens[name]
        ids = self.tokenizer.encode(name)  # any other token will do too
        return ids[0] if len(ids) == 1 and ids[0] not in self.banned else None

    def next_ids(
        self,
        context: Context,
        rows: Sequence[Row],
        settings: GenerateConfig,
        temperatures: Sequence[float] | None = None,
        logprobs: bool = False,
    ) -> list[int]:
        """One step: the next id of each row. Raises NonFiniteError when the logits are not numbers."""
        with inference(self.model):
            logits = self.next_logits(context, rows)
            ids = self.pick(logits, rows, settings, temperatures)
            if logprobs:
                own = logits.float().log_softmax(dim=-1).gather(-1, ids.to(logits.device).unsqueeze(-1)).squeeze(-1)
                for row, id, value in zip(rows, ids.tolist(), own.tolist(), strict=True):
                    row.logprobs += [] if id in self.stop_ids else [value]
            return ids.tolist()

    def pick(
        self,
        logits: Tensor,
        rows: Sequence[Row],
        settings: GenerateConfig,
        temperatures: Sequence[float] | None = None,
    ) -> Tensor:
        """The ids (B,) that follow `rows`, by the rules of `settings` from their `logits` (B, V)."""
        # Python promises that `Random.random()` keeps its sequence in every version.
        uniforms = torch.tensor([row.random.random() for row in rows], dtype=torch.float64)
        decayed = None if temperatures is None else logits.new_tensor(temperatures, dtype=torch.float32)[:, None]
        return choose(logits, settings, uniforms, self.banned, self.text_so_far(rows, settings), decayed)

    def next_logits(self, context: Context, rows: Sequence[Row]) -> Tensor:
        """The model's logits (B, V) behind `rows`. Raises NonFiniteError when they are not numbers."""
        logits = context.next_logits(rows)
        if not logits.sum(dim=-1, dtype=torch.float32).isfinite().all():
            raise NonFiniteError("the model's logits are not finite numbers", "use an earlier checkpoint")
        return logits

    def text_so_far(self, rows: Sequence[Row], settings: GenerateConfig) -> Tensor | None:
        """The ids of each row, (B, L), for the repetition penalty; a short row repeats its first."""
        if settings.repetition_penalty == 1:
            return None
        L = max(len(row.ids) for row in rows)
        return torch.tensor([row.ids + row.ids[:1] * (L - len(row.ids)) for row in rows], device=self.device)


def decayed(settings: GenerateConfig, row: Row, trigger: int) -> float:
    """The temperature of the next token: behind the first `trigger` it falls by a factor a written token."""
    if trigger not in row.ids:
        return settings.temperature
    behind = len(row.ids) - max(row.ids.index(trigger), row.prompt_length - 1)  # 1 for the first token behind it
    lowest = min(settings.temperature, settings.temperature_floor)
    return max(lowest, settings.temperature * settings.temperature_decay**behind)


@contextmanager
def inference(model: GPT) -> Iterator[None]:
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
