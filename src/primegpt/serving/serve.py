"""A run behind the OpenAI API, for other programs; and the playground beside it, for runs named beforehand.

app = create_app(primegpt.load("runs/my-1"))
"""

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from primegpt.errors import UsageError
from primegpt.inference.run import Run, load
from primegpt.model.size import human_bytes
from primegpt.run.folder import latest_run
from primegpt.serving import lessons
from primegpt.serving.completions import chat_completions, check_model, completions
from primegpt.serving.engine import Engine
from primegpt.serving.playground import Playground
from primegpt.serving.portions import KEPT
from primegpt.serving.schema import ApiError
from primegpt.serving.security import TOKEN, Guard, Policy, policy_for
from primegpt.serving.server import listen, server_for
from primegpt.serving.shelf import Shelf
from primegpt.terminal import Say, to_stderr

PATHS = "/v1/completions, /v1/chat/completions and /v1/models"


def create_app(
    run: Run,
    *,
    policy: Policy | None = None,
    slots: int = 16,
    queue: int = 64,
    precision: str | None = None,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The API of `run`, guarded by `policy`, with `routes` of the caller's beside it.

    Those find the run as `request.app.state.run` and what writes as `request.app.state.engine`. Which of them need no
    token is said by `policy.public`. Up to `slots` texts are written at once, `queue` more may wait.
    """
    policy = policy or Policy()
    engine = Engine(run.generator(precision), slots, queue)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()

    api = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/models/{id}", model),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    ]
    app = Starlette(
        routes=[*api, *routes],
        middleware=[*cross_origin(policy), Middleware(Guard, policy=policy)],
        exception_handlers={ApiError: tell, UsageError: tell_usage, HTTPException: tell_http, Exception: tell_fault},
        lifespan=lifespan,
    )
    app.state.run, app.state.engine, app.state.card = run, engine, model_card(run)
    return app


def cross_origin(policy: Policy) -> list[Middleware]:
    """CORS for the origins that are named; none by default, and then no header of it is ever sent."""
    if not policy.origins:
        return []
    origins = sorted(policy.origins)
    return [Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])]


async def health(request: Request) -> Response:
    """Always answered at once, and without a token."""
    engine: Engine = request.app.state.engine
    writing = len(engine.writing)
    return JSONResponse({"status": "ok", "slots": engine.slots, "writing": writing, "waiting": engine.load - writing})


def model_card(run: Run) -> dict[str, object]:
    """The run as an element of `/v1/models`."""
    created = int(run.folder.config_path.stat().st_mtime)
    return {"id": run.name, "object": "model", "created": created, "owned_by": "primegpt"}


async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [request.app.state.card]})


async def model(request: Request) -> Response:
    check_model(request.app.state.run, request.path_params["id"])
    return JSONResponse(request.app.state.card)


async def tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def tell_usage(request: Request, error: Exception) -> Response:
    return ApiError(400, str(error)).response()


async def tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"there is nothing at this path; there is {PATHS}" if error.status_code == 404 else error.detail
    return ApiError(error.status_code, message).response()


async def tell_fault(request: Request, error: Exception) -> Response:
    """Ours to mend; whoever runs the server finds it in the log."""
    return ApiError(500, "the request failed; the server's log says why").response()


PAGE = ("/", "/static/", "/learn/", "/images/learn/")  # holds nothing of a run, so it is given without a token


def serve(
    path: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    slots: int = 16,
    queue: int = 64,
    precision: str | None = None,
    checkpoint: str | int = "best",
    device: str = "auto",
    routes: Callable[[Run], Sequence[BaseRoute]] = lambda run: (),
    public: Sequence[str] = (),
    ready: Callable[[str], None] = lambda url: None,
    say: Say = to_stderr,
) -> None:
    """Answer requests to the run until a signal ends it; what is being written then is finished first.

    `hosts` are further names by which the server is known, `origins` those of web pages that may ask it. Anywhere
    but on the loopback interface a `token` is needed (by default that of the environment variable PRIMEGPT_TOKEN).
    `routes` are mounted beside the API, without a token those under the paths `public`; `ready` gets the URL.
    Raises UsageError for what would be unsafe, and for a port that is taken.
    """
    if not 1 <= slots <= 1024 or not 32 <= queue <= 65536:
        raise UsageError(f"{slots} slots and a queue of {queue}", "1 to 1,024 slots, 32 to 65,536 in the queue")
    policy = policy_for(host, token or os.environ.get(TOKEN), hosts, origins, public)
    with listen(host, port) as listening:
        run = load(path, checkpoint=checkpoint, device=device, say=say)
        settings = run.settings(precision=precision)
        run.require_memory(slots, run.config.model.block_size, settings)
        app = create_app(run, policy=policy, slots=slots, queue=queue, precision=settings.precision, routes=routes(run))
        cache = app.state.engine.context.cache
        url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        say(f"{run.folder.path}, step {run.step:,}: {url}/v1, model {run.name!r}")
        taken, kept = human_bytes(cache.k.nbytes + cache.v.nbytes), human_bytes(KEPT)
        say(f"{slots} texts at once, whose cache takes {taken}, and up to {kept} what prompts share; Ctrl-C ends it")
        ready(url)
        server_for(app).run(sockets=[listening])


def play(
    runs: Sequence[str | Path] = (),
    *,
    token: str | None = None,
    hosts: Sequence[str] = (),
    ready: Callable[[str], None] = lambda url: None,
    **options: Any,
) -> None:
    """`serve` the first of `runs`, by default the latest in runs/, with a page that looks inside all of them.

    `ready` gets the page's address. A `token`, where there is one, is the part after #, which browsers keep to
    themselves. Raises what `serve` does, and before it listens whatever keeps a run from being opened.
    """
    folders = [Path(run) for run in runs] or [latest_run()]
    token = token or os.environ.get(TOKEN)

    def address(url: str) -> None:
        if hosts:  # 0.0.0.0 is where to listen, and no place to go to
            url = url.replace("//0.0.0.0:", f"//{hosts[0]}:").replace("//[::]:", f"//{hosts[0]}:")
        ready(f"{url}/#token={token}" if token else f"{url}/")

    serve(folders[0], token=token, hosts=hosts, public=PAGE, routes=page_routes(folders), ready=address, **options)


def page_routes(folders: Sequence[Path]) -> Callable[[Run], list[BaseRoute]]:
    """The routes of the page for `folders`, the first of which is opened already."""
    shelf = Shelf(folders, lambda path, step: load(path, checkpoint=step))
    for number in range(1, len(folders)):
        shelf.open(number)

    def routes(run: Run) -> list[BaseRoute]:
        shelf.keep(0, run)
        return [*Playground(shelf).routes(), *lessons.routes()]

    return routes
