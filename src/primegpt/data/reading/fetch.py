"""Public corpora by name: downloaded once, checked, kept in the user's cache folder, and then usable as a source.

$PRIMEGPT_CACHE/corpora/NAME/FILE            the file, whole
$PRIMEGPT_CACHE/corpora/NAME/FILE.partial    what an interrupted download left; the next one goes on from there
"""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primegpt.errors import DataError, PrimegptError, nearest
from primegpt.terminal import Say

CHUNK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte

Progress = Callable[[str, int, int | None], None]  # name of the file, bytes so far, bytes in all if known


@dataclass(frozen=True)
class RemoteFile:
    """One file of a corpus: `checksum` is "sha256:…", "git:…" (the blob's name in a Git repository), or unknown."""

    url: str
    checksum: str | None = None

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class RemoteCorpus:
    """What a name stands for."""

    about: str
    files: tuple[RemoteFile, ...]


_GITHUB = "https://raw.githubusercontent.com"
_HUB = "https://huggingface.co/datasets"
CORPORA = {
    "shakespeare": RemoteCorpus(
        "tiny Shakespeare: 1.1 MB of plays",
        (
            RemoteFile(
                f"{_GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
                "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            ),
        ),
    ),
    "fineweb-edu": RemoteCorpus(
        "the first file of the 10-billion-token sample of FineWeb-Edu: about 2 GB, 700 million tokens",
        (RemoteFile(f"{_HUB}/HuggingFaceFW/fineweb-edu/resolve/main/sample/10BT/000_00000.parquet"),),
    ),
    "imdb": RemoteCorpus(
        "75,000 film reviews: about 65 MB",
        tuple(
            RemoteFile(f"{_HUB}/stanfordnlp/imdb/resolve/main/plain_text/{split}-00000-of-00001.parquet")
            for split in ("train", "unsupervised")
        ),
    ),
    "hellaswag": RemoteCorpus(
        "the 10,042 validation questions of HellaSwag, for evaluation: 12 MB",
        (
            RemoteFile(
                f"{_GITHUB}/rowanz/hellaswag/a29ff8e9a04bba4bd6588223785ce105328adc57/data/hellaswag_val.jsonl",
                "git:0f5ee25d72216f12317d5d8a7b92deafa423d81e",
            ),
        ),
    ),
}


def corpora_folder() -> Path:
    """Where fetched corpora are kept: in $PRIMEGPT_CACHE, else in the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("PRIMEGPT_CACHE") or user_cache_path("primegpt")) / "corpora"


def fetched(name: str) -> list[Path]:
    """The files of a corpus that was fetched. Raises DataError, saying how to fetch it, if it was not."""
    paths = [corpora_folder() / name / file.name for file in CORPORA[name].files]
    if not all(path.is_file() for path in paths):
        raise DataError(f"{name} is not on this machine", f"fetch it first: primegpt data fetch {name}")
    return paths


def fetch(name: str, progress: Progress = lambda *_: None) -> list[Path]:
    """Download the corpus `name` unless it is there, going on where an interrupted download stopped; its files.

    `progress` hears of each file, its bytes so far and in all. Raises DataError for a name that there is not,
    PrimegptError when the network fails, or when what arrived is not what was expected.
    """
    if name not in CORPORA:
        raise DataError(f"{name!r} is no corpus that can be fetched", nearest(name, CORPORA))
    return [_fetch_file(file, corpora_folder() / name / file.name, progress) for file in CORPORA[name].files]


def _fetch_file(file: RemoteFile, path: Path, progress: Progress) -> Path:
    if path.is_file():
        return path
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(file, partial, progress)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        raise PrimegptError(
            f"{file.url} cannot be fetched: {_reason(error)}",
            "run the command again to go on from there, or download that file by hand and name it as a source",
        ) from None
    if file.checksum and (found := _checksum(partial, file.checksum)) != file.checksum:
        partial.unlink()
        raise PrimegptError(
            f"{file.url}: what arrived is not what was expected: {found} instead of {file.checksum}",
            "it was deleted; try again, or download the file by hand and name it as a source",
        )
    partial.replace(path)
    _tag_path(partial).unlink(missing_ok=True)
    return path


def _download(file: RemoteFile, partial: Path, progress: Progress) -> None:
    """Bring `partial` to its full length. Raises OSError when the connection breaks before."""
    with _open(file.url, partial) as response:
        resuming = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = partial.stat().st_size if resuming else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        if tag := response.headers.get("ETag"):
            _tag_path(partial).write_text(tag, encoding="utf-8")
        with partial.open("ab" if resuming else "wb") as out:
            while chunk := response.read(CHUNK):
                out.write(chunk)
                done += len(chunk)
                progress(file.name, done, total)
    if total is not None and done < total:
        raise OSError(f"the connection broke after {done:,} of {total:,} bytes")


def _open(url: str, partial: Path) -> Any:
    """The response to a request for the rest of the file, or for all of it if that rest is no longer of that file."""
    headers = {"User-Agent": "primegpt"}
    tag = _tag_path(partial)
    if partial.is_file() and tag.is_file():  # without a tag nobody could tell whether the file is still the same
        headers |= {"Range": f"bytes={partial.stat().st_size}-", "If-Range": tag.read_text(encoding="utf-8")}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        partial.unlink()  # longer than the file now is, or whole already: once more from the start
        return _open(url, partial)


def _tag_path(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _checksum(path: Path, like: str) -> str:
    """The checksum of a file, of the same kind as `like`."""
    kind = like.split(":")[0]
    with path.open("rb") as file:
        if kind == "sha256":
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        return f"git:{digest.hexdigest()}"


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(getattr(reason, "strerror", None) or reason)


class LineProgress:
    """Progress as a line every few seconds: "input.txt: 0.5 of 1.1 MB, 2.1 MB/s"."""

    def __init__(self, say: Say, interval: float = 2.0) -> None:
        self.say, self.interval = say, interval
        self.name, self.began, self.first, self.said = "", 0.0, 0, 0.0

    def __call__(self, name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if name != self.name:
            self.name, self.began, self.first, self.said = name, now, done, now
        if now - self.said < self.interval and done != total:
            return
        self.said = now
        of = f" of {total / 1e6:,.1f}" if total else ""
        speed = (done - self.first) / max(now - self.began, 1e-3) / 1e6
        left = f", {(total - done) / 1e6 / speed:,.0f} s left" if total and speed else ""
        self.say(f"{name}: {done / 1e6:,.1f}{of} MB, {speed:,.1f} MB/s{left}")
