"""Who may ask, and how much: every row of the tables in docs/serving.md."""

import contextlib
import http.client
import itertools
import json
import socket
import threading
import time

import psutil
import pytest

import primegpt.serving.server as server
from primegpt.cli.main import run
from primegpt.errors import UsageError
from primegpt.serving.security import LOOPBACK, Policy, host_name, policy_for
from primegpt.serving.serve import create_app

BODY = {"prompt": "a"}
JSON = {"Content-Type": "application/json"}
TOKEN = "a-token-of-32-letters-and-digits"


def status(served, path: str = "/v1/models", body=None, **headers: str | None) -> int:
    """Of a request whose headers are exactly these (and Content-Type for a body)."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.putrequest("GET" if body is None else "POST", path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        if value is not None:
            connection.putheader(name.replace("_", "-"), value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    found = connection.getresponse().status
    connection.close()
    return found


HOSTS = {"127.0.0.1": 1, "127.0.0.1:80": 1, "localhost:9": 1, "LOCALHOST": 1, "[::1]:1": 1, "box.example.org": 1}
HOSTS |= {"evil.com": 0, "127.0.0.1.evil.com": 0, "localhost@evil.com": 0, "127.0.0.1:80:80": 0, "": 0, "0.0.0.0": 0}
ORIGINS = {None: 1, "own": 1, "https://pages.example.org": 1}
ORIGINS |= {"http://evil.com": 0, "null": 0, "https://pages.example.org.evil.com": 0, "http://pages.example.org": 0}
TOKENS = {f"Bearer {TOKEN}": 1, None: 0, "Bearer": 0, "Bearer wrong": 0, f"Bearer {TOKEN}x": 0, f"Basic {TOKEN}": 0}
TOKENS |= {f"Bearer {TOKEN[:-1]}": 0, TOKEN: 0, f"Bearer  {TOKEN}": 0, "Bearer ä": 0}


def test_every_combination_of_host_origin_and_token(serve) -> None:
    policy = Policy(LOOPBACK | {"box.example.org"}, frozenset({"https://pages.example.org"}), TOKEN)
    served = serve(policy=policy)
    seen = set()
    for (host, named), (origin, known), (token, right) in itertools.product(
        HOSTS.items(), ORIGINS.items(), TOKENS.items()
    ):
        given = f"http://{host}" if origin == "own" else origin
        expected = 403 if not (named and known) else 200 if right else 401
        assert status(served, Host=host, Origin=given, Authorization=token) == expected, (host, origin, token)
        seen.add(expected)
    assert seen == {200, 401, 403}


def test_without_a_token_everybody_on_this_machine_may_ask(served) -> None:
    assert status(served, Host="127.0.0.1") == 200
    assert status(served, Host="localhost", Authorization="Bearer whatever") == 200  # clients send one always


def test_health_needs_no_token_but_the_right_host(serve) -> None:
    served = serve(policy=Policy(token=TOKEN))
    assert status(served, "/health", Host="127.0.0.1") == 200
    assert status(served, "/health/", Host="127.0.0.1") == 401
    assert status(served, "/health", Host="evil.com") == 403


@pytest.mark.parametrize("host", [None, "two"])
def test_a_request_has_one_host(served, host: str | None) -> None:
    headers = "".join(f"Host: 127.0.0.1{n}\r\n" for n in ("", "")) if host else ""
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\n{headers}\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_page_can_send_without_asking_is_refused(served, kind: str | None) -> None:
    assert status(served, "/v1/completions", b'{"prompt": "a"}', Host="127.0.0.1", Content_Type=kind) == 415
    right = "application/json; charset=utf-8"
    assert status(served, "/v1/completions", b'{"prompt": "a"}', Host="127.0.0.1", Content_Type=right) == 200


def test_cors_is_for_named_origins_alone(serve, make_run) -> None:
    run = make_run()
    asking = {"Origin": "https://pages.example.org", "Access-Control-Request-Method": "POST"}
    asking["Access-Control-Request-Headers"] = "authorization,content-type"
    for origins, expected in [((), None), (("https://pages.example.org",), "https://pages.example.org")]:
        served = serve(run, policy=Policy(origins=frozenset(origins), token=TOKEN))
        for method, headers in [("OPTIONS", asking), ("GET", {"Origin": asking["Origin"]})]:
            response, connection = served.open(method, "/v1/models", headers=headers)
            assert response.getheader("access-control-allow-origin") == expected
            assert response.status == (403 if not origins else 200 if method == "OPTIONS" else 401)
            connection.close()
        response, connection = served.open("OPTIONS", "/v1/models", headers=asking | {"Origin": "http://evil.com"})
        assert response.getheader("access-control-allow-origin") is None
        assert response.status in (400, 403)
        connection.close()


def test_every_answer_has_the_headers_of_safety(served) -> None:
    for path, headers in [("/health", {}), ("/nothing", {}), ("/health", {"Origin": "http://evil.com"})]:
        response, connection = served.open("GET", path, headers=headers)
        assert "default-src 'none'" in response.getheader("content-security-policy")
        assert response.getheader("x-content-type-options") == "nosniff"
        assert response.getheader("server") is None
        connection.close()


# ---- sizes and times


def test_a_large_body_is_refused_and_so_is_one_that_hides_its_size(served) -> None:
    megabytes = b" " * (20 * 2**20)
    assert served.ask("/v1/completions", megabytes)[0] == 413
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    chunks = (b" " * 2**16 for _ in range(40))
    connection.request("POST", "/v1/completions", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    fits = b'{"prompt": "a"}' + b" " * (2**20 - 15)
    assert served.ask("/v1/completions", fits)[0] == 200
    assert served.ask("/v1/completions", fits + b" ")[0] == 413


@pytest.mark.parametrize("size", [17_000, 60_000, 2**20])
def test_large_headers_are_refused(served, size: int) -> None:
    status, answer = served.ask("/health", headers={f"X-{n}": "x" * (size // 4) for n in range(4)})
    assert (status, answer["error"]["type"]) == (431, "invalid_request_error")
    assert served.ask("/health", headers={"X": "x" * 15_000})[0] == 200


def closed_after(connection: socket.socket) -> tuple[bytes, float]:
    """What comes until the other side lets go, and how long that takes."""
    start, found = time.monotonic(), b""
    connection.settimeout(10)
    try:
        while data := connection.recv(2**16):
            found += data
    except ConnectionError:
        pass
    return found, time.monotonic() - start


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX:"])
def test_headers_that_do_not_come_end_the_connection(served, monkeypatch, sent: bytes) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(sent)
        found, seconds = closed_after(connection)
    assert found.startswith(b"HTTP/1.1 408")
    assert 0.2 < seconds < 5


def test_the_second_request_of_a_connection_is_timed_too(served, monkeypatch) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    whole = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        for _ in range(3):
            time.sleep(0.2)  # under the limit each, over it together
            connection.sendall(whole)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(2**16)
            assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(whole[:20])
        found, seconds = closed_after(connection)
    assert found.startswith(b"HTTP/1.1 408")
    assert seconds < 5


POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("framing", [b"Content-Length: 900\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n384\r\n{"])
def test_a_body_that_does_not_come_is_told(served, monkeypatch, framing: bytes) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(POST + framing)
        found, seconds = closed_after(connection)
    assert found.startswith(b"HTTP/1.1 408")
    assert b"body did not arrive within 0.3 seconds" in found
    assert 0.2 < seconds < 5


def drip(connection: socket.socket, limit: float = 10.0) -> tuple[bytes, float]:
    """What is answered to somebody who sends a byte now and then, and how long he may go on."""
    start, found = time.monotonic(), b""
    connection.settimeout(0.02)
    while time.monotonic() - start < limit:
        try:
            connection.sendall(b" ")
            found += connection.recv(2**16)
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return found, time.monotonic() - start


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (POST, b"HTTP/1.1 408"),
        (POST.replace(b"localhost", b"evil.com"), b"HTTP/1.1 403"),
        (POST.replace(b"json", b"xml"), b"HTTP/1.1 415"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"HTTP/1.1 200"),
    ],
)
def test_a_body_that_drips_ends_its_connection_whatever_was_answered(
    served, monkeypatch, head: bytes, expected: bytes
) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head + b"Content-Length: 9000\r\n\r\n")
        found, seconds = drip(connection)
    assert found.startswith(expected)
    assert found.count(b"HTTP/1.1") == 1
    assert 0.2 < seconds < 5


def test_each_body_of_a_connection_has_its_own_time(served, monkeypatch) -> None:
    """Also one whose headers came before the last answer did."""
    monkeypatch.setattr(server, "BODY_SECONDS", 1.0)
    body = b'{"prompt": "a", "max_tokens": 1}'
    head = POST + b"Content-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head)
        for _ in range(3):
            time.sleep(0.6)  # under the limit each, over it together
            connection.sendall(body + head)
            answer = b""
            while not answer.endswith(b"}}"):
                answer += connection.recv(2**16)
            assert answer.startswith(b"HTTP/1.1 200")
        found, _ = closed_after(connection)
    assert found.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_body_of_two_lengths_is_refused_and_nothing_behind_it_is_read(served, version: bytes) -> None:
    """What a proxy and the server would take for different requests (RFC 9112, 6.1)."""
    head = POST.replace(b"HTTP/1.1", b"HTTP/" + version) + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head + b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        found, _ = closed_after(connection)
    assert found.startswith(b"HTTP/1.1 400")
    assert found.count(b"HTTP/1.1") == 1
    assert b"\r\nconnection: close" in found.lower()


BAD_LENGTHS = [b"+5", b"-1", b"5, 6", b"0x5", b"5 5", b"9" * 5000, b""]


@pytest.mark.parametrize("length", BAD_LENGTHS)
def test_lengths_that_are_none_are_refused(served, length: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(POST + b"Content-Length: " + length + b"\r\n\r\n{}   ")
        found, _ = closed_after(connection)
    assert found.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("size", [17_000, 70_000, 2**20])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("place", "expected"), [("path", 414), ("query", 414), ("header", 431)])
def test_a_head_beyond_the_limit_is_refused_in_whatever_pieces_it_comes(
    served, size: int, at_once: bool, place: str, expected: int
) -> None:
    long = "x" * size
    target = {"path": f"/health/{long}", "query": f"/health?{long}"}.get(place, "/health")
    head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nX: {long if place == 'header' else ''}\r\n\r\n".encode()
    step = len(head) if at_once else 1500
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        for start in range(0, len(head), step):
            connection.sendall(head[start : start + step])
        found, _ = closed_after(connection)
    assert found.startswith(b"HTTP/1.1 %d" % expected)
    assert served.ask("/health?" + "x" * 15_000)[0] == 200


def test_a_connection_that_asks_for_nothing_more_is_closed(serve, monkeypatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 1)
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", serve().port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        found, seconds = closed_after(connection)
    assert found.startswith(b"HTTP/1.1 200")
    assert found.count(b"HTTP/1.1") == 1
    assert 0.9 < seconds < 5


def test_connections_beyond_the_limit_are_told_so(serve, monkeypatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 100)
    served = serve()
    idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(98)]
    assert served.ask("/health")[0] == 200
    idle += [socket.create_connection(("127.0.0.1", served.port)) for _ in range(2)]
    assert status(served, "/health", Host="localhost") == 503
    for connection in idle:
        connection.close()
    limit = time.monotonic() + 5
    while status(served, "/health", Host="localhost") != 200:
        assert time.monotonic() < limit


def test_no_more_is_written_than_a_reader_takes(served) -> None:
    """Four streams that are never read hold little memory, and no slot: whoever reads is answered."""
    body = {"prompt": "a", "max_tokens": 8000, "temperature": 0, "stream": True, "logprobs": 20}
    served.ask("/v1/completions", {"prompt": "a"})
    before = psutil.Process().memory_info().rss
    held = [served.raw(json.dumps(body | {"n": n}).encode(), receive_buffer=4096) for n in (4, 8, 16, 32)]
    limit, still = time.monotonic() + 60, 0
    while still < 10:  # until the buffers of the system are full as well
        still = 0 if served.engine.writing or len(served.engine.waiting) < 4 else still + 1
        assert time.monotonic() < limit, "it goes on writing"
        time.sleep(0.05)
    assert psutil.Process().memory_info().rss - before < 60 * 2**20
    assert served.ask("/v1/completions", {"prompt": "a"})[0] == 200
    assert served.ask("/health")[1]["waiting"] == 60
    for connection in held:
        connection.close()
    served.settle()


def test_a_reader_who_does_not_read_is_cut(served, monkeypatch) -> None:
    monkeypatch.setattr(server, "STALL_SECONDS", 0.3)
    body = b'{"prompt": "a", "n": 16, "max_tokens": 8000, "temperature": 0, "stream": true, "logprobs": 20}'
    with served.raw(body, receive_buffer=4096):
        while len(served.engine.writing) < 16:
            time.sleep(0.001)
        rows = [writing.row for writing in served.engine.writing]
        served.settle(30)  # without this reader's doing
    assert all(len(row.added) < 8000 for row in rows)


def test_a_server_that_ends_waits_only_so_long(make_run, monkeypatch, capfd) -> None:
    monkeypatch.setattr(server, "DRAIN_SECONDS", 1)
    app, listening = create_app(make_run()), server.listen("127.0.0.1", 0)
    ending = server.server_for(app)
    thread = threading.Thread(target=ending.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    body = {"prompt": "a", "max_tokens": 8000, "n": 8, "temperature": 0, "logprobs": 0}

    def read(stream: bool) -> None:
        connection = http.client.HTTPConnection(*listening.getsockname(), timeout=20)
        connection.request("POST", "/v1/completions", json.dumps(body | {"stream": stream}), JSON)
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            connection.getresponse().read()
        connection.close()

    readers = [threading.Thread(target=read, args=(stream,)) for stream in (True, False)]
    for reader in readers:
        reader.start()
    while len(app.state.engine.writing) < 16:
        time.sleep(0.001)
    rows = [writing.row for writing in app.state.engine.writing]
    begun = time.monotonic()
    ending.should_exit = True
    thread.join(15)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 10
    assert all(len(row.added) < 8000 for row in rows)
    assert not app.state.engine.thread.is_alive()
    assert "Traceback" not in capfd.readouterr().err
    for reader in readers:
        reader.join(15)


# ---- what a server is started with


def test_the_token_of_the_environment_is_heeded(make_run, monkeypatch, capsys) -> None:
    started = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: started.append(self.config.app))
    monkeypatch.setenv("PRIMEGPT_TOKEN", TOKEN)
    command = ["serve", str(make_run().folder.path), "--port", "0", "--allow-host", "box", "--slots", "3"]
    assert run(command, 0.0) == 0
    (app,) = started
    (guard,) = app.user_middleware
    assert guard.kwargs["policy"] == Policy(LOOPBACK | {"box"}, token=TOKEN)
    assert app.state.engine.slots == 3
    assert "model 'songs'" in capsys.readouterr().err
    assert run([*command[:-1], "0"], 0.0) == 2


@pytest.mark.parametrize(
    "flags", [["--port", n] for n in ("70000", "-1", "9" * 50)] + [["--port", "0", "--precision", "fp99"]]
)
def test_what_there_is_not_is_told_in_one_line(make_run, capsys, flags: list[str]) -> None:
    assert run(["serve", str(make_run().folder.path), *flags], 0.0) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert ("precision" if "--precision" in flags else "65,535") in told


def test_a_port_that_is_taken_is_told() -> None:
    with server.listen("127.0.0.1", 0) as listening, pytest.raises(UsageError, match="choose another --port"):
        server.listen("127.0.0.1", listening.getsockname()[1])


def test_off_the_loopback_interface_a_token_is_needed() -> None:
    assert policy_for("127.0.0.1", None).token is None
    assert policy_for("::1", None).hosts == policy_for("localhost", None).hosts == LOOPBACK
    for host in ("0.0.0.0", "::", "192.168.0.7", "box"):
        with pytest.raises(UsageError, match="needs a token"):
            policy_for(host, None, ["box"])
        assert policy_for(host, TOKEN, ["box"]).token == TOKEN
    assert "192.168.0.7" in policy_for("192.168.0.7", TOKEN).hosts


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"host": "0.0.0.0", "token": TOKEN}, "must know its names"),
        ({"token": "short"}, "at least 16"),
        ({"token": "with spaces in between"}, "without spaces"),
        ({"hosts": ["http://box"]}, "not a name"),
        ({"hosts": ["box:80"]}, "not a name"),
        ({"origins": ["*"]}, "no origin"),
        ({"origins": ["https://example.org/"]}, "no origin"),
    ],
)
def test_what_would_be_unsafe_is_refused(given: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        policy_for(**{"host": "127.0.0.1", "token": None} | given)


def test_host_names() -> None:
    assert host_name("LocalHost:8000") == "localhost"
    assert host_name("[::1]:80") == "[::1]"
    for wrong in ("", "a b", "a:b", "a:1:2", "[::1", "a@b", "a/b", "a:123456"):
        assert host_name(wrong) is None
