"""The decode loop: prompt → tokens → logits → rules → token, again and again, → text; and beam search.

Beam search finds the likeliest text that a handful of candidates, kept side by side, leads to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from primegpt.config import GenerateConfig
from primegpt.errors import MismatchError, NonFiniteError, UsageError
from primegpt.inference.context import (
    CachedContext,
    Completion,
    Context,
    Row,
    TextStream,
    UncachedContext,
    inference,
    pieces_of,
)
from primegpt.inference.logits import choose, penalised
from primegpt.model.gpt import GPT
from primegpt.seeds import derive_seed
from primegpt.tokenizers.base import Tokenizer

WRITABLE_KINDS = ("structure",)  # special tokens of these kinds are part of a text; of any other they never are
STOP_TOKENS = (
    "</song>",
    "</response>",
    "</turn>",
    "<EOS>",
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>"),  # of other models' chats
)  # they end a text where the tokenizer has them, beside its own end of text


def begins_with(tokenizer: Tokenizer, settings: GenerateConfig) -> int:
    """The id after which a text begins: end of text, or what a model of others, not trained here, knows before it."""
    opening = tokenizer.opening_id if settings.start_document is None else None
    return tokenizer.eot_id if opening is None else opening


def opening(tokenizer: Tokenizer, prompt: str | Sequence[int], settings: GenerateConfig) -> int | None:
    """The id before a prompt that was not asked for: the end of text that begins a document, if the model was
    trained so here (`settings.start_document`), or what another's, not trained here, had before every text."""
    first = begins_with(tokenizer, settings)
    wanted = settings.start_document or first != tokenizer.eot_id
    return first if not prompt or (wanted and isinstance(prompt, str)) else None


