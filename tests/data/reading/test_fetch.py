"""Fetching from a server on this machine: whole, broken off and resumed, damaged, unreachable."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from primegpt.data.reading import fetch
from primegpt.data.reading.fetch import LineProgress, RemoteCorpus, RemoteFile, corpora_folder
from primegpt.data.reading.sources import read_documents
from primegpt.errors import DataError, PrimegptError

CONTENT = b"".join(b"line %d of the corpus\n" % number for number in range(40_000))  # more than one chunk


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT with ranges and an ETag, and does what the server object says beside."""

    def do_GET(self) -> None:
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        start = 0
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range", server.tag) == server.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(body[: server.break_after])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    """A server that has the corpus "test"."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.tag, server.break_after, server.ranges = CONTENT, '"v1"', None, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    checksum = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    url = f"http://127.0.0.1:{server.server_port}/corpus.txt"
    monkeypatch.setitem(fetch.CORPORA, "test", RemoteCorpus("a test", (RemoteFile(url, checksum),)))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def broken_fetch(server: ThreadingHTTPServer, after: int) -> str:
    server.break_after = after
    with pytest.raises(PrimegptError) as caught:
        fetch.fetch("test")
    server.break_after = None
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left_over() -> list[str]:
    return sorted(path.name for path in (corpora_folder() / "test").iterdir())


def test_a_corpus_is_fetched_once_and_is_then_a_source(server):
    with pytest.raises(DataError, match="test is not on this machine; fetch it first: primegpt data fetch test"):
        list(read_documents(["test"], songs=1))
    heard: list[tuple[str, int, int | None]] = []
    (path,) = fetch.fetch("test", lambda *progress: heard.append(progress))
    assert path.read_bytes() == CONTENT
    assert heard[-1] == ("corpus.txt", len(CONTENT), len(CONTENT))
    assert left_over() == ["corpus.txt"]
    assert fetch.fetch("test") == [path]
    assert len(server.ranges) == 1
    assert [document.text.encode() for document in read_documents(["test"], songs=1)] == [CONTENT]


def test_a_broken_download_goes_on_where_it_stopped(server):
    message = broken_fetch(server, 500_000)
    assert f"the connection broke after 500,000 of {len(CONTENT):,} bytes; run the command again to go on" in message
    assert left_over() == ["corpus.txt.partial", "corpus.txt.partial.etag"]
    broken_fetch(server, 1)
    (path,) = fetch.fetch("test")
    assert server.ranges == [None, "bytes=500000-", "bytes=500001-"]
    assert path.read_bytes() == CONTENT
    assert left_over() == ["corpus.txt"]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server):
    server.content = CONTENT[::-1]
    broken_fetch(server, 1000)
    server.content, server.tag = CONTENT, '"v2"'
    assert fetch.fetch("test")[0].read_bytes() == CONTENT


def test_without_a_tag_nothing_is_resumed(server):
    server.tag = None
    broken_fetch(server, 1000)
    assert fetch.fetch("test")[0].read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_a_partial_file_that_is_whole_already(server):
    broken_fetch(server, 1000)
    (corpora_folder() / "test" / "corpus.txt.partial").write_bytes(CONTENT)  # killed before it was renamed
    assert fetch.fetch("test")[0].read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT)}-", None]


def test_a_wrong_checksum_is_refused_and_deleted(server):
    server.content = CONTENT.replace(b"line 7 ", b"line 8 ")
    with pytest.raises(PrimegptError, match=r"what arrived is not what was expected: sha256:\w{64} instead of sha256:"):
        fetch.fetch("test")
    assert "corpus.txt" not in left_over()
    assert "corpus.txt.partial" not in left_over()
    server.content = CONTENT
    assert fetch.fetch("test")[0].read_bytes() == CONTENT


def test_offline_it_is_said_what_to_do(monkeypatch):
    url = "http://127.0.0.1:9/corpus.txt"  # nobody listens there
    monkeypatch.setitem(fetch.CORPORA, "test", RemoteCorpus("a test", (RemoteFile(url),)))
    with pytest.raises(PrimegptError) as caught:
        fetch.fetch("test")
    assert str(caught.value) == (
        f"{url} cannot be fetched: Connection refused; run the command again to go on from there, or download that "
        f"file by hand and name it as a source"
    )


def test_a_missing_file_is_said(server, monkeypatch):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(PrimegptError, match=r"corpus\.txt cannot be fetched: Not Found; run"):
        fetch.fetch("test")


def test_a_name_that_there_is_not():
    with pytest.raises(DataError, match="'shakspeare' is no corpus that can be fetched; did you mean 'shakespeare'"):
        fetch.fetch("shakspeare")


def test_checksums_in_the_manner_of_git(tmp_path):
    (tmp_path / "a").write_bytes(b"what is up, doc?")  # the example of Pro Git, chapter 10.2
    assert fetch._checksum(tmp_path / "a", "git:") == "git:bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_the_checksum_of_shakespeare_is_that_of_the_file(shared_data):
    (file,) = fetch.CORPORA["shakespeare"].files
    assert fetch._checksum(shared_data / "tinyshakespeare.txt", "sha256:") == file.checksum


def test_progress_is_a_line_now_and_then(monkeypatch):
    lines: list[str] = []
    clock = iter([0.0, 1.0, 2.5, 3.0])
    monkeypatch.setattr(fetch.time, "monotonic", lambda: next(clock))
    progress = LineProgress(lines.append)
    for done in (0, 1, 5, 8):
        progress("a.txt", done * 1_000_000, 8_000_000)
    assert lines == ["a.txt: 5.0 of 8.0 MB, 2.0 MB/s, 2 s left", "a.txt: 8.0 of 8.0 MB, 2.7 MB/s, 0 s left"]
