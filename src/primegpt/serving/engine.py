"""Continuous batching: one thread writes for everyone at once, and a text joins or leaves between any two tokens.

    submit ──► waiting ──► a slot of the cache ──► step, step, step ──► out, and its slot is free
    (event loop)                            (the decode thread)

A step computes one token of every text in one forward pass. That takes little longer than the token of a single text,
whose time goes into reading the weights (and into Python), so sixteen readers cost little more than one. A text does
not depend on what is written beside it: its random stream is its own, and the cache has a length for each row.
"""

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from primegpt.config import GenerateConfig
from primegpt.inference.context import Row, TextStream, inference
from primegpt.inference.decoder import Decoder
from primegpt.model.cache import KVCache
from primegpt.serving.portions import PORTION, PortionedContext

READ_TOGETHER = 512  # tokens of new prompts that are read between two steps: so long the others wait
AHEAD = 64  # tokens of each text that are written before the reader has taken any: else memory fills up with them

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Busy(Exception):
    """So many texts wait already that no more are taken."""


class Token(NamedTuple):
    """A token with its log-probability, before any rule, and those of the likeliest ones at its place."""

    id: int
    logprob: float | None = None
    top: list[tuple[int, float]] = []  # noqa: RUF012 - never changed


class Piece(NamedTuple):
    """What a step added to text number `index` of a job. `text` is empty inside a character or a stop string."""

    index: int
    text: str
    tokens: list[Token]
    finish_reason: str | None


class Job:
    """One request: its texts, and the pieces of them as they come. Leaving the `with` block ends what is unfinished.

    >>> with engine.submit(rows, settings) as job:
    ...     async for piece in job: ...
    """

    def __init__(
        self,
        rows: Sequence[Row],
        settings: GenerateConfig,
        top: int | None,
        decoder: Decoder,
        wake: Callable[[], None] = lambda: None,  # the decode thread, when this job comes or ceases to be its work
    ) -> None:
        self.settings, self.top, self.wake = settings, top, wake
        # What decides how a token is chosen: texts that agree in it are chosen for together.
        self.rules = settings.model_copy(update={"seed": 0, "max_new_tokens": 1, "stop_strings": ()})
        self.waiting = [Writing(self, index, row, decoder) for index, row in enumerate(rows)]
        self.unfinished = len(rows)
        self.writing = 0
        self.written = self.taken = 0  # pieces: the former is the decode thread's, the latter the event loop's
        self.ahead = AHEAD * len(rows)
        self.cancelled = False
        self.pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()

    @property
    def more(self) -> bool:
        """Whether the next piece is there already."""
        return not self.pieces.empty()

    @property
    def waits_for_reader(self) -> bool:
        """Whether so much is written that its reader has to take some of it first."""
        return self.written - self.taken >= self.ahead

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancelled = True  # seen by the decode thread before its next step
        self.wake()

    def __aiter__(self) -> "Job":
        return self

    async def __anext__(self) -> Piece:
        if not self.unfinished:
            raise StopAsyncIteration
        piece = await self.pieces.get()
        if isinstance(piece, Exception):
            raise piece
        waited = self.waits_for_reader
        self.taken += 1
        if waited:
            self.wake()
        self.unfinished -= piece.finish_reason is not None
        return piece


class Writing:
    """One text that is being written."""

    def __init__(self, job: Job, index: int, row: Row, decoder: Decoder) -> None:
        self.job, self.index, self.row, self.stop_ids = job, index, row, decoder.stop_ids
        self.text = TextStream(decoder.tokenizer, job.settings.stop_strings)

    @property
    def over(self) -> bool:
        return self.job.cancelled or self.row.finish_reason is not None

    def take(self, token: Token) -> Piece:
        """Add the token that was chosen; what it adds to the text."""
        self.row.add(token.id, self.stop_ids, self.job.settings.max_new_tokens)
        stopped = self.row.finish_reason == "stop"  # at a stop id, which is no part of the text
        text = "" if stopped else self.text.push(token.id)
        if self.text.stopped:
            self.row.finish_reason = "stop"
        if self.row.finish_reason:
            text += self.text.flush()
        return Piece(self.index, text, [] if stopped else [token], self.row.finish_reason)