class Decoder:
    """Writes text with a model and its tokenizer, wherever the model is and in its dtype.

    >>> Decoder(model, tokenizer).generate(["ROMEO:"], GenerateConfig(max_new_tokens=100), num_samples=3)

    For much text, `primegpt.inference.quantize.for_decoding(model, "bf16")` is the same model, faster.
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
        self.device = model.device
        specials = tokenizer.special_tokens
        self.stop_ids = frozenset({tokenizer.eot_id, *(specials[name] for name in STOP_TOKENS if name in specials)})
        self.banned = torch.tensor(sorted(self.unwritable() - self.stop_ids), dtype=torch.long, device=self.device)
        self.trigger = lru_cache(100)(self._trigger)  # asked for at every token; a server's clients name any

    def unwritable(self) -> set[int]:
        """Ids that are no text: special tokens of all kinds but those of `WRITABLE_KINDS` (padding, unknown and
        beginning of text among them), and rows of the model that no token uses."""
        kinds = self.tokenizer.special_kinds
        names = [name for kind, names in kinds.items() if kind not in WRITABLE_KINDS for name in names]
        return {
            *(self.tokenizer.special_tokens[name] for name in names),
            *range(self.tokenizer.vocab_size, self.model.config.vocab_size),
        }

    # ---- texts

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        settings: GenerateConfig,
        *,
        num_samples: int = 1,
        logprobs: bool = False,
    ) -> list[list[Completion]]:
        """`num_samples` continuations of each prompt, written side by side.

        Sample i of a prompt depends on the prompt, the settings and i alone, not on what else is in the batch. With
        `settings.num_beams` above 1 they are the best texts found by beam search, the best first.
        """
        if settings.num_beams > 1:
            return [beam_search(self, self.encode(prompt, settings), settings, num_samples) for prompt in prompts]
        rows = [[self.row(prompt, settings, i) for i in range(num_samples)] for prompt in prompts]
        texts = {id(row): "" for samples in rows for row in samples}
        for row, piece in self.pieces([row for samples in rows for row in samples], settings, logprobs):
            texts[id(row)] += piece
        return [[self.completion(row, texts[id(row)], logprobs) for row in samples] for samples in rows]

    def stream(self, prompt: str | Sequence[int], settings: GenerateConfig) -> Iterator[str]:
        """The text of `generate([prompt], settings)[0][0]` in pieces, each as soon as it is certain.

        Beam search decides on a text as a whole, so that it comes in one piece.
        """
        return self.write(self.row(prompt, settings), settings)

    def write(self, row: Row, settings: GenerateConfig) -> Iterator[str]:
        """`stream` for a row of `self.row(...)`, whose `added` and `finish_reason` tell more than the text."""
        if settings.num_beams > 1:
            (found,) = beam_search(self, row.ids, settings)
            row.ids, row.finish_reason = [*row.ids, *found.ids], found.finish_reason
            yield found.text
            return
        for _, piece in self.pieces([row], settings):
            if piece:
                yield piece

    def encode(self, prompt: str | Sequence[int], settings: GenerateConfig) -> list[int]:
        """A prompt in ids. Text gets before it what `opening` says; ids stay as given.

        An empty prompt becomes the id after which a text begins. Raises UsageError for an id outside the vocabulary.
        """
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if bad := [id for id in ids if not 0 <= id < self.tokenizer.vocab_size]:
            raise UsageError(f"the prompt holds the id {bad[0]}; ids run from 0 to {self.tokenizer.vocab_size - 1}")
        first = self.opening(prompt, settings)
        return ids if first is None else [first, *ids]

    def opening(self, prompt: str | Sequence[int], settings: GenerateConfig) -> int | None:
        """What stands before a prompt, as the function has it."""
        return opening(self.tokenizer, prompt, settings)

    def row(self, prompt: str | Sequence[int], settings: GenerateConfig, sample: int = 0) -> Row:
        """The start of sample number `sample` of a prompt, with a random stream of its own."""
        random = Random(derive_seed(settings.seed, "sample", sample))
        return Row(self.encode(prompt, settings), self.model.config.block_size, random)

    def completion(self, row: Row, text: str | None = None, logprobs: bool = False) -> Completion:
        """A finished row; its `text` where that is not simply the decoding of its ids."""
        assert row.finish_reason, "the row is still being written"
        prompt = row.ids[: row.prompt_length]
        text = self.tokenizer.decode_within(row.added) if text is None else text
        if not logprobs:
            return Completion(prompt, row.added, text, row.finish_reason)
        pieces = pieces_of(self.tokenizer, row.added, text)
        return Completion(prompt, row.added, text, row.finish_reason, row.logprobs, pieces=pieces)

    # ---- the loop

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
        context = self.context(rows, settings)
        while rows:
            for row, id in zip(rows, self.next_ids(context, rows, settings, logprobs), strict=True):
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

    def next_ids(
        self, context: Context, rows: Sequence[Row], settings: GenerateConfig, logprobs: bool = False
    ) -> list[int]:
        """One step: the next id of each row. Raises NonFiniteError when the logits are not numbers."""
        with inference(self.model):
            logits = self.next_logits(context, rows)
            ids = self.pick(logits, rows, settings)
            if logprobs:
                own = logits.float().log_softmax(dim=-1).gather(-1, ids.to(logits.device).unsqueeze(-1)).squeeze(-1)
                for row, id, value in zip(rows, ids.tolist(), own.tolist(), strict=True):
                    row.logprobs += [] if id in self.stop_ids else [value]
            return ids.tolist()

    def next_logits(self, context: Context, rows: Sequence[Row]) -> Tensor:
        """The model's logits (B, V) after `rows`. Raises NonFiniteError when they are not numbers."""
        logits = context.next_logits(rows)
        if not logits.sum(dim=-1, dtype=torch.float32).isfinite().all():
            raise NonFiniteError("the model's logits are not finite numbers", "use an earlier checkpoint")
        return logits

    def pick(self, logits: Tensor, rows: Sequence[Row], settings: GenerateConfig) -> Tensor:
        """The ids (B,) that follow `rows`, by the rules of `settings` from their `logits` (B, V)."""
        # Python promises that `Random.random()` keeps its sequence in every version.
        uniforms = torch.tensor([row.random.random() for row in rows], dtype=torch.float64)
        given = self.temperatures(rows, settings)
        temperature = None if given is None else logits.new_tensor(given, dtype=torch.float32)[:, None]
        return choose(logits, settings, uniforms, self.banned, self.text_so_far(rows, settings), temperature)

    def text_so_far(self, rows: Sequence[Row], settings: GenerateConfig) -> Tensor | None:
        """The ids of each row, (B, L), for the repetition penalty; a short row repeats its first."""
        if settings.repetition_penalty == 1:
            return None
        L = max(len(row.ids) for row in rows)
        return torch.tensor([row.ids + row.ids[:1] * (L - len(row.ids)) for row in rows], device=self.device)

    # ---- the temperature falls after a token

    def temperatures(self, rows: Sequence[Row], settings: GenerateConfig) -> list[float] | None:
        """The temperature of each row's next token; None where all have that of `settings`."""
        if settings.temperature == 0 or settings.temperature_decay == 1:
            return None
        trigger = self.trigger(settings.decay_trigger)
        return None if trigger is None else [decayed(settings, row, trigger) for row in rows]

    def _trigger(self, name: str) -> int | None:
        """The id of the token `name`, after which the temperature decays; None where the tokenizer has none."""
        ids = self.tokenizer.encode(name)  # any token that can be written will do
        written = ids[0] if len(ids) == 1 and ids[0] not in self.banned else None
        return self.tokenizer.special_tokens.get(name, written)


