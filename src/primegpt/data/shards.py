"""Tokenized text on disk: fixed-size files of token ids that are memory-mapped, so a corpus need not fit in memory.

    folder/
      tokens-00000.bin …   token ids, little-endian uint16 (ids below 65,536) or uint32, one after another
      roles-00000.bin …    one byte a token, for records with an answer: 0 context, 1 supervised, 2 droppable prompt
      documents.bin        where each document starts in the stream of tokens, little-endian uint64
      manifest.json        what belongs together: sizes and SHA-256 of the files, tokenizer, source, split

Files get their names when they are whole, and the manifest is written last: a folder that has one is complete.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primegpt.errors import DataError, MismatchError

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
DOCUMENTS = "documents.bin"
SUPERVISED = 1  # the role of a token that is asked for
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
PREPARE_AGAIN = "delete that folder and prepare the data again"


class ShardWriter:
    """Appends documents to a stream of tokens that is cut into files of `shard_tokens` ids.

    >>> with ShardWriter(folder, tokenizer.id_dtype) as writer:
    ...     writer.write(ids)  # once a document
    ...     writer.close(tokenizer_fingerprint=..., source_fingerprint=..., split="train", text_bytes=...)

    Leaving the block without `close` leaves no manifest, and so nothing that opens as shards. What `checkpoint` made
    safe stays: a writer that gets its result as `resume` goes on behind it.
    """

    def __init__(
        self,
        folder: str | Path,
        dtype: npt.DTypeLike,
        shard_tokens: int = 100_000_000,
        *,
        roles: bool = False,
        resume: Mapping[str, Any] | None = None,
    ) -> None:
        self.dtype, self.shard_tokens, self.roles = np.dtype(dtype).name, shard_tokens, roles
        if self.dtype not in DTYPES:
            raise ValueError(f"tokens are stored as {' or '.join(DTYPES)}, not {self.dtype}")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)  # from here on the folder is not whole
        saved = resume or {"n_tokens": 0, "supervised": 0, "files": {DOCUMENTS: {"bytes": 0}}}
        self.n_tokens, self.supervised = saved["n_tokens"], saved["supervised"]
        self._files = {name: _HashedFile(self.folder / name, entry) for name, entry in saved["files"].items()}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.abandon()

    def write(self, ids: npt.ArrayLike, roles: npt.ArrayLike | None = None, *, starts: npt.ArrayLike = (0,)) -> None:
        """Append one document, (n,) ids, with a role for each if these shards have roles.

        Or several at once: `starts` says where in `ids` documents begin; what stands before the first one goes on
        with the document before. Raises ValueError if there are no ids or one does not fit the dtype.
        """
        tokens = self._checked(np.asarray(ids))
        marks = None if roles is None else np.asarray(roles, np.uint8)
        if self.roles != (marks is not None) or (marks is not None and marks.shape != tokens.shape):
            raise ValueError("either every token of these shards has a role, or none has")
        self._files[DOCUMENTS].write((np.asarray(starts, np.int64) + self.n_tokens).astype("<u8").tobytes())
        written = 0
        while written < len(tokens):
            room = self.shard_tokens - self.n_tokens % self.shard_tokens
            piece = slice(written, written + room)
            self._current("tokens").write(tokens[piece].tobytes())
            if marks is not None:
                self._current("roles").write(marks[piece].tobytes())
                self.supervised += int((marks[piece] == SUPERVISED).sum())
            self.n_tokens += len(tokens[piece])
            written += room

    def checkpoint(self) -> dict[str, Any]:
        """Put what was written safely on the disk; what a later writer needs to go on from here."""
        files = {name: file.flushed() for name, file in self._files.items()}
        return {"n_tokens": self.n_tokens, "supervised": self.supervised, "files": files}

    def close(self, *, tokenizer_fingerprint: str, source_fingerprint: str, split: str, text_bytes: int) -> None:
        """Finish the files and write the manifest. `text_bytes` is the size in UTF-8 of what is to be learnt."""
        if not self.n_tokens:
            raise ValueError("no document was written")
        manifest = {
            "format_version": FORMAT_VERSION,
            "dtype": self.dtype,
            "roles": self.roles,
            "n_tokens": self.n_tokens,
            "supervised_tokens": self.supervised if self.roles else self.n_tokens,
            "text_bytes": text_bytes,
            "split": split,
            "tokenizer_fingerprint": tokenizer_fingerprint,
            "source_fingerprint": source_fingerprint,
            "files": {name: file.finish() for name, file in sorted(self._files.items())},
        }
        manifest["fingerprint"] = _fingerprint(manifest)
        file = _HashedFile(self.folder / MANIFEST)
        file.write((json.dumps(manifest, indent=2) + "\n").encode())
        file.finish()

    def _checked(self, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        # Without this check numpy would wrap a large id around to a small one, silently.
        if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
            raise ValueError(f"a document is a non-empty row of integer ids, not {ids.dtype} of shape {ids.shape}")
        low, high, largest = int(ids.min()), int(ids.max()), np.iinfo(DTYPES[self.dtype]).max
        if low < 0 or high > largest:
            raise ValueError(f"token id {low if low < 0 else high} is outside 0…{largest}, which {self.dtype} holds")
        return ids.astype(DTYPES[self.dtype], copy=False)

    def _current(self, kind: str) -> "_HashedFile":
        """The file that the next token belongs in, or its role."""
        number = self.n_tokens // self.shard_tokens
        name = f"{kind}-{number:05d}.bin"
        if name not in self._files:
            if number:
                self._files[f"{kind}-{number - 1:05d}.bin"].finish()
            self._files[name] = _HashedFile(self.folder / name)
        return self._files[name]


class Shards:
    """A finished stream of tokens, memory-mapped and read-only. `len(shards)` is its number of tokens."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.fingerprint: str = manifest["fingerprint"]
        self.tokenizer_fingerprint: str = manifest["tokenizer_fingerprint"]
        self.source_fingerprint: str = manifest["source_fingerprint"]
        self.split: str = manifest["split"]
        self.text_bytes: int = manifest["text_bytes"]
        """Size in UTF-8 of the text that is to be learnt: all of it, or the answers of records."""
        self.supervised_tokens: int = manifest["supervised_tokens"]
        self.n_tokens: int = manifest["n_tokens"]
        self.dtype = DTYPES[manifest["dtype"]]
        names = sorted(manifest["files"])
        self._files = [_map(folder / name, self.dtype) for name in names if name.startswith("tokens-")]
        roles = [_map(folder / name, np.dtype(np.uint8)) for name in names if name.startswith("roles-")]
        self._roles = roles if manifest["roles"] else None
        # Read as int64, the type of positions: searchsorted would convert the whole array on every call otherwise.
        self.document_starts: npt.NDArray[np.int64] = _map(folder / DOCUMENTS, np.dtype("<i8"))
        """Where each document starts in the stream, ascending from 0; (n_documents,)."""
        self._file_starts = np.cumsum([0, *(len(file) for file in self._files)])

    @classmethod
    def open(cls, folder: str | Path, tokenizer_fingerprint: str | None = None) -> "Shards":
        """Open finished shards; names and sizes of the files are checked, their contents by `verify`.

        Raises DataError if they are missing or damaged, MismatchError if another tokenizer wrote them.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        found = manifest["tokenizer_fingerprint"]
        if tokenizer_fingerprint not in (None, found):
            raise MismatchError(
                f"{folder}: these shards were written by tokenizer {found}, not by {tokenizer_fingerprint}",
                "use the tokenizer they were prepared with, or prepare the data again",
            )
        try:
            for name, entry in manifest["files"].items():
                _check_size(folder / name, entry["bytes"])
            return cls(folder, manifest)
        except OSError as error:
            raise _unreadable(error) from error

    def verify(self) -> "Shards":
        """Compare every file with its SHA-256 (over 1 GB/s). Raises DataError naming a damaged one."""
        try:
            for name, entry in self.manifest["files"].items():
                _check_hash(self.folder / name, entry["sha256"])
        except OSError as error:
            raise _unreadable(error) from error
        return self

    def part(self, first: int, stop: int) -> "Shards":
        """Documents first … stop - 1 as a stream of their own, over the same files; `text_bytes` stays that of all."""
        start, end = self.document(first)[0], self.document(stop - 1)[1]
        if (start, end) == (0, len(self)):
            return self
        part = copy(self)
        part.n_tokens = end - start
        part._files = self._cut(self._files, start, end)
        part._file_starts = np.cumsum([0, *(len(file) for file in part._files)])
        part.document_starts = self.document_starts[first:stop] - start
        part.supervised_tokens = part.n_tokens
        if self._roles is not None:
            part._roles = self._cut(self._roles, start, end)
            part.supervised_tokens = sum(int((roles == SUPERVISED).sum()) for roles in part._roles)
        return part

    def close(self) -> None:
        """Let go of the files (Windows cannot delete or rename an open one)."""
        self._files, self._roles, self.document_starts = [], None, np.empty(0, np.int64)

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.n_tokens

    @property
    def n_documents(self) -> int:
        return len(self.document_starts)

    def slice(self, start: int, stop: int) -> npt.NDArray[Any]:
        """A copy of the tokens at start … stop - 1, across files."""
        return self._slice(self._files, start, stop)

    @property
    def has_roles(self) -> bool:
        """Whether these are records with an answer, one a document, rather than a stream of text."""
        return self._roles is not None

    def roles(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """A copy of the roles of the tokens at start … stop - 1. Only where `has_roles`."""
        assert self._roles is not None, "these shards have no roles"
        return self._slice(self._roles, start, stop)

    def document(self, index: int) -> tuple[int, int]:
        """Where document `index` starts in the stream, and where it ends."""
        ends = self.document_starts[index + 1] if index + 1 < self.n_documents else len(self)
        return int(self.document_starts[index]), int(ends)

    def _slice(self, files: list[npt.NDArray[Any]], start: int, stop: int) -> npt.NDArray[Any]:
        return np.concatenate(self._cut(files, start, stop) or [np.empty(0, files[0].dtype)])

    def _cut(self, files: list[npt.NDArray[Any]], start: int, stop: int) -> list[npt.NDArray[Any]]:
        """What of each file lies in start … stop - 1."""
        pieces = zip(self._file_starts, files, strict=False)
        cut = [file[max(start - first, 0) : max(stop - first, 0)] for first, file in pieces]
        return [piece for piece in cut if len(piece)]

    def gather(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """A copy of the tokens at `positions` of the stream, in their shape."""
        if len(self._files) == 1:
            return self._files[0][positions]
        which = self._file_index(positions)
        tokens = np.empty(positions.shape, self.dtype)
        for index in np.unique(which):
            here = which == index
            tokens[here] = self._files[index][positions[here] - self._file_starts[index]]
        return tokens

    def document_index(self, positions: npt.ArrayLike) -> Any:
        """Which document (from 0) the tokens at `positions` belong to, in their shape."""
        return np.searchsorted(self.document_starts, positions, side="right") - 1

    def _file_index(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._file_starts, positions, side="right") - 1


class _HashedFile:
    """A file that is hashed while written, and gets its name only when it is safely on disk.

    `saved`, a result of `flushed` or `finish`, goes on with a file of an earlier process, cut to what it had made safe.
    """

    def __init__(self, path: Path, saved: Mapping[str, Any] | None = None) -> None:
        self.path, self.size = path, saved["bytes"] if saved else 0
        self._partial = path.with_name(path.name + ".partial")
        self._finished: dict[str, Any] | None = None
        if saved and "sha256" in saved:
            self._finished = dict(saved)
            return
        if saved and not self._partial.exists() and path.exists():
            path.replace(self._partial)  # it was finished after that
        self._sha256 = hashlib.sha256()
        self._file = self._partial.open("r+b" if self.size else "wb")
        self._file.truncate(self.size)
        while chunk := self._file.read(1 << 20) if self.size else b"":
            self._sha256.update(chunk)

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.size += len(data)

    def flushed(self) -> dict[str, Any]:
        """Bring everything written so far to the disk; the size, and the SHA-256 of a finished file."""
        if self._finished:
            return self._finished
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self.size}

    def finish(self) -> dict[str, Any]:
        """Flush to the disk and rename; the size and SHA-256 for the manifest. Calling it again does no harm."""
        if not self._finished:
            self.flushed()
            self._file.close()
            self._partial.replace(self.path)
            self._finished = {"bytes": self.size, "sha256": self._sha256.hexdigest()}
        return self._finished

    def abandon(self) -> None:
        """Close what was not finished; what is on the disk stays for one who goes on."""
        if not self._finished:
            self._file.close()


def _map(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    # As a plain array: indexing np.memmap itself pays for its subclass on every call.
    return np.memmap(path, dtype, mode="r").view(np.ndarray)


def _fingerprint(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over everything else in the manifest, and through its hashes over every byte of the shards."""
    rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        version, whole = manifest["format_version"], manifest["fingerprint"] == _fingerprint(manifest)
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror or error}", "there are no finished shards; prepare the data"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}", PREPARE_AGAIN) from error
    if version != FORMAT_VERSION:
        raise DataError(f"{path} has format version {version}, this program reads {FORMAT_VERSION}", PREPARE_AGAIN)
    if not whole:
        raise DataError(f"{path} is damaged: its fingerprint does not match its content", PREPARE_AGAIN)
    return manifest


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        raise DataError(f"{path} is damaged: {size:,} bytes instead of {expected:,}", PREPARE_AGAIN)


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise DataError(f"{path} is damaged: its SHA-256 has changed", PREPARE_AGAIN)


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename}: {error.strerror or error}", PREPARE_AGAIN)
