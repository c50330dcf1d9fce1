"""A server under load: the tokens per second of many clients beside those of one, and how long each has to wait.

The server is a process of its own, started as a user would; the clients, which only count, share another.
"""

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from primegpt.bench.compare import Comparison, compare
from primegpt.errors import UsageError
from primegpt.terminal import Say, silent

HEALTH_EVERY = 0.05  # seconds


@dataclass
class Waits:
    """Seconds that were waited."""

    first_token: list[float] = field(default_factory=list)
    """From the request to the first piece of text, one a request."""
    health: list[float] = field(default_factory=list)
    """For an answer of /health while texts were written."""

    def describe(self) -> str:
        return (
            f"first token: p50 {quantile(self.first_token, 50):.0f} ms, p95 {quantile(self.first_token, 95):.0f} ms "
            f"({len(self.first_token)} requests); /health meanwhile: p50 {quantile(self.health, 50):.0f} ms, "
            f"p99 {quantile(self.health, 99):.0f} ms ({len(self.health)} requests)"
        )


def quantile(seconds: list[float], percent: int) -> float:
    """Milliseconds within which `percent` of the waits were over."""
    return 1000 * float(np.percentile(seconds, percent)) if seconds else math.nan


def bench_serving(
    run: str | Path,
    *,
    clients: int = 16,
    tokens: int = 128,
    turns: int = 5,
    say: Say = silent,
) -> tuple[Comparison, Waits]:
    """Let `clients` at once and a single one take turns at having texts of `tokens` tokens written.

    The waits are those while many ask. Raises UsageError if the server does not start.
    """
    waits = Waits()
    with server(run) as port:
        asyncio.run(write(port, 1, 8, Waits()))  # the first steps of a process are slow

        def many() -> float:
            return asyncio.run(write(port, clients, tokens, waits))

        def one() -> float:
            return asyncio.run(write(port, 1, tokens, Waits()))

        task = f"texts of {tokens} tokens from a server"
        contestants = {f"{clients} clients": many, "one client": one}
        return compare(task, "tokens/s", contestants, turns=turns, say=say), waits


@contextmanager
def server(run: str | Path) -> Iterator[int]:
    """A server of `run` in a process of its own; its port. It ends with the block."""
    command = [sys.executable, "-m", "primegpt", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stderr is not None
        said = []
        try:
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                    yield int(found[1])
                    break
            else:
                raise UsageError(f"the server did not start: {''.join(said).strip()}")
        finally:
            process.terminate()


async def write(port: int, clients: int, tokens: int, waits: Waits) -> float:
    """The tokens per second that `clients` read together."""
    watching = asyncio.create_task(watch_health(port, waits))
    start = time.perf_counter()
    written = await asyncio.gather(*(stream(port, seed, tokens, waits) for seed in range(clients)))
    seconds = time.perf_counter() - start
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return sum(written) / seconds


async def stream(port: int, client: int, tokens: int, waits: Waits) -> int:
    """Read texts, one after another where they end early, until there were `tokens` tokens; how many there were."""
    written = 0
    for text in range(tokens):
        if written >= tokens:
            break
        options = {"stream": True, "stream_options": {"include_usage": True}}
        asked = {"prompt": "The", "seed": 1000 * client + text, "max_tokens": tokens - written, **options}
        start, waited = time.perf_counter(), False
        async for line in lines(port, "POST", "/v1/completions", json.dumps(asked).encode()):
            if line.startswith(b"data: {") and not waited:
                waits.first_token.append(time.perf_counter() - start)
                waited = True
            if b'"usage":{' in line:
                written += json.loads(line[6:])["usage"]["completion_tokens"]
    return written


async def watch_health(port: int, waits: Waits) -> None:
    while True:
        await asyncio.sleep(HEALTH_EVERY)
        start = time.perf_counter()
        async for _ in lines(port, "GET", "/health", b""):
            pass
        waits.health.append(time.perf_counter() - start)


async def lines(port: int, method: str, path: str, body: bytes):
    """The lines of a response, headers and all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    try:
        while line := await reader.readline():
            yield line
    finally:
        writer.close()
