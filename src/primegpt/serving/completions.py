"""The endpoints that write: a request becomes prompts and settings, the pieces that come become OpenAI's objects."""

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, ClassVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from primegpt.config import GenerateConfig
from primegpt.errors import PrimegptError
from primegpt.inference.context import Offsets
from primegpt.inference.decoder import Decoder
from primegpt.inference.run import Run
from primegpt.serving.engine import Busy, Engine, Job, Piece, Token, read_logprobs
from primegpt.serving.prompts import laid_out
from primegpt.serving.schema import ApiError, ChatRequest, CompletionRequest, WritingRequest, parse
from primegpt.serving.security import while_connected
from primegpt.terminal import finite

DROPPED = "x-primegpt-dropped-turns"  # how many turns of a conversation were left out, the oldest, as too long for it
MAX_LOGPROBS = 150_000  # of one answer, which take 75 MB while it is made


@while_connected
async def completions(request: Request) -> Response:
    """POST /v1/completions: continue texts."""
    asked = parse(CompletionRequest, await request.body())
    state = request.app.state
    prompts, settings, _ = await run_in_threadpool(prepare, state.run, state.engine.decoder, asked)
    echoes = [Echo() for _ in prompts]
    if asked.echo:
        echoes = [
            await echo(state.engine, given, ids, settings, asked.alternatives)
            for given, ids in zip(asked.prompts, prompts, strict=True)
        ]
    return await answer(CompletionReply(state.run, state.engine, asked, prompts, settings, echoes))


