"""The server as an application: the OpenAI API of one run, health, and whatever routes are mounted beside them.

app = create_app(primegpt.load("runs/my-1"))
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from primegpt.errors import UsageError
from primegpt.run.folder import RunFolder
from primegpt.serving.errors import ApiError
from primegpt.serving.security import Guard, Policy


class ServedRun(Protocol):
    """What the server asks of a run; `primegpt.Run` is one."""

    folder: RunFolder
    step: int


def create_app(run: ServedRun, *, policy: Policy | None = None, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """The API of `run`, guarded by `policy`, with `routes` of the caller's beside it.

    Those find the run as `request.app.state.run`. What they need no token for is said by `policy.public`.
    """
    policy = policy or Policy()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield

    app = Starlette(
        routes=[Route("/health", health), Route("/v1/models", models), Route("/v1/models/{id}", model), *routes],
        middleware=[*cross_origin(policy), Middleware(Guard, policy=policy)],
        exception_handlers={ApiError: tell, UsageError: tell_usage, HTTPException: tell_http},
        lifespan=lifespan,
    )
    app.state.run = run
    return app


def cross_origin(policy: Policy) -> list[Middleware]:
    """CORS for the origins that are named; none by default, and then no header of it is ever sent."""
    if not policy.origins:
        return []
    origins = sorted(policy.origins)
    return [Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])]


async def health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [model_card(request.app.state.run)]})


async def model(request: Request) -> Response:
    run = request.app.state.run
    check_model(run, request.path_params["id"])
    return JSONResponse(model_card(run))


def model_card(run: ServedRun) -> dict[str, object]:
    created = int(run.folder.config_path.stat().st_mtime)
    return {"id": model_id(run), "object": "model", "created": created, "owned_by": "primegpt"}


def model_id(run: ServedRun) -> str:
    return run.folder.path.name


def check_model(run: ServedRun, name: str) -> None:
    """Raises ApiError unless `name` is the run that is served."""
    if name != model_id(run):
        raise ApiError(404, f"there is no model of this name here, only {model_id(run)!r}", code="model_not_found")


async def tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def tell_usage(request: Request, error: Exception) -> Response:
    return ApiError(400, str(error)).response()


async def tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, error.detail).response()