def decayed(settings: GenerateConfig, row: Row, trigger: int) -> float:
    """The temperature of the next token: after the first `trigger` it falls by a factor a written token."""
    if trigger not in row.ids:
        return settings.temperature
    after = len(row.ids) - max(row.ids.index(trigger), row.prompt_length - 1)  # 1 for the first token after it
    lowest = min(settings.temperature, settings.temperature_floor)
    return max(lowest, settings.temperature * settings.temperature_decay**after)


class Beam(NamedTuple):
    """A text with the sum of its tokens' log-probabilities; `parent` is the row that it goes on from."""

    row: Row
    total: float
    parent: int = 0


def beam_search(
    decoder: Decoder, prompt: list[int], settings: GenerateConfig, num_samples: int = 1
) -> list[Completion]:
    """The best `num_samples` continuations found, best first, each with its `score`.

    At every step each of the `num_beams` texts is continued by every token, and the best `num_beams` go on. A text
    that ends (at a stop id or string, or at `max_new_tokens`) is scored by its log-probability divided by its length
    to the power of `length_penalty`, the ending included. The search is over when no text could become better than
    the worst of `num_beams` complete ones, judged at its present length, or at once with `early_stopping`. Scores,
    order and ends are those of Transformers. Repetition penalty and bans apply, to log-probabilities; rules of
    sampling have no meaning here. Raises UsageError when more texts are asked for than there are beams.
    """
    if num_samples > settings.num_beams:
        raise UsageError(
            f"{num_samples} texts are asked of a search with {settings.num_beams} beams", "use as many beams as samples"
        )
    n = settings.num_beams
    beams = [Beam(Row(prompt, decoder.model.config.block_size), 0.0)]
    context = decoder.context([beams[0].row], settings)
    complete: list[tuple[float, Completion]] = []
    for length in range(1, settings.max_new_tokens + 1):
        following: list[Beam] = []
        for rank, beam in enumerate(continuations(decoder, context, beams, settings)):
            if ended := ending(decoder, beam.row, settings):
                if rank < n:
                    complete.append((beam.total / length**settings.length_penalty, ended))
            elif len(following) < n:
                following.append(beam)
        complete = sorted(complete, key=lambda item: -item[0])[:n]
        if not following:
            break
        reachable = following[0].total / length**settings.length_penalty
        if len(complete) == n and (settings.early_stopping or reachable <= complete[-1][0]):
            break
        with inference(decoder.model):
            context.select([beam.parent for beam in following])
        beams = following
    return [replace(completion, score=score) for score, completion in complete[:num_samples]]


def continuations(decoder: Decoder, context: Context, beams: list[Beam], settings: GenerateConfig) -> list[Beam]:
    """The best one-token continuations of `beams`, best first: enough of them that `num_beams` do not end."""
    rows = [beam.row for beam in beams]
    with inference(decoder.model):
        logprobs = decoder.next_logits(context, rows).float().log_softmax(dim=-1)  # (B, V)
        allowed = penalised(logprobs, settings, decoder.banned, decoder.text_so_far(rows, settings))
        totals = allowed + torch.tensor([[beam.total] for beam in beams], device=logprobs.device)
        wanted = (1 + len(decoder.stop_ids)) * settings.num_beams
        best = totals.flatten().topk(min(wanted, totals.numel()))
        parents = (best.indices // totals.size(-1)).tolist()
        ids = (best.indices % totals.size(-1)).tolist()
        own = logprobs.flatten()[best.indices].tolist()
    found = []
    for parent, id, total, logprob in zip(parents, ids, best.values.tolist(), own, strict=True):
        if total > float("-inf"):  # a banned token
            row = beams[parent].row.branch(id)
            row.logprobs = [*row.logprobs, logprob]
            found.append(Beam(row, total, parent))
    return found


def ending(decoder: Decoder, row: Row, settings: GenerateConfig) -> Completion | None:
    """The completed text, if `row` ends here."""
    prompt, ids = row.ids[: row.prompt_length], row.added
    if ids[-1] in decoder.stop_ids:
        text = decoder.tokenizer.decode_within(ids[:-1])
        return Completion(prompt, ids[:-1], text, "stop", row.logprobs[:-1])
    text = decoder.tokenizer.decode_within(ids) if settings.stop_strings or len(ids) == settings.max_new_tokens else ""
    if found := [at for stop in settings.stop_strings if (at := text.find(stop)) >= 0]:
        return Completion(prompt, ids, text[: min(found)], "stop", row.logprobs)
    if len(ids) == settings.max_new_tokens:
        return Completion(prompt, ids, text, "length", row.logprobs)
    return None
