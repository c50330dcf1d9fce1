"""Tokenized text on disk: files of token ids that are memory-mapped, so a corpus need not fit in memory.

    folder/
      tokens-00000.bin …   token ids, little-endian uint16 (ids below 65,536) or uint32, one after another
      roles-00000.bin …    one byte a token, its role, for records with an answer
      documents.bin        where each document starts in the stream of tokens, little-endian uint64
      manifest.json        what belongs together: sizes and SHA-256 of the files, tokenizer, source, split

A folder that has a manifest is complete. Writing is shard_writer.py's part.
"""

import hashlib
import json
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
# The roles of tokens. A PROMPT is context that training may leave out; what is REJECTED is the other answer of a pair,
# which stands after the one that is preferred.
CONTEXT, SUPERVISED, PROMPT, REJECTED = 0, 1, 2, 3
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
PREPARE_AGAIN = "delete that folder and prepare the data again"


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
        self.reference: npt.NDArray[np.float32] | None = None
        """Of pairs: a frozen model's log-probabilities of the chosen and of the rejected answer; (n_documents, 2)."""
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
                check_hash(self.folder / name, entry["sha256"])
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
        part.reference = None if self.reference is None else self.reference[first:stop]
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

    def slice(self, start: int, stop: int) -> npt.NDArray[np.integer]:
        """A copy of the tokens at start … stop - 1, across files."""
        return self._slice(self._files, start, stop)

    @property
    def has_roles(self) -> bool:
        """Whether these are records with an answer, one a document, rather than a stream of text."""
        return self._roles is not None

    @property
    def has_pairs(self) -> bool:
        """Whether each record is a prompt with two answers."""
        return self.has_roles and bool(self.roles(len(self) - 1, len(self)) == REJECTED)

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

    def gather(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.integer]:
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


def _map(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    # As a plain array: indexing np.memmap itself pays for its subclass on every call.
    return np.memmap(path, dtype, mode="r").view(np.ndarray)


def fingerprint_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over everything else in the manifest, and through its hashes over every byte of the shards."""
    rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        version, whole = manifest["format_version"], manifest["fingerprint"] == fingerprint_of(manifest)
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


def check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise DataError(f"{path} is damaged: its SHA-256 has changed", PREPARE_AGAIN)


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename}: {error.strerror or error}", PREPARE_AGAIN)