@while_connected
async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions: answer a conversation."""
    asked = parse(ChatRequest, await request.body())
    state = request.app.state
    prompts, settings, dropped = await run_in_threadpool(prepare, state.run, state.engine.decoder, asked)
    response = await answer(ChatReply(state.run, state.engine, asked, prompts, settings))
    if dropped:
        response.headers[DROPPED] = str(dropped)
    return response


def prepare(run: Run, decoder: Decoder, asked: WritingRequest) -> tuple[list[list[int]], GenerateConfig, int]:
    """The ids of each prompt, how to go on from them, and how many turns of a conversation had to be left out.

    Raises ApiError or UsageError for what cannot be.
    """
    if asked.model is not None:
        check_model(run, asked.model)
    settings = run.settings(**asked.settings)
    given, dropped = laid_out(run, asked, settings)
    prompts = [decoder.encode(each, settings) for each in given]
    limit = decoder.model.config.block_size
    for ids in prompts:
        if len(ids) > limit:
            message = f"the prompt has {len(ids)} tokens, the model sees {limit}"
            raise ApiError(400, message, param="prompt", code="context_length_exceeded")
    check_logprobs(asked, prompts, settings)
    return prompts, settings, dropped


def check_model(run: Run, name: str) -> None:
    """Raises ApiError unless `name` is the run that is served."""
    if name != run.name:
        message = f"there is no model of this name here, only {run.name!r}"
        raise ApiError(404, message, param="model", code="model_not_found")


def check_logprobs(asked: WritingRequest, prompts: Sequence[list[int]], settings: GenerateConfig) -> None:
    """Raises ApiError if more log-probabilities may have to be held at once than there is memory for."""
    if asked.alternatives is None:
        return
    echoed = sum(map(len, prompts)) if isinstance(asked, CompletionRequest) and asked.echo else 0
    written = 0 if asked.stream else len(prompts) * settings.max_new_tokens
    most = (echoed + written) * asked.n * (1 + asked.alternatives)
    if most > MAX_LOGPROBS:
        message = f"{most:,} log-probabilities may come to one answer, at most {MAX_LOGPROBS:,} do; ask for fewer"
        raise ApiError(400, message + ("" if asked.stream else ", or for a stream"), param="logprobs")


# ---- answers


class Reply(ABC):
    """One request being answered."""

    prefix: ClassVar[str]  # of its id
    whole: ClassVar[str]  # OpenAI's names of the objects
    part: ClassVar[str]

    def __init__(
        self,
        run: Run,
        engine: Engine,
        asked: WritingRequest,
        prompts: Sequence[list[int]],
        settings: GenerateConfig,
    ) -> None:
        self.asked, self.prompts, self.tokenizer = asked, prompts, engine.decoder.tokenizer
        self.frame = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": run.name,
            "system_fingerprint": f"step-{run.step}",
        }
        self.texts, self.written = len(prompts) * asked.n, 0
        rows = [engine.decoder.row(ids, settings, sample) for ids in prompts for sample in range(asked.n)]
        try:
            self.job: Job = engine.submit([] if asked.max_new_tokens == 0 else rows, settings, asked.alternatives)
        except Busy:
            raise ApiError(429, "too many texts are waiting to be written; try again soon", code="queue_full") from None

    @abstractmethod
    def choice(self, piece: Piece) -> dict[str, object]:
        """A whole text as an element of `choices`."""

    @abstractmethod
    def change(self, piece: Piece) -> dict[str, object]:
        """A piece of a text as an element of `choices` in a stream."""

    def opening(self) -> Iterator[dict[str, object]]:
        """Elements of `choices` that a stream begins with."""
        yield from ()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Those of all texts as they come. Raises ApiError when writing fails."""
        try:
            async for piece in self.job:
                self.written += len(piece.tokens)
                yield piece
        except Exception as error:  # ours to mend: told in one line, and the log has the rest
            message = str(error) if isinstance(error, PrimegptError) else "writing failed; the server's log says why"
            raise ApiError(500, message) from None

    async def object(self) -> dict[str, object]:
        """The answer as a whole."""
        texts = ["" for _ in range(self.texts)]
        tokens: list[list[Token]] = [[] for _ in texts]
        reasons: list[str | None] = ["length" for _ in texts]
        async for piece in self.pieces():
            texts[piece.index] += piece.text
            tokens[piece.index] += piece.tokens
            reasons[piece.index] = piece.finish_reason
        choices = [self.choice(Piece(*whole)) for whole in zip(range(self.texts), texts, tokens, reasons, strict=True)]
        return {**self.frame, "object": self.whole, "choices": choices, "usage": self.usage()}

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        usage = self.asked.stream_options is not None and self.asked.stream_options.include_usage
        frame = {**self.frame, "object": self.part, **({"usage": None} if usage else {})}
        for choice in self.opening():
            yield event({**frame, "choices": [choice]})
        ready = ""
        try:
            async for piece in self.pieces():
                if piece.text or piece.finish_reason or (piece.tokens and self.asked.alternatives is not None):
                    ready += event({**frame, "choices": [self.change(piece)]})
                if ready and not self.job.more:  # what is there together is written together
                    yield ready
                    ready = ""
        except ApiError as error:
            yield ready + event(error.body())
            return
        if usage:
            yield event({**frame, "choices": [], "usage": self.usage()})
        yield "data: [DONE]\n\n"

    def usage(self) -> dict[str, int]:
        prompt = sum(map(len, self.prompts))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.written,
            "total_tokens": prompt + self.written,
        }


class Echo:
    """A prompt that is repeated before its continuation: nothing, or its text and tokens."""

    def __init__(self, text: str = "", tokens: Sequence[Token] = (), space: int = 0) -> None:
        """`space`: how many characters of the tokenizer's own its tokens spell before `text`."""
        self.text, self.tokens, self.space = text, list(tokens), space


