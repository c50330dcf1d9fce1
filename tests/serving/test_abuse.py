"""Requests that nobody in his senses would send, and clients that leave: nothing breaks, nothing is left behind."""

import itertools
import json
import math
import re
import socket
import threading
import time

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primegpt.serving.engine import read_logprobs
from primegpt.serving.playground import Guess, Layer, Place, Prompt, Text, Writing
from primegpt.serving.schema import NEUTRAL, ChatRequest, CompletionRequest, Message, StreamOptions
from primegpt.serving.serve import page_routes

SOME = {"logit_bias", "tools", "tool_calls", "user", "nonsense"}  # of the fields that may be there and do nothing
FIELDS = sorted({*CompletionRequest.model_fields, *ChatRequest.model_fields, *Message.model_fields, *SOME})
texts = st.text(max_size=20)
numbers = (
    st.integers(-3, 40)
    | st.integers()
    | st.floats(allow_nan=True)
    | st.sampled_from([2**63, -(2**63), 1e308, math.inf])
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | texts, inner, max_size=4),
    max_leaves=8,
)
messages = st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": texts})
# Values that are right for a field more often than chance would have it, so that bodies get past the first check.
likely = {
    "prompt": texts | st.lists(texts, max_size=3) | st.lists(st.integers(-1, 50), max_size=70),
    "messages": st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": texts}), max_size=3
    ),
    "stop": texts | st.lists(texts, max_size=3),
    "model": st.just("songs") | texts,
    "template": st.sampled_from(["text", "song", "chat"]),
    "stream_options": st.fixed_dictionaries({}, optional={name: st.booleans() for name in StreamOptions.model_fields}),
    **{name: st.booleans() for name in ("stream", "echo")},
    **{name: st.integers(0, 5) for name in ("n", "seed", "logprobs", "top_logprobs", "top_k", "max_tokens")},
    **{name: st.floats(0, 2) for name in ("temperature", "top_p", "min_p", "repetition_penalty")},
}
bodies = st.fixed_dictionaries(
    {}, optional={name: (likely[name] | likely[name] | anything) if name in likely else anything for name in FIELDS}
)
few = st.lists(st.sampled_from(sorted(likely)), max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({name: likely[name] for name in names})
)


def test_500_bodies_are_answered_or_refused(served) -> None:
    """No 5xx, no hang, an error in its shape, and every slot free again."""
    seen: dict[int, int] = {}

    @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(["completions", "chat/completions"]), few | few | bodies | anything)
    def check(path: str, body) -> None:
        content = json.dumps(body).encode("utf-8", "surrogatepass")
        response, connection = served.open("POST", f"/v1/{path}", content, timeout=10)
        answer = response.read()
        connection.close()
        seen[response.status] = seen.get(response.status, 0) + 1
        assert response.status in (200, 400, 404), answer
        if response.status != 200:
            assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}

    check()
    assert seen[200] > 20, seen  # the test reaches what lies behind the checks
    assert seen[400] > 20, seen
    served.settle()


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200))
def test_bytes_that_are_no_json(served, content: bytes) -> None:
    status, answer = served.ask("/v1/completions", content)
    assert status == 400 or (status == 200 and json.loads(content) == {}), answer


# Texts of JSON values, from the merely wrong to the absurd, as bytes since some of them are no text.
ABSURD = [b"null", b"true", b'""', b'"x"', b"[]", b"{}", b"-1", b"0.5", b"1e308", b"-1e308", b"1e999", b"-0", b"NaN"]
ABSURD += [b"Infinity", b"2147483648", b"-9223372036854775809", b"9" * 30, b"9" * 5000, b"-" + b"9" * 5000, b"1e-400"]
ABSURD += [
    b"[" * 150 + b"]" * 150,
    b"[" * 10**4,
    b'{"a":' * 10**3,
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\xff"',
    b'"\xed\xa0\x80"',
]
ABSURD += [
    b'"\\u0000"',
    b'"' + b"x" * 5000 + b'"',
    b'"\xf0\x9f\x8e\xb5"',
    b"[null]",
    b"[[]]",
    b"[{}]",
    b'[""]',
    b"[-1]",
    b"[0.5]",
    b"[true]",
]
ABSURD += [
    b"[" + b"9" * 5000 + b"]",
    b"[2000000]",
    b'{"type":"text"}',
    b'{"type":5}',
    b'[{"type":"text"}]',
    b'[{"type":[[]]}]',
    b"",
]
PATHS = [
    "-1",
    "1",
    "9" * 5000,
    "0.5",
    "1e3",
    "NaN",
    "true",
    "%00",
    "%ff",
    "%ed%a0%80",
    "%F0%9F%8E%B5",
    "..",
    "%2e%2e",
    "%2F",
    "+1",
    "%20",
    "%D9%A1",
]
USUAL = {"ids": [1, 2], "id": 1, "position": 1, "prompt": "a", "messages": [{"role": "user", "content": "a"}]}


