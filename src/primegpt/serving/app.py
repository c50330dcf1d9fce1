"""The server as an application: the OpenAI API of one run, health, and whatever routes are mounted beside them.

app = create_app(primegpt.load("runs/my-1"))
"""

import contextlib
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from primegpt.errors import UsageError
from primegpt.serving.completions import chat_completions, completions
from primegpt.serving.engine import Engine
from primegpt.serving.errors import ApiError
from primegpt.serving.run import ServedRun, check_model, model_card
from primegpt.serving.security import Guard, Policy


def create_app(
    run: ServedRun,
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
        exception_handlers={ApiError: tell, UsageError: tell_usage, HTTPException: tell_http},
        lifespan=lifespan,
    )
    app.state.run, app.state.engine = run, engine
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


async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [model_card(request.app.state.run)]})


async def model(request: Request) -> Response:
    run = request.app.state.run
    check_model(run, request.path_params["id"])
    return JSONResponse(model_card(run))


async def tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def tell_usage(request: Request, error: Exception) -> Response:
    return ApiError(400, str(error)).response()


async def tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, error.detail).response()
