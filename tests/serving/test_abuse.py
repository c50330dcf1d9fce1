"""Requests that nobody in his senses would send, and clients that leave: nothing breaks, nothing is left behind."""

import json
import math
import socket
import threading
import time

import psutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primegpt.serving.completions import read_logprobs
from primegpt.serving.schema import ChatRequest, CompletionRequest, Message, StreamOptions

FIELDS = sorted({*CompletionRequest.model_fields, *ChatRequest.model_fields, *Message.model_fields, "nonsense"})
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
