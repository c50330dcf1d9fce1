"""An application on a socket: uvicorn, with limits on what a connection may take of time and memory.

uvicorn waits for ever for headers and bodies that do not come and for readers that do not read, and calls every fault
of a request 400. `Connection` sets clocks and tells them apart.
"""

import asyncio
import json
import os
import socket
from http import HTTPStatus

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from primegpt.errors import UsageError, quoted
from primegpt.serving.schema import ApiError

HEADER_SECONDS = 10.0  # in which the headers of a request must arrive, from its first byte or the connection's
BODY_SECONDS = 30.0  # in which its body must arrive, whether or not it was answered already
STALL_SECONDS = 20.0  # for which a reader may leave its full buffer alone
IDLE_SECONDS = 30.0  # between two requests on a connection
LINGER_SECONDS = 2.0  # in which a refused client may read why
DRAIN_SECONDS = 30.0  # which texts that are being written have on SIGTERM
MAX_HEADERS = 2**14  # bytes
MAX_CONNECTIONS = 512


class Connection(H11Protocol):
    """One connection. Slow senders get 408, large request lines 414, large headers 431; slow readers are cut."""

    clock: asyncio.TimerHandle | None = None  # runs while a request's headers or body are awaited
    timed: tuple[object, object] | None = (
        None  # what the clock was set for: the state of the sender, and in which request
    )
    stalled: asyncio.TimerHandle | None = None  # runs while the reader's buffer is full
    unread = 0  # bytes of headers that no request was made of yet
    refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.set_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop(self.clock)
        self.stop(self.stalled)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.refused:  # it is still sending what was refused
            return
        self.unread += len(data)
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:  # the headers are complete
            self.unread = 0
        self.set_clock()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is not h11.IDLE:  # the headers of the next request were here already
            self.set_clock()

    def set_clock(self) -> None:
        """Time what is awaited of the sender now, unless it is timed already."""
        awaited = (self.conn.their_state, self.cycle)
        if self.refused or awaited == self.timed:
            return
        self.timed = awaited
        self.stop(self.clock)
        if self.conn.their_state is h11.IDLE:
            self.clock = self.loop.call_later(HEADER_SECONDS, self.is_late, "headers", HEADER_SECONDS)
        elif self.conn.their_state is h11.SEND_BODY:
            self.clock = self.loop.call_later(BODY_SECONDS, self.is_late, "body", BODY_SECONDS)

    def is_late(self, what: str, seconds: float) -> None:
        self.refuse(ApiError(408, f"the {what} did not arrive within {seconds:g} seconds"))

    def send_400_response(self, msg: str) -> None:
        """Called for what is no request, or too large for one."""
        if self.unread <= MAX_HEADERS:
            self.refuse(ApiError(400, msg))
        elif b"\n" in self.conn.trailing_data[0]:
            self.refuse(ApiError(431, f"the headers are larger than {MAX_HEADERS} bytes"))
        else:
            self.refuse(ApiError(414, f"the request line is larger than {MAX_HEADERS} bytes"))

    def refuse(self, error: ApiError) -> None:
        """Answer, and let go once the other side has read it: closing under a sender's hands would lose the answer."""
        self.refused = True
        self.stop(self.clock)
        if self.transport.is_closing():
            return
        answered = self.cycle is not None and self.cycle.response_started
        if answered and (not self.cycle.response_complete or self.conn.their_state is h11.SEND_BODY):
            self.transport.abort()  # the request has an answer, or half of one
            return
        body = json.dumps(error.body()).encode()
        head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: application/json\r\n"
        head += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.stalled = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.stop(self.stalled)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)  # if the end of an answer is never read

    def shutdown(self) -> None:
        if self.refused:
            self.transport.abort()
        else:
            super().shutdown()

    def stop(self, clock: asyncio.TimerHandle | None) -> None:
        if clock is not None:
            clock.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A socket at `host`:`port` (0: any free one). Raises UsageError if it cannot be had."""
    if not 0 <= port < 2**16:
        raise UsageError("there is no such port", "ports run from 0 (any free one) to 65,535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let another program take the port over
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(MAX_CONNECTIONS)  # at once, so that a second server here fails at once
    except (OSError, UnicodeError) as error:  # the latter of a name of thousands of letters
        opened.close()
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on {host}, port {quoted(port)}: {reason}", "choose another --port") from None
    return opened


def server_for(app: ASGIApp) -> uvicorn.Server:
    """What answers on a socket: `server_for(app).run(sockets=[listen(host, port)])`.

    SIGINT and SIGTERM (or `should_exit`) end it, once what is being written is finished, within `DRAIN_SECONDS`.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        h11_max_incomplete_event_size=MAX_HEADERS,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    return uvicorn.Server(config)