@pytest.fixture
def playing(serve, make_run):
    run = make_run()
    return serve(run, routes=page_routes([run.folder.path])(run))


def answered(served, method: str, path: str, content: bytes | None = None) -> int:
    """The status, after it was made sure that it is no 5xx and that a refusal has its shape."""
    response, connection = served.open(method, path, content)
    body = response.read()
    connection.close()
    assert response.status < 500, (method, path[:60], content and content[:100], body)
    if response.status >= 400 and method != "HEAD":
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}, (path[:60], body)
        assert len(body) < 2000
    return response.status


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.reliability)])
def test_absurd_values_in_every_field_of_every_body(playing, every: int) -> None:
    kinds = {"/v1/completions": CompletionRequest, "/v1/chat/completions": ChatRequest, "/play/encode": Prompt}
    kinds |= {"/play/next": Text, "/play/look": Text, "/play/attention": Layer, "/play/lens": Text, "/play/near": Place}
    kinds |= {"/play/write": Writing, "/play/flow": Guess, "/play/block": Layer}
    posts = {route.path for route in playing.app.routes if "POST" in (getattr(route, "methods", None) or ())}
    assert posts == set(kinds), "a route that this test does not know"
    seen: dict[int, int] = {}
    for path, kind in kinds.items():
        usual = {name: json.dumps(USUAL[name]).encode() for name in USUAL if name in kind.model_fields}
        usual |= {name: b"2" for name in ("max_tokens", "max_new_tokens") if name in kind.model_fields}
        cases = itertools.product([*([name] for name in kind.model_fields), list(NEUTRAL)], ABSURD)
        for names, value in itertools.islice(cases, 0, None, every):
            fields = usual | dict.fromkeys(names, value)
            body = b",".join(b'"%s":%s' % (name.encode(), text) for name, text in fields.items())
            status = answered(playing, "POST", path, b"{" + body + b"}")
            seen[status] = seen.get(status, 0) + 1
        for body in (*ABSURD[::every], b'{"ids":[1],"ids":[1]}', b'{"prompt":"a","prompt":5}'):
            answered(playing, "POST", path, body)
    assert set(seen) <= {200, 400, 404}, seen
    assert min(seen[200], seen[400]) > 10, seen
    assert playing.ask("/v1/completions", {"prompt": "a"})[0] == 200
    playing.settle()


def test_absurd_values_in_every_part_of_every_path(playing) -> None:
    methods = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "PATCH", "BREW")
    for route in playing.app.routes:
        for number, value in enumerate(PATHS if "{" in route.path else [""]):
            path = re.sub(r"{[^}]*}", value, route.path)
            answered(playing, "GET", path)
            answered(playing, methods[number % len(methods)], path)
    for value in PATHS:
        for query in (f"after={value}", f"{value}={value}", f"after={value}&after=0", "after", "after=" + "&" * 500):
            answered(playing, "GET", f"/play/runs/0/progress?{query}")
    assert playing.ask("/play/runs/0/progress?after=1")[0] == 200


