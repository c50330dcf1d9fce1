"""The server as a user starts it: it drains on SIGTERM, and many clients cost little more than one."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from primegpt.bench.serving import bench_serving, quantile
from primegpt.tokenizers.char import CharTokenizer

pytestmark = [pytest.mark.reliability, pytest.mark.alone, pytest.mark.timeout(600)]

GREEDY = {"prompt": "a", "max_tokens": 300, "temperature": 0}  # the random model then never ends a text


@pytest.fixture
def folder(random_model, save_run):
    """A run whose steps take a few milliseconds, so that a text of hundreds of tokens takes seconds."""
    tokenizer = CharTokenizer.train(["abcdefghijklmnopqrstuvwxyz ABC.,\nThe"])
    model = random_model(vocab_size=tokenizer.vocab_size, n_layer=6, n_embd=256, n_head=4, block_size=256)
    return save_run(model, tokenizer, "songs", max_new_tokens=8)


@contextlib.contextmanager
def started(folder, *options: str):
    """The process of `primegpt serve`, its port and a function that reads the rest of what it says."""
    command = [sys.executable, "-m", "primegpt", "serve", str(folder), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        line = process.stderr.readline()
        yield process, int(re.search(r":(\d+)/v1", line)[1])
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def asked(port: int, body: dict):
    """A response that has begun."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            yield response


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
def test_sigterm_lets_texts_end_and_takes_no_new_ones(folder) -> None:
    whole: list[dict] = []

    def wait_for_the_whole(port: int) -> None:
        with asked(port, GREEDY | {"n": 2}) as response:
            whole.append(json.load(response))

    with started(folder) as (process, port), socket.create_connection(("127.0.0.1", port)):  # which asks for nothing
        with asked(port, GREEDY | {"stream": True}) as stream:
            waiting = threading.Thread(target=wait_for_the_whole, args=(port,))
            waiting.start()
            for _ in range(5):
                stream.readline()
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(ConnectionError), asked(port, {"prompt": "a"}):
                pass
            assert stream.read().endswith(b"data: [DONE]\n\n")
        waiting.join(60)
        assert [choice["finish_reason"] for choice in whole[0]["choices"]] == ["length", "length"]
        assert whole[0]["usage"]["completion_tokens"] == 600
        assert process.wait(20) == 128 + signal.SIGTERM
        assert "Traceback" not in process.stderr.read()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_it_in_one_line(folder) -> None:
    with started(folder) as (process, port):
        with asked(port, {"prompt": "a"}) as response:
            assert response.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().splitlines()[-1] == "primegpt: interrupted"


def test_sixteen_clients_get_three_times_the_tokens_of_one(folder, capsys) -> None:
    """In turns, so that a busy minute hits both; the health of the server is asked for meanwhile."""
    found, waits = bench_serving(folder, clients=16, tokens=64, turns=5)
    many, one = found.results
    with capsys.disabled():
        print(f"\n{found.as_markdown()}\n{waits.describe()}")
    assert many.median / one.median >= 3
    assert quantile(waits.health, 99) < 100  # one in a hundred may have met a busy moment of the machine
