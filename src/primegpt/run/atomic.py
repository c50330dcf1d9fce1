"""How a file gets onto the disk whole or not at all; everything a run must not lose is written through here.

A crash, a full disk or a pulled plug leaves the old file or the new one, never half of either: write under a temporary
name on the same file system, wait for the disk, rename, wait for the folder. A symbolic link in place of a file is
replaced; what it points at is never touched.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypedDict, TypeVar

from primegpt.errors import CheckpointError, DiskError, PrimegptError

P = ParamSpec("P")
R = TypeVar("R")


class FileRecord(TypedDict):
    """What is known of a file that was written: its length in bytes and the SHA-256 of what it was meant to hold."""

    size: int
    sha256: str


def perform(operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Every operation that changes the disk passes here, so that a test can let the n-th one fail."""
    return operation(*args, **kwargs)


def write_synced(path: Path, chunks: Iterable[bytes | memoryview]) -> FileRecord:
    """Write `chunks` (of bytes) to the new file `path` and wait until they are on the disk. Raises OSError.

    The hash is of the bytes in memory, so a bit that flips on its way to the disk is found when the file is read.
    """
    digest, size = hashlib.sha256(), 0
    with perform(_create, path) as file:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            perform(file.write, chunk)
        perform(file.flush)
        perform(os.fsync, file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _create(path: Path) -> BinaryIO:
    return open(path, "xb")  # x: never through an existing file or link; the mode follows the umask


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk. Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        perform(os.fsync, descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot, and say so
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make `folder`, and those above it, unless it is there; its name is then on the disk. Raises OSError."""
    if not folder.is_dir():
        perform(folder.mkdir, parents=True, exist_ok=True)
        sync_folder(folder.parent)


def remove(path: Path) -> None:
    """Delete a file, a link (not its target) or a folder with all that is in it; a missing one is fine."""
    if path.is_dir() and not path.is_symlink():
        perform(shutil.rmtree, path)
    elif path.exists() or path.is_symlink():
        perform(os.unlink, path)


def temporary_name(path: Path) -> Path:
    """Where the next version of `path` is built: beside it, hidden, known by the process that builds it."""
    return path.with_name(f".tmp-{path.name}-{os.getpid()}")


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, whole or not at all. Raises DiskError when the disk refuses."""
    temporary = temporary_name(path)
    with io_errors(f"write {path}"):
        try:
            remove(temporary)
            write_synced(temporary, [data])
            perform(os.replace, temporary, path)
            sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                remove(temporary)
            raise


def write_text_atomic(path: Path, text: str) -> None:
    """Make `path` hold `text` in UTF-8, line ends as they are; as `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: object) -> None:
    """Make `path` hold `value` as canonical JSON; as `write_bytes_atomic`. Raises ValueError on NaN."""
    write_bytes_atomic(path, canonical_json(value))


def canonical_json(value: object) -> bytes:
    """The one way we spell `value`: sorted keys, two spaces, ASCII, floats that read back to the same bits, no NaN."""
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


@contextmanager
def io_errors(doing: str, kind: type[PrimegptError] = DiskError) -> Generator[None, None, None]:
    """Turn an OSError into one line: could not `doing`: the reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"could not {doing}: {reason(error)}", _REMEDIES.get(error.errno or 0, "")) from error


def reason(error: OSError) -> str:
    """What the system said, without the number and the file name."""
    return error.strerror or str(error)


_REMEDIES = {
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOSPC: "free some space on that disk",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
}


MAX_JSON_BYTES = 2**24  # of a file that carries its own hash, or comes from anyone


@contextmanager
def open_checked(path: Path, record: FileRecord | None = None) -> Generator[BufferedReader, None, None]:
    """Open a file that has the size it should have; whatever the system says becomes a CheckpointError."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if record and size != record["size"]:
                raise CheckpointError(f"{path} is damaged: it has {size} bytes, not {record['size']}")
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error


def record_of(content: bytes) -> FileRecord:
    """What is known of a file that holds `content`."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


class Growing:
    """The record of a file that only grows, or is to hold `content`: what was read of it once is not read again."""

    def __init__(self, content: bytes = b"") -> None:
        self.hash, self.size = hashlib.sha256(content), len(content)

    def read_on(self, path: Path) -> FileRecord:
        with open(path, "rb") as file:
            file.seek(self.size)
            added = file.read()
        self.hash.update(added)
        self.size += len(added)
        return self.record()

    def record(self) -> FileRecord:
        return {"size": self.size, "sha256": self.hash.hexdigest()}


def compare_hash(path: Path, record: FileRecord, actual: str) -> None:
    if actual != record["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {actual}, not {record['sha256']}")


def seal(content: Mapping[str, Any]) -> bytes:
    """JSON that carries the SHA-256 of its own canonical form without that field."""
    digest = hashlib.sha256(canonical_json(content)).hexdigest()
    return canonical_json({**content, "sha256": digest})


def read_sealed(path: Path) -> dict[str, Any]:
    with open_checked(path) as file:
        data = file.read(MAX_JSON_BYTES)
    try:
        content = json.loads(data)
        stored = content.pop("sha256")
        digest = hashlib.sha256(canonical_json(content)).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if data != seal(content):  # to the byte, so that not even a changed space passes
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {digest}, not {stored}")
    return content
