"""An application on a socket: uvicorn, with limits on what a connection may take of time and memory.

uvicorn waits for ever for headers that do not come and for readers that do not read, and calls every fault of a
request 400. `Connection` sets clocks and tells them apart.
"""

import asyncio
import json
import os
import socket

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from primegpt.errors import UsageError
from primegpt.serving.errors import ApiError

HEADER_SECONDS = 10.0  # in which the headers of a request must arrive, from its first byte or the connection's
STALL_SECONDS = 20.0  # for which a reader may leave its full buffer alone
IDLE_SECONDS = 30.0  # between two requests on a connection
LINGER_SECONDS = 2.0  # in which a refused client may read why
DRAIN_SECONDS = 30.0  # which texts that are being written have on SIGTERM
MAX_HEADERS = 2**14  # bytes
MAX_CONNECTIONS = 512


class Connection(H11Protocol):
    """One connection. Slow senders of headers get 408, too many headers 431, slow readers are cut."""

    clock: asyncio.TimerHandle | None = None  # runs while a request's headers are awaited
    stalled: asyncio.TimerHandle | None = None  # runs while the reader's buffer is full
    unread = 0  # bytes of headers that no request was made of yet
    refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.clock = self.loop.call_later(HEADER_SECONDS, self.headers_are_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop(self.clock)
        self.stop(self.stalled)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.refused:  # it is still sending what was refused
            return
        self.unread += len(data)
        super().data_received(data)
        if self.refused:
            return
        if self.conn.their_state is not h11.IDLE:  # the headers are complete
            self.unread = 0
            self.stop(self.clock)
            self.clock = None
        elif self.clock is None:
            self.clock = self.loop.call_later(HEADER_SECONDS, self.headers_are_late)

    def headers_are_late(self) -> None:
        self.refuse(ApiError(408, f"the headers did not arrive within {HEADER_SECONDS:g} seconds"))

    def send_400_response(self, msg: str) -> None:
        """Called for what is no request, or too large for one."""
        if self.unread > MAX_HEADERS:
            self.refuse(ApiError(431, f"the headers are larger than {MAX_HEADERS} bytes"))
        else:
            self.refuse(ApiError(400, msg))

    def refuse(self, error: ApiError) -> None:
        """Answer, and let go once the other side has read it: closing under a sender's hands would lose the answer."""
        self.refused = True
        self.stop(self.clock)
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()  # another answer has begun
            return
        body = json.dumps(error.body()).encode()
        reason = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}[error.status]
        head = f"HTTP/1.1 {error.status} {reason}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let another program take the port over
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(MAX_CONNECTIONS)  # at once, so that a second server here is told
    except OSError as error:
        opened.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}", "choose another --port") from None
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