class CompletionReply(Reply):
    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        run: Run,
        engine: Engine,
        asked: CompletionRequest,
        prompts: Sequence[list[int]],
        settings: GenerateConfig,
        echoes: Sequence[Echo],
    ) -> None:
        super().__init__(run, engine, asked, prompts, settings)
        self.echoes = [echo for echo in echoes for _ in range(asked.n)]
        self.offsets = [Offsets(self.tokenizer, echo.space) for echo in self.echoes]

    def choice(self, piece: Piece) -> dict[str, object]:
        echo = self.echoes[piece.index]
        return self.change(Piece(piece.index, echo.text + piece.text, echo.tokens + piece.tokens, piece.finish_reason))

    def change(self, piece: Piece) -> dict[str, object]:
        index, text, tokens, finish_reason = piece
        logprobs = None if self.asked.alternatives is None else self.logprobs(tokens, self.offsets[index])
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def opening(self) -> Iterator[dict[str, object]]:
        ended = "length" if self.asked.max_new_tokens == 0 else None
        for index, echo in enumerate(self.echoes):
            if echo.text or echo.tokens or ended:
                yield self.change(Piece(index, echo.text, echo.tokens, ended))

    def logprobs(self, tokens: Sequence[Token], offsets: "Offsets") -> dict[str, list[Any]]:
        spelt, begun = self.tokenizer.decode_within, self.tokenizer.decode
        starts = [offsets.next(token.id) for token in tokens]
        return {
            "tokens": [
                (begun if start < 0 else spelt)([token.id]) for token, start in zip(tokens, starts, strict=True)
            ],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                None if token.logprob is None else {spelt([id]): value for id, value in token.top} for token in tokens
            ],
            "text_offset": [max(0, start) for start in starts],
        }


class ChatReply(Reply):
    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, piece: Piece) -> dict[str, object]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {
            "index": piece.index,
            "message": message,
            "logprobs": self.logprobs(piece.tokens),
            "finish_reason": piece.finish_reason,
        }

    def change(self, piece: Piece) -> dict[str, object]:
        delta = {"content": piece.text} if piece.text else {}
        return {
            "index": piece.index,
            "delta": delta,
            "logprobs": self.logprobs(piece.tokens),
            "finish_reason": piece.finish_reason,
        }

    def opening(self) -> Iterator[dict[str, object]]:
        for index in range(self.texts):
            delta = {"role": "assistant", "content": ""}
            yield {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, object] | None:
        if self.asked.alternatives is None:
            return None
        told = [
            self.spelt(token.id, token.logprob) | {"top_logprobs": [self.spelt(id, value) for id, value in token.top]}
            for token in tokens
        ]
        return {"content": told, "refusal": None}

    def spelt(self, id: int, logprob: float | None) -> dict[str, object]:
        spelling = list(self.tokenizer.decode_bytes([id]))
        return {"token": self.tokenizer.decode_within([id]), "logprob": logprob, "bytes": spelling}


async def echo(
    engine: Engine, given: str | list[int], ids: list[int], settings: GenerateConfig, top: int | None
) -> Echo:
    """The prompt `given`, which the model sees as `ids`, with log-probabilities if `top` asks for them."""
    tokenizer = engine.decoder.tokenizer
    text = given if isinstance(given, str) else tokenizer.decode(ids)
    if top is None:
        return Echo(text)
    try:
        tokens = await engine.call(lambda: read_logprobs(engine.decoder, ids, top))
    except Busy:
        raise ApiError(429, "too many requests are waiting; try again soon", code="queue_full") from None
    opened = isinstance(given, str) and engine.decoder.opening(given, settings) is not None
    before = tokenizer.space_before(text) if isinstance(given, str) else tokenizer.decode_within(ids).removesuffix(text)
    return Echo(text, tokens[1:] if opened else tokens, len(before))


# ---- whole or as a stream


async def answer(reply: Reply) -> Response:
    if reply.asked.stream:
        return EventStream(reply)
    with reply.job:
        return JSONResponse(await reply.object())


class EventStream(StreamingResponse):
    """A reply as it is written. However it ends, also before it has begun, its job ends with it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self.job = reply.job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.job:
            await super().__call__(scope, receive, send)


def event(content: object) -> str:
    """In ASCII: many clients also split lines at U+2028, U+0085 and their like, as str.splitlines does."""
    return f"data: {json.dumps(finite(content), separators=(',', ':'))}\n\n"