class Engine:
    """Writes up to `slots` texts at once; up to `queue` more wait. Whose job has the fewest texts in work is next.

    A job whose reader does not keep up waits as well: its texts leave their slots, and are read anew to go on.

    `start` and `close` are called in the event loop that the jobs are read in.
    """

    def __init__(self, decoder: Decoder, slots: int = 16, queue: int = 64) -> None:
        self.decoder, self.slots, self.queue = decoder, slots, queue
        dtype = decoder.model.wte.weight.dtype
        self.context = PortionedContext.with_slots(decoder.model, slots, dtype)
        self.writing: list[Writing] = []  # row b of the context is that of writing[b]; the decode thread's own
        self.waiting: list[Job] = []
        self.calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self.closing = False
        self.changed = threading.Condition()  # guards `waiting`, `calls` and `closing`
        self.thread = threading.Thread(target=self.run, name="decode", daemon=True)

    # ---- in the event loop

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread.start()

    def close(self) -> None:
        """End the decode thread, after the step that it is in."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join()

    def submit(self, rows: Sequence[Row], settings: GenerateConfig, top: int | None = None) -> Job:
        """Have `rows` written. With `top`, each token comes with log-probabilities, its own and the `top` largest.

        Raises Busy when they find no place in the queue.
        """
        job = Job(rows, settings, top, self.decoder, self.wake)
        with self.changed:
            if self.load + len(rows) > self.slots + self.queue:
                raise Busy
            self.waiting.append(job)
            self.changed.notify()
        return job

    async def call(self, function: Callable[[], Result]) -> Result:
        """The result of `function`, computed by the decode thread between two steps."""
        future: Future[Result] = Future()
        with self.changed:
            if len(self.calls) >= self.queue:
                raise Busy
            self.calls.append((function, future))
            self.changed.notify()
        return await asyncio.wrap_future(future)

    def wake(self) -> None:
        with self.changed:
            self.changed.notify()

    @property
    def load(self) -> int:
        """How many texts are written or wait."""
        return len(self.writing) + sum(len(job.waiting) for job in self.waiting if not job.cancelled)

    # ---- in the decode thread

    def run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closing or self.calls or self.writing or self.has_work)
                if self.closing:
                    return
                self.leave()
                self.join()
                calls, self.calls = self.calls[:1], self.calls[1:]
            for function, future in calls:
                carry_out(function, future)
            if self.writing:
                self.deliver(self.step())

    @property
    def has_work(self) -> bool:
        """Whether there is a waiting job to go on with, or to forget."""
        return any(job.cancelled or not job.waits_for_reader for job in self.waiting)

    def leave(self) -> None:
        """Texts that are over, or wait for their reader, give their slots back. The last ones move into the gaps, the
        others stay in place."""
        over = [b for b, writing in enumerate(self.writing) if writing.over or writing.job.waits_for_reader]
        if not over:
            return
        for writing in (self.writing[b] for b in over):
            writing.job.writing -= 1
            if not writing.over:
                writing.job.waiting.append(writing)
                if writing.job not in self.waiting:
                    self.waiting.append(writing.job)
        going = [b for b in range(len(self.writing)) if b not in over]
        stay, move = set(going), [b for b in going if b >= len(going)]
        order = [b if b in stay else move.pop() for b in range(len(going))]
        self.context.select(order)
        self.writing = [self.writing[b] for b in order]

    def join(self) -> None:
        """Waiting texts take the free slots, as many as are soon read."""
        reading: set[tuple[int, ...]] = set()  # samples of one prompt read it once
        while True:
            self.waiting = [job for job in self.waiting if job.waiting and not job.cancelled]
            ready = [job for job in self.waiting if not job.waits_for_reader]
            if not ready or len(self.writing) == self.slots:
                return
            job = min(ready, key=lambda job: job.writing)  # the oldest among equals
            reading.add(tuple(job.waiting[0].row.window))
            if len(reading) > 1 and sum(map(self.context.unread, reading)) > READ_TOGETHER:
                return
            self.writing.append(job.waiting.pop(0))
            job.writing += 1
            self.context.join()

    def step(self) -> list[tuple[Job, Piece | Exception]]:
        """One token of every text."""
        try:
            with inference(self.decoder.model):
                logits = self.decoder.next_logits(self.context, [writing.row for writing in self.writing])  # (B, V)
                tokens = self.choose(logits)
        except Exception as error:  # the texts that were being written are lost, not the server
            log.exception("a step failed")
            jobs = {id(writing.job): writing.job for writing in self.writing}.values()
            for job in jobs:
                job.cancelled = True
            return [(job, error) for job in jobs]
        return [(writing.job, writing.take(token)) for writing, token in zip(self.writing, tokens, strict=True)]

    def choose(self, logits: Tensor) -> list[Token]:
        """The next token of each text, by its own rules."""
        chosen = [Token(0)] * len(self.writing)
        groups: dict[tuple[GenerateConfig, int | None], list[int]] = defaultdict(list)
        for b, writing in enumerate(self.writing):
            groups[writing.job.rules, writing.job.top].append(b)
        for (settings, top), members in groups.items():
            rows = [self.writing[b].row for b in members]
            own = logits if len(groups) == 1 else logits[torch.tensor(members, device=logits.device)]
            ids = self.decoder.pick(own, rows, settings)
            tokens = [Token(id) for id in ids.tolist()] if top is None else with_logprobs(own, ids, top)
            for b, token in zip(members, tokens, strict=True):
                chosen[b] = token
        return chosen

    def deliver(self, pieces: list[tuple[Job, Piece | Exception]]) -> None:
        """Hand a step's pieces over to the event loop, all at once."""
        for job, _ in pieces:
            job.written += 1

        def hand_over() -> None:
            for job, piece in pieces:
                job.pieces.put_nowait(piece)

        with suppress(RuntimeError):  # the loop has ended, and nobody listens any more
            self.loop.call_soon_threadsafe(hand_over)


