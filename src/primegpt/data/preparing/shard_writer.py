"""How shards come to be: stretches of a stream of tokens, written in any order by anybody, then sealed as one.

A stretch is one file of ids, one of roles, and `starts-NNNNN.bin`, where documents start in it, which goes into
`documents.bin` when the stream is sealed. Names come last: whatever has one is whole and on the disk.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypedDict
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from primegpt.data.preparing.shards import DOCUMENTS, DTYPES, FORMAT_VERSION, MANIFEST, SUPERVISED, fingerprint_of

UNNAMED = ".tmp-"  # how a file is called, with a word of its own, until it is whole


class Stretch(TypedDict):
    """What `StretchWriter` has written, in plain JSON. `files`: the size and SHA-256 of each, by name."""

    n_tokens: int
    supervised: int
    files: dict[str, dict[str, Any]]


class StretchWriter:
    """Appends documents to stretch `number` of a stream, counted from 0.

    >>> with StretchWriter(folder, 0, tokenizer.id_dtype) as writer:
    ...     writer.write(ids)  # once a document
    ...     stretch = writer.finish()
    >>> seal(folder, [stretch], tokenizer_fingerprint=..., source_fingerprint=..., split="train", text_bytes=...)

    Leaving the block without `finish` leaves nothing on the disk, nor does a stretch of no tokens.
    """

    def __init__(self, folder: str | Path, number: int, dtype: npt.DTypeLike, *, roles: bool = False) -> None:
        self.folder, self.number, self.dtype, self.roles = Path(folder), number, np.dtype(dtype).name, roles
        if self.dtype not in DTYPES:
            raise ValueError(f"tokens are stored as {' or '.join(DTYPES)}, not {self.dtype}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.n_tokens = self.supervised = 0
        self._files: dict[str, _HashedFile] = {}

    def __enter__(self) -> "StretchWriter":
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
        self._file("starts").write((np.asarray(starts, np.int64) + self.n_tokens).astype("<u8").tobytes())
        self._file("tokens").write(tokens.tobytes())
        if marks is not None:
            self._file("roles").write(marks.tobytes())
            self.supervised += int((marks == SUPERVISED).sum())
        self.n_tokens += len(tokens)

    def finish(self) -> Stretch:
        """Put the files on the disk under their names; what `seal` needs to know of them."""
        files = {name: file.finish() for name, file in sorted(self._files.items())}
        return {"n_tokens": self.n_tokens, "supervised": self.supervised, "files": files}

    def _checked(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        # Without this check numpy would wrap a large id around to a small one, silently.
        if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
            raise ValueError(f"a document is a non-empty row of integer ids, not {ids.dtype} of shape {ids.shape}")
        low, high, largest = int(ids.min()), int(ids.max()), np.iinfo(DTYPES[self.dtype]).max
        if low < 0 or high > largest:
            raise ValueError(f"token id {low if low < 0 else high} is outside 0…{largest}, which {self.dtype} holds")
        return ids.astype(DTYPES[self.dtype], copy=False)

    def _file(self, kind: str) -> "_HashedFile":
        name = f"{kind}-{self.number:05d}.bin"
        if name not in self._files:
            self._files[name] = _HashedFile(self.folder / name)
        return self._files[name]


def seal(
    folder: Path,
    stretches: Sequence[Stretch],
    *,
    dtype: npt.DTypeLike,
    roles: bool = False,
    tokenizer_fingerprint: str,
    source_fingerprint: str,
    split: str,
    text_bytes: int,
) -> None:
    """Make the stretches in `folder` one stream, in their order: write documents.bin, then the manifest.

    `text_bytes` is the size in UTF-8 of what is to be learnt. No token is read or moved. May be done again, until the
    `starts` are removed. Raises ValueError if there is no token.
    """
    n_tokens = sum(stretch["n_tokens"] for stretch in stretches)
    if not n_tokens:
        raise ValueError("no document was written")
    manifest = {
        "format_version": FORMAT_VERSION,
        "dtype": np.dtype(dtype).name,
        "roles": roles,
        "n_tokens": n_tokens,
        "supervised_tokens": sum(stretch["supervised"] for stretch in stretches) if roles else n_tokens,
        "text_bytes": text_bytes,
        "split": split,
        "tokenizer_fingerprint": tokenizer_fingerprint,
        "source_fingerprint": source_fingerprint,
        "files": _kept_files(stretches) | {DOCUMENTS: _write_documents(folder, stretches)},
    }
    manifest["files"] = dict(sorted(manifest["files"].items()))
    manifest["fingerprint"] = fingerprint_of(manifest)
    file = _HashedFile(folder / MANIFEST)
    file.write((json.dumps(manifest, indent=2) + "\n").encode())
    file.finish()


def _kept_files(stretches: Sequence[Stretch]) -> dict[str, Mapping[str, Any]]:
    files = (item for stretch in stretches for item in stretch["files"].items())
    return {name: entry for name, entry in files if not name.startswith("starts-")}


def _write_documents(folder: Path, stretches: Sequence[Stretch]) -> dict[str, object]:
    """All `starts` one after the other, counted from the beginning of the stream."""
    file, before = _HashedFile(folder / DOCUMENTS), 0
    for stretch in stretches:
        for name in stretch["files"]:
            if name.startswith("starts-"):
                file.write((np.fromfile(folder / name, "<u8") + np.uint64(before)).tobytes())
        before += stretch["n_tokens"]
    return file.finish()


class _HashedFile:
    """A file that is hashed while written, and gets its name only when it is safely on disk.

    Two processes may write the same one: each does so under a name of its own, and whoever is last replaces it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._unnamed = path.with_name(f"{UNNAMED}{path.name}-{uuid4().hex}")
        self._sha256 = hashlib.sha256()
        self._file: BinaryIO = self._unnamed.open("wb")

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.size += len(data)

    def finish(self) -> dict[str, object]:
        """Flush to the disk and rename; the size and SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unnamed.replace(self.path)
        return {"bytes": self.size, "sha256": self._sha256.hexdigest()}

    def abandon(self) -> None:
        """Remove what was not finished."""
        self._file.close()
        self._unnamed.unlink(missing_ok=True)