@pytest.mark.parametrize(
    "line", [b"GET /health\xff HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /a b HTTP/1.1", b"G\xc3 / HTTP/1.1"]
)
@pytest.mark.parametrize("header", [b"X: y", b"X\xff: y", b"X: \x00", b" X: y", b"X y"])
def test_requests_that_are_no_text(served, line: bytes, header: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
        connection.sendall(line + b"\r\nHost: localhost\r\n" + header + b"\r\n\r\n")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 400")


def test_a_fault_of_ours_has_the_shape_of_an_error(served, monkeypatch) -> None:
    monkeypatch.setattr("primegpt.serving.serve.check_model", lambda run, name: 1 / 0)
    status, answer = served.ask("/v1/models/songs")
    assert (status, answer["error"]["type"]) == (500, "server_error")


ENDLESS = {"prompt": "a", "max_tokens": 8000, "temperature": 0}  # the random model then never ends a text


def memory() -> int:
    return psutil.Process().memory_info().rss


def test_a_hundred_clients_that_leave_in_mid_stream(served) -> None:
    asked = ENDLESS | {"stream": True}

    def leave(number: int) -> None:
        response, connection = served.open("POST", "/v1/completions", asked | {"n": 1 + number % 3})
        for _ in range(number % 5):  # some before the first piece
            response.readline()
        if number % 2:  # in the middle of a line, and without good manners
            connection.sock and connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        response.close()
        connection.close()

    for number in range(20):
        leave(number)
    served.settle()
    before = memory()
    for start in range(0, 100, 10):
        threads = [threading.Thread(target=leave, args=(start + number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    served.settle()
    begun = time.monotonic()
    assert served.ask("/v1/completions", {"prompt": "a"})[0] == 200
    assert time.monotonic() - begun < 2
    assert memory() - before < 50 * 2**20
    served.settle()


def test_fifty_sockets_that_say_nothing_and_large_requests_meanwhile(served) -> None:
    """Whoever asks properly is answered at once, and memory does not grow."""
    served.ask("/v1/completions", b" " * (20 * 2**20))  # the client's own buffers are counted too
    before = memory()
    slow = [served.raw(b" " * (20 * 2**20), size=21 * 2**20) for _ in range(4)]  # the rest of whose bodies never comes
    for number in range(50):
        connection = socket.create_connection(("127.0.0.1", served.port))
        connection.sendall([b"", b"POST /v1/completions HTTP/1.1\r\nHost: local", b"G"][number % 3])
        slow.append(connection)
    for _ in range(5):
        assert served.ask("/v1/completions", b" " * (20 * 2**20))[0] == 413
        assert served.ask("/health", headers={"X": "x" * 2**20})[0] == 431
    begun = time.monotonic()
    assert served.ask("/v1/completions", {"prompt": "a"})[0] == 200
    assert time.monotonic() - begun < 2
    assert memory() - before < 50 * 2**20
    for connection in slow:
        connection.close()


def test_whoever_waits_for_a_whole_answer_and_leaves_stops_it_too(served) -> None:
    body = json.dumps(ENDLESS | {"n": 4}).encode()
    with served.raw(body):
        while served.engine.load < 4:
            time.sleep(0.001)
        rows = [writing.row for writing in served.engine.writing]
    served.settle()
    assert all(len(row.added) < 8000 for row in rows)


def test_prompts_are_not_read_for_whoever_has_left(served, monkeypatch) -> None:
    """Of many prompts whose log-probabilities are asked for, at most one more than were read."""
    read = []

    def slowly(decoder, ids, top):
        read.append(ids)
        time.sleep(0.1)
        return read_logprobs(decoder, ids, top)

    monkeypatch.setattr("primegpt.serving.completions.read_logprobs", slowly)
    with served.raw(json.dumps({"prompt": ["ab"] * 30, "max_tokens": 0, "echo": True, "logprobs": 1}).encode()):
        while len(read) < 2:
            time.sleep(0.001)
    time.sleep(0.6)
    assert len(read) <= 4


def test_nothing_is_looked_at_for_whoever_has_left(playing, monkeypatch) -> None:
    """A slider that is dragged asks many times and hears the last answer alone; so the last one alone is computed."""
    asked, go = [], threading.Event()

    def slowly(model, ids):
        asked.append(ids[0])
        go.wait(10)
        return torch.zeros(3)

    monkeypatch.setattr("primegpt.serving.lens.next_logits", slowly)
    left = [playing.raw(b'{"ids":[%d]}' % id, path="/play/next") for id in range(1, 6)]
    while not asked:
        time.sleep(0.001)
    for connection in left:
        connection.close()
    time.sleep(0.2)  # in which their leave-taking is noticed
    go.set()
    assert playing.ask("/play/next", {"ids": [6]})[0] == 200
    assert len(asked) == 2
    assert asked[1] == 6
