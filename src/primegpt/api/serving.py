"""A run behind the OpenAI API, for other programs and for browsers."""

import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from primegpt.api.runs import Run, Say, load, to_stderr
from primegpt.errors import UsageError
from primegpt.model.size import human_bytes
from primegpt.serving.security import LOOPBACK, Policy, host_name

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

TOKEN = "PRIMEGPT_TOKEN"  # the environment variable; a command line can be read by everybody on the machine
SHORTEST = 16  # characters of a token


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
    routes: Callable[[Run], Sequence["BaseRoute"]] = lambda run: (),
    public: Sequence[str] = (),
    ready: Callable[[str], None] = lambda url: None,
    say: Say = to_stderr,
) -> None:
    """Answer requests to the run until a signal ends it; what is being written then is finished first.

    `hosts` are further names by which the server is known, `origins` those of web pages that may ask it. Anywhere
    but on the loopback interface a `token` is needed (by default that of the environment variable PRIMEGPT_TOKEN).
    `routes` are mounted beside the API, without a token those under the paths `public`; `ready` is told the URL.
    Raises UsageError for what would be unsafe, and for a port that is taken.
    """
    from primegpt.serving.app import create_app
    from primegpt.serving.run import model_id
    from primegpt.serving.server import listen, server_for

    if not 1 <= slots <= 1024 or not 32 <= queue <= 65536:
        raise UsageError(f"{slots} slots and a queue of {queue}", "1 to 1,024 slots, 32 to 65,536 in the queue")
    policy = policy_for(host, token or os.environ.get(TOKEN), hosts, origins, public)
    with listen(host, port) as listening:
        run = load(path, checkpoint=checkpoint, device=device, say=say)
        app = create_app(run, policy=policy, slots=slots, queue=queue, precision=precision, routes=routes(run))
        cache = app.state.engine.context.cache
        url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        say(f"{run.folder.path}, step {run.step:,}: {url}/v1, model {model_id(run)!r}")
        say(f"{slots} texts at once, whose cache takes {human_bytes(cache.k.nbytes + cache.v.nbytes)}; Ctrl-C ends it")
        ready(url)
        server_for(app).run(sockets=[listening])


def policy_for(
    host: str, token: str | None, hosts: Sequence[str] = (), origins: Sequence[str] = (), public: Sequence[str] = ()
) -> Policy:
    """What a server on `host` accepts. Raises UsageError for what would be unsafe."""
    bound = f"[{host}]" if ":" in host else host.lower()
    names = {name.lower() for name in hosts}
    if wrong := [name for name in names if host_name(name) != name]:
        raise UsageError(f"--allow-host {wrong[0]!r} is not a name", "give it without http:// and port")
    if bound not in LOOPBACK:
        if not token:
            hint = f"for example export {TOKEN}={secrets.token_urlsafe(24)}"
            raise UsageError(f"a server on {host} can be reached by others, so it needs a token", hint)
        if bound in ("0.0.0.0", "[::]") and not names:
            raise UsageError(f"a server on {host} must know its names", "give them: --allow-host box.example.org")
    if token is not None and not re.fullmatch(rf"[!-~]{{{SHORTEST},}}", token):
        raise UsageError(f"the token must have at least {SHORTEST} characters, ASCII without spaces")
    for origin in origins:
        if not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin):
            raise UsageError(
                f"--allow-origin {origin!r} is no origin", "for example https://example.org, no slash behind"
            )
    allowed = LOOPBACK | names | {bound}
    return Policy(hosts=allowed, origins=frozenset(origins), token=token, public=("/health", *public))
