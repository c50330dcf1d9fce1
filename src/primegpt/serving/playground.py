"""The playground's endpoints: what a page asks of a model beside text. Ids, numbers and names; never a path.

Every answer speaks of tokens by id. The page fetches the vocabulary once and knows the text of each.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, create_model
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from primegpt.errors import PrimegptError, UsageError
from primegpt.inference.context import Row
from primegpt.inference.run import Run
from primegpt.model.gpt import GPT
from primegpt.serving import lens
from primegpt.serving.answers import block_answer, flow_answer, packed, rounded
from primegpt.serving.schema import MAX_TOKENS, ApiError, Body, parse, sampling_fields
from primegpt.serving.security import while_connected
from primegpt.serving.shelf import PAGE_SETTINGS, Shelf
from primegpt.terminal import finite

STATIC = Path(__file__).with_name("static")
SHOWN_INSIDE = 256  # tokens of a text whose attention is sent: the map grows with the square
COLUMNS = 14  # tokens of a text whose logit lens is sent
WRITERS = 8  # texts written at once

Ids = Annotated[list[Annotated[int, Field(ge=0, le=2_000_000)]], Field(min_length=1, max_length=65_536)]
Answer = TypeVar("Answer")
Kind = TypeVar("Kind", bound="Asked")


class Asked(Body):
    """A checkpoint of a run: its number on the command line and its step, by default the best."""

    run: int = Field(0, ge=0, le=1_000)
    step: int | None = Field(None, ge=0, le=10**12)


class Prompt(Asked):
    text: str = Field("", max_length=200_000)
    genre: str | None = Field(None, max_length=100)
    emotion: str | None = Field(None, max_length=100)


class Text(Asked):
    ids: Ids


class Layer(Text):
    layer: int = Field(0, ge=0, le=1_000)


class Guess(Text):
    """The text before a place, and the token that came there."""

    came: int | None = Field(None, ge=0, le=2_000_000)


class Place(Asked):
    id: int = Field(ge=0, le=2_000_000)
    position: int = Field(ge=0, le=10_000_000)


Drawing = create_model("Drawing", __base__=Text, **sampling_fields(PAGE_SETTINGS))


class Writing(Drawing):
    """How to go on with a text. What is not given is the run's own."""

    max_new_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    stop_strings: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(None, max_length=16)


