"""Who may ask, and how much: the checks that every request passes before any other code sees it.

A server on 127.0.0.1 is within reach of every page that the user's browser has open. Such a page can send requests
with a foreign Origin, or, by letting its own name resolve to 127.0.0.1 (DNS rebinding), with a foreign Host. Both
are refused, so are bodies that a page may send without asking first (anything but application/json), and off the
loopback interface there is a token besides.
"""

import asyncio
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from primegpt.errors import UsageError
from primegpt.serving.schema import ApiError

TOKEN = "PRIMEGPT_TOKEN"  # the environment variable; a command line can be read by everybody on the machine
SHORTEST = 16  # characters of a token
Endpoint = Callable[[Request], Awaitable[Response]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?")


@dataclass(frozen=True)
class Policy:
    """What a server accepts."""

    hosts: frozenset[str] = LOOPBACK
    """Names, without a port, that the Host header may give."""
    origins: frozenset[str] = frozenset()
    """Foreign origins ("https://example.org") whose pages may ask. The server's own may always."""
    token: str | None = None
    """What `Authorization: Bearer …` must say, where it is set."""
    public: tuple[str, ...] = ("/health",)
    """Paths that need no token; one that ends in a slash stands for all below it, but "/" for itself alone."""
    max_body: int = 2**20
    """Bytes of a body."""
    max_headers: int = 2**14
    """Bytes of all headers, and of the request line."""

    def check(self, scope: Scope) -> None:
        """Raises ApiError for a request that is refused for its headers."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
            # A proxy may go by the other one, and take what comes after this request for its own (RFC 9112, 6.1).
            raise ApiError(400, "the body has both a Content-Length and a Transfer-Encoding", last=True)
        if len(scope["raw_path"]) + len(scope["query_string"]) > self.max_headers:
            raise ApiError(414, f"the request line is larger than {self.max_headers} bytes", last=True)
        if sum(len(name) + len(value) + 4 for name, value in headers) > self.max_headers:
            raise ApiError(431, f"the headers are larger than {self.max_headers} bytes", last=True)
        named = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(named) != 1 or host_name(named[0]) not in self.hosts:
            raise ApiError(403, "this server is not known by the name in the Host header", code="host_not_allowed")
        for origin in (value.decode("latin-1") for name, value in headers if name == b"origin"):
            own = {f"http://{named[0]}".lower(), f"https://{named[0]}".lower()}
            if origin.lower() not in self.origins | own:
                raise ApiError(403, "pages of this origin may not ask this server", code="origin_not_allowed")
        if self.token is not None and not self.is_public(scope["path"]):
            given = [value for name, value in headers if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], b"Bearer " + self.token.encode()):
                raise ApiError(401, "a token is needed: Authorization: Bearer …", code="invalid_api_key")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            kinds = [value.split(b";")[0].strip().lower() for name, value in headers if name == b"content-type"]
            if kinds != [b"application/json"]:
                raise ApiError(415, "the body must be sent as Content-Type: application/json")

    def is_public(self, path: str) -> bool:
        return any(path == open or (open[1:].endswith("/") and path.startswith(open)) for open in self.public)


def host_name(header: str) -> str | None:
    """The name in a Host header, in small letters and without its port; None if it is not one."""
    match = _HOST.fullmatch(header.lower())
    return match[1] if match else None


class Guard:
    """ASGI middleware that carries out a `Policy`, reads bodies whole, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app, self.policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(h for h in HEADERS if h[0] not in given)]
            await send(message)

        try:
            self.policy.check(scope)
            body = await self.read_body(receive) if scope["method"] not in ("GET", "HEAD", "OPTIONS") else None
        except ApiError as error:
            await error.response()(scope, receive, send_closed)
            return
        except ConnectionError:  # it left before its body was here: there is nobody to answer
            return
        with suppress(asyncio.CancelledError):  # the server ends, and has waited long enough for this
            await self.app(scope, receive if body is None else replay(body, receive), send_closed)

    async def read_body(self, receive: Receive) -> bytes:
        """The body. Raises ApiError when it is too large, and ConnectionError when it does not come.

        What is too large is read to its end, though not kept: a client that is still sending would take the answer
        for a broken connection. That has its limit too.
        """
        body, size, more = bytearray(), 0, True
        while more and size <= 64 * self.policy.max_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size <= self.policy.max_body:
                body += chunk
        if size > self.policy.max_body:
            raise ApiError(413, f"the body is larger than {self.policy.max_body} bytes")
        return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` at once and then what comes after it, the disconnect."""
    waiting = [body]

    async def receive_again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_again


def while_connected(endpoint: Endpoint) -> Endpoint:
    """`endpoint`, which is ended when its client leaves before it has an answer: what nobody waits for is not done."""

    @wraps(endpoint)
    async def watched(request: Request) -> Response:
        await request.body()  # nothing can come after it but the news that the client has left
        ended: list[Response | Exception] = []
        async with anyio.create_task_group() as tasks:

            async def work() -> None:
                try:
                    ended.append(await endpoint(request))
                except Exception as error:
                    ended.append(error)
                tasks.cancel_scope.cancel()

            tasks.start_soon(work)
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()
        outcome = ended[0] if ended else Response(status_code=499)  # which nobody reads
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return watched


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
                f"--allow-origin {origin!r} is no origin", "for example https://example.org, no slash at the end"
            )
    allowed = LOOPBACK | names | {bound}
    return Policy(hosts=allowed, origins=frozenset(origins), token=token, public=("/health", *public))
