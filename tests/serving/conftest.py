"""What the tests of the server share: a small run, and a server for it on a real socket."""

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import primegpt
from primegpt.serving.serve import create_app
from primegpt.serving.server import listen, server_for
from primegpt.tokenizers.char import CharTokenizer

JSON = {"Content-Type": "application/json"}


class Served:
    """A server in this process, and a plain client of it."""

    def __init__(self, run: Any, app: Any, port: int) -> None:
        self.run, self.app, self.engine, self.port = run, app, app.state.engine, port

    def open(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout=20.0):
        """A response that has begun, and its connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        content = json.dumps(body).encode() if isinstance(body, dict | list) else body
        connection.request(method, path, content, (JSON if content is not None else {}) | (headers or {}))
        return connection.getresponse(), connection

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None):
        """The status, and the JSON of the answer."""
        response, connection = self.open(method or ("GET" if body is None else "POST"), path, body, headers)
        with contextlib.closing(connection):
            return response.status, json.loads(response.read() or b"null")

    def raw(
        self, body: bytes, size: int | None = None, receive_buffer: int | None = None, path: str = "/v1/completions"
    ) -> socket.socket:
        """A connection on which POST `path` with `body`, of `size` bytes as it says, has been sent."""
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(("127.0.0.1", self.port))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body) if size is None else size}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection

    def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """The objects of a stream; the last is "[DONE]"."""
        response, connection = self.open("POST", path, body | {"stream": True})
        with contextlib.closing(connection):
            assert response.status == 200, response.read()
            assert response.getheader("content-type").startswith("text/event-stream")
            texts = list(self.events(response.read()))
        return [text if text == "[DONE]" else json.loads(text) for text in texts]

    @staticmethod
    def events(body: bytes) -> Iterator[str]:
        """The data of each event of a stream, read by the rules of the HTML standard and by no more than these.

        https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
        """
        data: list[str] = []
        for line in re.split("\r\n|\n|\r", body.decode().removeprefix("\ufeff")):
            name, _, value = line.partition(":")
            if not line:
                if data:
                    yield "\n".join(data)
                data = []
            elif name == "data":
                data.append(value.removeprefix(" "))

    def settle(self, seconds: float = 10.0) -> None:
        """Wait until no text is written, none waits and every slot is free. Fails when that does not come about."""
        limit = time.monotonic() + seconds
        while self.engine.load or self.engine.waiting or self.engine.context.cache.lengths:
            assert time.monotonic() < limit, f"{self.engine.load} texts are still there"
            time.sleep(0.005)


@pytest.fixture
def make_run(random_model, save_run) -> Callable[..., Any]:
    """A maker of runs with a random model that writes letters."""

    def make(name: str = "songs", special_tokens=None, preset: str = "gpt2", generate=None, **sizes: object) -> Any:
        tokenizer = CharTokenizer.train(["abcdefghijklmnopqrstuvwxyz ABC.,\n"], special_tokens=special_tokens)
        model = random_model(preset, vocab_size=tokenizer.vocab_size, **sizes)
        return primegpt.load(save_run(model, tokenizer, name, **(generate or {"max_new_tokens": 8})), device="cpu")

    return make


@pytest.fixture
def serve(make_run) -> Iterator[Callable[..., Served]]:
    """A starter of servers, which end with the test."""
    with contextlib.ExitStack() as stack:

        def start(run: Any = None, **options: Any) -> Served:
            run = run or make_run()
            app, listening = create_app(run, **options), listen("127.0.0.1", 0)
            server = server_for(app)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join(20)
                assert not thread.is_alive()

            stack.callback(stop)
            while not server.started:
                time.sleep(0.002)
            return Served(run, app, listening.getsockname()[1])

        yield start


@pytest.fixture
def served(serve) -> Served:
    return serve()
