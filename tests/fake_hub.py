"""A Hugging Face hub on this machine that speaks the few endpoints that pushing a model needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_ofThisTestAlone"


class FakeHub:
    """Its repositories: name -> private, and files as they were committed."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.cards: list[str] = []
        self.address = ""
        self.fails: dict[str, int] = {}
        """A part of a path -> the status that requests for it are answered with."""

    def create(self, name: str, private: bool = False) -> None:
        self.private[name], self.files[name] = private, {}

    def answer(self, method: str, path: str, body: bytes, authorized: bool) -> tuple[int, Any, dict[str, str]]:
        """Status, content (JSON or bytes) and headers."""
        for part, status in self.fails.items():
            if part in path:
                return status, {"error": "as the test wants it"}, {}
        if not authorized:
            return 401, {"error": "Invalid username or password."}, {}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            self.cards.append(json.loads(body)["content"])
            return 200, {"errors": [], "warnings": []}, {}
        if path.startswith("/objects/"):
            self.objects[path.rpartition("/")[2]] = body
            return 200, b"", {}
        repo = next((name for name in self.files if f"/{name}" in path), None)
        if repo is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        return self._in_repository(method, path, body, repo)

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        there = name in self.files
        if not there:
            self.create(name, asked.get("visibility") == "private" or bool(asked.get("private")))
        return 409 if there else 200, {"url": f"{self.address}/{name}", "name": name, "id": name}, {}

    def _in_repository(self, method: str, path: str, body: bytes, repo: str) -> tuple[int, Any, dict[str, str]]:
        files = self.files[repo]
        if path.endswith("/objects/batch"):
            asked = json.loads(body)["objects"]
            uploads = [{**o, "actions": {"upload": {"href": f"{self.address}/objects/{o['oid']}"}}} for o in asked]
            return 200, {"transfer": "basic", "objects": uploads}, {}
        if "/preupload/" in path:
            modes = {True: "lfs", False: "regular"}
            asked = [file["path"] for file in json.loads(body)["files"]]
            told = [{"path": p, "uploadMode": modes[p.endswith(".safetensors")], "shouldIgnore": False} for p in asked]
            return 200, {"files": told}, {}
        if "/commit/" in path:
            self._commit(files, body)
            oid = hashlib.sha1(body).hexdigest()
            return 200, {"commitUrl": f"{self.address}/{repo}/commit/{oid}", "commitOid": oid, "success": True}, {}
        if "/resolve/" in path:
            name = path.rpartition("/")[2]
            if name not in files:
                return 404, b"", {"X-Error-Code": "EntryNotFound"}
            headers = {"ETag": hashlib.sha1(files[name]).hexdigest(), "X-Repo-Commit": "0" * 40}
            return 200, files[name], headers
        if "/tree/" in path:
            hashes = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
            return 200, [{"type": "file", "path": n, "size": len(files[n]), "oid": hashes[n]} for n in files], {}
        if method == "GET" and path.startswith("/api/models/"):
            siblings = [{"rfilename": name, "size": len(files[name])} for name in files]
            return 200, {"id": repo, "private": self.private[repo], "sha": "0" * 40, "siblings": siblings}, {}
        return 501, {"error": f"{method} {path}"}, {}

    def _commit(self, files: dict[str, bytes], body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.commits.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]


@contextmanager
def fake_hub() -> Generator[FakeHub, None, None]:
    """A hub that listens, for as long as the block lasts."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}" or self.path.startswith("/objects/")
            status, content, headers = hub.answer(self.command, self.path.partition("?")[0], body, authorized)
            sent = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(sent))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(sent)

        do_GET = do_POST = do_PUT = do_HEAD = respond

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