def with_logprobs(logits: Tensor, ids: Tensor, top: int) -> list[Token]:
    """The tokens `ids` (B,) with their log-probabilities from `logits` (B, V) and the `top` largest."""
    logprobs = logits.float().log_softmax(dim=-1)
    own = logprobs.gather(-1, ids.to(logits.device).unsqueeze(-1)).squeeze(-1)
    best = logprobs.topk(min(top, logprobs.size(-1)), dim=-1)
    rows = zip(ids.tolist(), own.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    return [Token(id, logprob, list(zip(likeliest, values, strict=True))) for id, logprob, likeliest, values in rows]


def read_logprobs(decoder: Decoder, ids: list[int], top: int) -> list[Token]:
    """The tokens of a prompt with their log-probabilities; the first has none."""
    tokens, model = [Token(ids[0])], decoder.model
    cache = KVCache(model.config, 1, len(ids), model.wte.weight.dtype, decoder.device)
    with inference(model):
        for start in range(0, len(ids) - 1, PORTION):
            following = torch.tensor(ids[start + 1 : start + 1 + PORTION], device=decoder.device)
            portion = torch.tensor([ids[start : start + len(following)]], device=decoder.device)
            logits = model(portion, cache=cache)
            assert isinstance(logits, Tensor)
            tokens += with_logprobs(logits[0], following, top)
    return tokens


def carry_out(function: Callable[[], Result], future: Future[Result]) -> None:
    if not future.set_running_or_notify_cancel():
        return  # nobody waits for it any more
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