class Playground:
    """Answers the page's questions about the runs of a shelf. One thread computes: a token of one, then of the next."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.thread = ThreadPoolExecutor(1, "primegpt-playground")
        self.writers = 0

    def routes(self) -> list[BaseRoute]:
        """For `create_app`, which sees to hosts, tokens, sizes and headers."""
        answers = {
            "encode": self.endpoint(Prompt, self.encode),
            "next": self.endpoint(Text, self.next),
            "look": self.endpoint(Text, self.look),
            "flow": self.endpoint(Guess, self.flow),
            "block": self.endpoint(Layer, self.block),
            "attention": self.endpoint(Layer, self.attention),
            "lens": self.endpoint(Text, self.lens),
            "near": self.endpoint(Place, self.near),
            "write": self.write,
        }
        return [
            Route("/", page),
            Route("/play/runs", self.runs),
            Route("/play/runs/{run}/vocabulary", self.vocabulary),
            Route("/play/runs/{run}/progress", self.progress),
            *(Route(f"/play/{name}", while_connected(answer), methods=["POST"]) for name, answer in answers.items()),
            Mount("/static", Assets(directory=STATIC)),
        ]

    # ---- what is known of the runs

    async def runs(self, request: Request) -> Response:
        return await self.answered(lambda: [self.shelf.describe(run) for run in range(len(self.shelf.folders))])

    async def progress(self, request: Request) -> Response:
        run, after = number(request.path_params["run"], "run"), number(request.query_params.get("after", "0"), "after")
        return await self.answered(partial(self.shelf.progress, run, after))

    async def vocabulary(self, request: Request) -> Response:
        """The text of every id; the bytes of those that are no whole characters."""
        run = number(request.path_params["run"], "run")

        def texts() -> list[str | list[int]]:
            tokenizer = self.shelf.open(run).tokenizer
            return [text_or_bytes(tokenizer.decode_bytes([id])) for id in range(tokenizer.vocab_size)]

        return await self.answered(texts)

    # ---- what a model makes of a text

    def encode(self, asked: Prompt) -> dict[str, Any]:
        """A prompt in ids, laid out as in training, and what of it is lost on the model."""
        run = self.shelf.open(asked.run, asked.step)
        prompt = run.prompt(asked.text, asked.genre, asked.emotion)
        ids = run.generator("fp32").encode(prompt, run.settings())
        return {"ids": ids, "remarks": run.remarks(asked.text)}

    def next(self, asked: Text) -> dict[str, Any]:
        """The logits of every token that could come next. With them the page applies the rules by itself."""
        run = self.opened(asked)
        return {"logits": packed(lens.next_logits(run.model, asked.ids)), "step": run.step}

    def look(self, asked: Text) -> dict[str, Any]:
        """How likely each token was, and how many were likelier; the first follows nothing."""
        logprobs, ranks = lens.token_logprobs(self.opened(asked).model, asked.ids)
        return {"logprobs": [None, *rounded(logprobs)], "ranks": [None, *ranks.tolist()]}

    def flow(self, asked: Guess) -> dict[str, Any]:
        """What each part of the network adds to the guess that follows the text."""
        return flow_answer(self.opened(asked).model, asked.ids, asked.came)

    def block(self, asked: Layer) -> dict[str, Any]:
        """What the heads and the MLP of one block do at the last place of the text."""
        return block_answer(self.with_layer(asked), asked.ids, asked.layer)

    def attention(self, asked: Layer) -> dict[str, Any]:
        """The maps of one layer over the end of the text, (H, T, T) bytes: the root of each weight, 255 for 1.

        The root keeps small weights apart: over 256 tokens an even one is 0.004.
        """
        model = self.with_layer(asked)
        ids = inside(asked.ids, model.config.block_size)
        maps = lens.attention(model, ids, asked.layer)
        scaled = (maps.sqrt() * 255).round().byte().cpu().numpy()
        return {"maps": base64.b64encode(scaled.tobytes()).decode(), "heads": len(maps), "tokens": len(ids)}

    def lens(self, asked: Text) -> dict[str, Any]:
        """What would be said after each layer, [layer][token][candidate]."""
        model = self.opened(asked).model
        ids = inside(asked.ids, model.config.block_size)
        probabilities, found = lens.logit_lens(model, ids, min(5, model.config.vocab_size), COLUMNS)
        return {"probabilities": rounded(probabilities), "ids": found.tolist()}

    def near(self, asked: Place) -> dict[str, Any]:
        """The tokens and positions whose embeddings are most like those of a token where it stands."""
        model = self.opened(asked).model
        cosines, ids = lens.near_tokens(model, asked.id, 12)
        places = lens.near_positions(model, min(asked.position, model.config.block_size - 1))
        return {"tokens": {"ids": ids.tolist(), "cosines": rounded(cosines)}, "positions": rounded(places)}

    def opened(self, asked: Text | Place) -> Run:
        """The run that was asked for, with ids that its vocabulary has."""
        run = self.shelf.open(asked.run, asked.step)
        ids = asked.ids if isinstance(asked, Text) else [asked.id]
        if isinstance(asked, Guess) and asked.came is not None:
            ids = [*ids, asked.came]
        if max(ids) >= run.tokenizer.vocab_size:
            raise UsageError(f"the id {max(ids)} is outside the vocabulary of {run.tokenizer.vocab_size}")
        return run

    def with_layer(self, asked: Layer) -> GPT:
        """The model that was asked for, which has that layer."""
        model = self.opened(asked).model
        if asked.layer >= model.config.n_layer:
            raise UsageError(f"layer {asked.layer} of {model.config.n_layer}", "layers are numbered from 0")
        return model

    # ---- writing

    async def write(self, request: Request) -> Response:
        """One JSON line a token, {"id", "logprob"}, then {"finish_reason"}. The writing ends when the reader leaves."""
        if self.writers >= WRITERS:
            raise ApiError(429, "too many texts are being written; try again shortly")
        asked = parse(Writing, await request.body())
        self.writers += 1
        try:
            row, tokens = await self.compute(partial(self.begin, asked))
        except BaseException:
            self.writers -= 1
            raise

        async def lines() -> AsyncIterator[str]:
            try:
                while (token := await self.compute(partial(next, tokens, None))) is not None:
                    yield json.dumps(finite(token)) + "\n"
                yield json.dumps({"finish_reason": row.finish_reason}) + "\n"
            except ApiError as error:
                yield json.dumps(error.body()) + "\n"

        def ended() -> None:
            self.writers -= 1
            self.thread.submit(tokens.close)  # after the step that may still be under way

        return Stream(lines(), ended)

    def begin(self, asked: Writing) -> tuple[Row, Generator[dict[str, Any]]]:
        run = self.opened(asked)
        # No decay: the page shows what is drawn from, and must be right. For the same reason in fp32, as `next` is.
        settings = run.settings(**asked.model_dump(exclude={"run", "step", "ids"}), temperature_decay=1.0)
        decoder = run.generator("fp32")
        row = decoder.row(asked.ids, settings)

        def tokens() -> Generator[dict[str, Any]]:
            for written in decoder.decode_loop([row], settings, logprobs=True):
                for _ in written:
                    yield {"id": row.ids[-1], "logprob": round(row.logprobs[-1], 4)}
                text = run.tokenizer.decode_within(row.added[-64:]) if settings.stop_strings else ""
                if any(stop in text for stop in settings.stop_strings):
                    row.finish_reason = "stop"

        return row, tokens()

    # ---- requests and answers

    def endpoint(self, kind: type[Kind], answer: Callable[[Kind], Any]) -> Callable:
        async def respond(request: Request) -> Response:
            return await self.answered(partial(answer, parse(kind, await request.body())))

        return respond

    async def answered(self, work: Callable[[], Any]) -> Response:
        return JSONResponse(await self.compute(work))

    async def compute(self, work: Callable[[], Answer]) -> Answer:
        """What `work` returns, from the thread that computes. Raises ApiError for what a user can mend."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, work)
        except PrimegptError as error:
            raise ApiError(400, str(error)) from None


class Stream(StreamingResponse):
    """Lines of JSON; `ended` is called once, however the reader leaves, even before the first line."""

    def __init__(self, lines: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self.ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ended()


class Assets(StaticFiles):
    """The page's own files: asked for anew each time, and mostly answered by "not modified"."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response


async def page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


def number(text: str, name: str) -> int:
    """Raises ApiError unless `text` is a number, and one that can be meant."""
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise ApiError(400, f"{name}: a whole number is needed", param=name)
    return int(text)


def inside(ids: list[int], block_size: int) -> list[int]:
    """The end of a text that Inside shows."""
    return ids[-min(block_size, SHOWN_INSIDE) :]


def text_or_bytes(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
