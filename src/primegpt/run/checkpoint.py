"""Checkpoints: named tensors and plain state, saved atomically, verified when read, never pickled.

    step-000500/
      model.safetensors  optimizer.safetensors  state.json      what was saved
      MANIFEST.json       written last, removed first: the size and SHA-256 of each file, and a hash of itself
      evaluation.json     may come later; it carries a hash of its own

Several ranks write whole tensors, each its share of them, to `model-00001-of-00002.safetensors` and so on.

A checkpoint is built in `.tmp-step-000500-PID` and renamed when it is whole. One that is replaced or deleted is first
renamed to `.trash-step-000500-PID`, and still counts for as long as its manifest is there.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from primegpt.errors import CheckpointError, PrimegptError
from primegpt.run import atomic
from primegpt.run.atomic import FileRecord, canonical_json, remove, sync_folder, write_synced
from primegpt.run.tensors import Chunks, OnDisk, deserialize, serialize

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
MANIFEST, STATE, EVALUATION = "MANIFEST.json", "state.json", "evaluation.json"
MAX_JSON_BYTES = 2**24  # of a manifest or an evaluation

Warn = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says it holds. One that is not `resumable` is weights only: fit to generate, not to resume."""

    step: int
    resumable: bool
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: `tensors` maps a file's stem ("model", "optimizer") to its tensors by name.

    They are in memory, or read when asked for, as `load_checkpoint` says.
    """

    step: int
    state: dict[str, Any]
    tensors: "Mapping[str, Mapping[str, Tensor]]"
    resumable: bool
    path: Path


def step_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:06d}"


# Saving


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: "Mapping[str, Mapping[str, Tensor]]",
    state: Mapping[str, Any],
    *,
    resumable: bool = True,
) -> Path:
    """Write `folder/step-NNNNNN`, whole or not at all, and return its path; a checkpoint of that step is replaced.

    `tensors` maps a file's stem to its tensors by name, no two of which may share memory; equal tensors give equal
    bytes, and the largest tensor is all the memory it needs. `state` is plain JSON: strings as keys, lists rather than
    tuples, no NaN. When the disk fails nothing changes, and a PrimegptError names the last good step.
    """
    contents = contents_of(tensors, "") | {STATE: encoded_state(state)}
    with saving(folder, step):
        return write_checkpoint(folder, step, contents, resumable)


def contents_of(tensors: "Mapping[str, Mapping[str, Tensor]]", part: str) -> dict[str, Chunks]:
    """The bytes of each file of tensors, by name; `part` is "", or "-00001-of-00002" for the first of two shares."""
    return {f"{stem}{part}.safetensors": serialize(named) for stem, named in tensors.items()}


def encoded_state(state: Mapping[str, Any]) -> Chunks:
    """The bytes of state.json."""
    encoded = canonical_json(state)
    assert json.loads(encoded) == state, "state would come back different: use str keys, and lists for tuples"
    return [encoded]


@contextmanager
def saving(folder: Path, step: int) -> Generator[None, None, None]:
    """Turn an OSError into a PrimegptError that names the step and the last good one."""
    try:
        yield
    except OSError as error:
        what = f"could not save step {step} in {folder}: {atomic.reason(error)}"
        raise PrimegptError(what, last_good(folder)) from error


def last_good(folder: Path) -> str:
    """What there is to go back to in `folder`, in words for an error."""
    try:
        path = newest_good(folder, warn=lambda message: None)
    except CheckpointError:
        path = None
    return f"last good is step {step_of(path)}" if path else "no earlier checkpoint is whole"


def write_checkpoint(folder: Path, step: int, contents: Mapping[str, Chunks], resumable: bool) -> Path:
    """The protocol of `save_checkpoint`, for files already in bytes, by name. Raises OSError."""
    temporary = atomic.temporary_name(folder / step_name(step))
    try:
        begin_checkpoint(temporary)
        return complete_checkpoint(temporary, step, write_files(temporary, contents), resumable)
    except Exception:
        with suppress(OSError):
            remove(temporary)
        raise


def begin_checkpoint(temporary: Path) -> None:
    """Make the hidden folder in which a checkpoint is built. Raises OSError."""
    atomic.make_folder(temporary.parent)
    remove(temporary)
    atomic.perform(os.mkdir, temporary)


def write_files(temporary: Path, contents: Mapping[str, Chunks]) -> dict[str, FileRecord]:
    """Write files, by name, into a checkpoint that is being built. Raises OSError."""
    return {name: write_synced(temporary / name, chunks) for name, chunks in contents.items()}


def complete_checkpoint(temporary: Path, step: int, files: Mapping[str, FileRecord], resumable: bool) -> Path:
    """Seal `files`, which are all on the disk, with a manifest, and give the checkpoint its name. Raises OSError."""
    final = temporary.with_name(step_name(step))
    sealed = {name: record for name, record in files.items() if name != EVALUATION}  # that one may come later
    manifest = {"format": FORMAT, "step": step, "resumable": resumable, "files": sealed}
    write_synced(temporary / MANIFEST, [_seal(manifest)])
    sync_folder(temporary)
    _put_in_place(temporary, final)
    return final


def _put_in_place(new: Path, final: Path) -> None:
    """Rename `new` to `final`; what was there waits in the trash, whole, until the new one is safe on the disk."""
    old = move_to_trash(final) if final.exists() or final.is_symlink() else None
    try:
        atomic.perform(os.rename, new, final)
    except OSError:
        if old:
            with suppress(OSError):
                atomic.perform(os.rename, old, final)
        raise
    sync_folder(final.parent)
    if old:
        with suppress(OSError):  # the checkpoint is saved; `tidy` removes what is left over
            empty_trash(old)


def move_to_trash(path: Path) -> Path:
    """Rename a checkpoint to where it no longer is one, yet can be put back from. Raises OSError."""
    trash = path.with_name(f".trash-{path.name}-{os.getpid()}")
    remove(trash)
    atomic.perform(os.rename, path, trash)
    return trash


def empty_trash(trash: Path) -> None:
    """Delete what `move_to_trash` moved; of a link, only the link. Raises OSError."""
    if not trash.is_symlink():
        remove(trash / MANIFEST)  # first, so that what is half deleted no longer counts as a checkpoint
    remove(trash)


# Reading


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Where each step's checkpoint lies, by rising step, damaged ones included."""
    found = {}
    for path in sorted(folder.glob("*step-*")):  # a trashed one counts, unless a live one follows
        step = step_of(path)
        if step is not None and (path.name == step_name(step) or (path / MANIFEST).exists()):
            found[step] = path
    return dict(sorted(found.items()))


def step_of(path: Path) -> int | None:
    """The step in the name of a checkpoint, be it in the trash; None for any other name."""
    match = re.fullmatch(r"step-(\d{6,})|\.trash-step-(\d{6,})-\d+", path.name)
    return int(match[1] or match[2]) if match else None


def verify_checkpoint(path: Path) -> Manifest:
    """Hash every file of a checkpoint. Raises CheckpointError naming the file and what differs."""
    manifest = read_manifest(path)
    for name, record in manifest.files.items():
        with _open_checked(path / name, record) as file:
            _compare_hash(path / name, record, hashlib.file_digest(file, "sha256").hexdigest())
    for entry in path.iterdir():  # hidden ones are the system's, or ours on the way to becoming an evaluation
        if entry.name not in {MANIFEST, EVALUATION, *manifest.files} and not entry.name.startswith("."):
            raise CheckpointError(f"{entry} is not in the checkpoint's manifest", "move it elsewhere")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """What the checkpoint at `path` says it holds; only the manifest itself is verified. Raises CheckpointError."""
    content = _read_sealed(path / MANIFEST)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path / MANIFEST} has format {content.get('format')}, not {FORMAT}", "update primegpt")
    try:
        files = {name: FileRecord(size=of["size"], sha256=of["sha256"]) for name, of in content["files"].items()}
        manifest = Manifest(content["step"], content["resumable"], files)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is not the manifest of a checkpoint: {error!r}") from error
    for name in manifest.files:  # nothing outside the folder is ever opened, whoever wrote the manifest
        if name != STATE and not stem_of(name):
            raise CheckpointError(f"{path / MANIFEST} names {name!r}, which no checkpoint holds")
    if step_of(path) not in (None, manifest.step):
        raise CheckpointError(f"{path} holds step {manifest.step}", "give the folder its own name back")
    return manifest


def load_checkpoint(path: Path, names: Collection[str] | None = None, *, lazily: bool = False) -> Checkpoint:
    """Read the state and the tensor files `names` (stems; None: all of them) into memory, verifying what is read.

    The bytes that are hashed are the very bytes that are used; but `lazily` all files are hashed first, and each tensor
    is read again when it is asked for, for one who keeps a part of it. Raises CheckpointError as `verify_checkpoint`.
    """
    manifest = verify_checkpoint(path) if lazily else read_manifest(path)
    if names is None:
        names = {stem for name in manifest.files if (stem := stem_of(name))}
    load = _open_tensors if lazily else _load_tensors
    tensors = {stem: load(path, stem, manifest) for stem in names}
    try:
        state = json.loads(read_verified(path, STATE, manifest))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / STATE} is not JSON: {error}") from error
    return Checkpoint(manifest.step, state, tensors, manifest.resumable, path)


def stem_of(name: str) -> str | None:
    """The `model` of model.safetensors, or of a share of it, model-00001-of-00002.safetensors; None for other names."""
    match = re.fullmatch(r"(\w+?)(-\d{5,}-of-\d{5,})?\.safetensors", name)
    return match[1] if match else None


def tensor_files(stem: str, manifest: Manifest) -> list[str]:
    """The files of a checkpoint that hold its `stem`, "model", between them: one, or a share of each rank.

    Where there is none, the name that one would have.
    """
    return sorted(name for name in manifest.files if stem_of(name) == stem) or [f"{stem}.safetensors"]


def _open_tensors(path: Path, stem: str, manifest: Manifest) -> "Mapping[str, Tensor]":
    names = tensor_files(stem, manifest)
    try:
        return OnDisk(path / name for name in names)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: {', '.join(names)} cannot be used: {error}") from error


def _load_tensors(path: Path, stem: str, manifest: Manifest) -> "Mapping[str, Tensor]":
    tensors = {}
    for name in tensor_files(stem, manifest):
        data = read_verified(path, name, manifest)
        try:
            tensors |= deserialize(data)
        except ValueError as error:  # whole, but not made by us
            raise CheckpointError(f"{path / name} cannot be used: {error}") from error
    return tensors


def read_verified(path: Path, name: str, manifest: Manifest) -> bytes:
    """The bytes of one file of the checkpoint at `path`, if they are the ones in its manifest, or CheckpointError."""
    if name not in manifest.files:
        raise CheckpointError(f"{path} holds no {name}, only {', '.join(sorted(manifest.files))}")
    record = manifest.files[name]
    with _open_checked(path / name, record) as file:
        data = file.read()
    _compare_hash(path / name, record, hashlib.sha256(data).hexdigest())
    return data


@contextmanager
def _open_checked(path: Path, record: FileRecord | None = None) -> Generator[BufferedReader, None, None]:
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
        raise CheckpointError(f"{path} cannot be read: {atomic.reason(error)}") from error


def _compare_hash(path: Path, record: FileRecord, actual: str) -> None:
    if actual != record["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {actual}, not {record['sha256']}")


def newest_good(folder: Path, warn: Warn, *, resumable: bool = True) -> Path | None:
    """The newest checkpoint that is whole (and, by default, resumable); None when there is none at all.

    Damaged newer ones are passed over with one line to `warn`. Raises CheckpointError when there are checkpoints but
    none is good, since starting afresh would bury them.
    """

    def verified(path: Path) -> Path:
        verify_checkpoint(path)
        return path

    return _newest(folder, warn, resumable, verified)


def load_newest(
    folder: Path, warn: Warn, names: Collection[str] | None = None, *, resumable: bool = True, lazily: bool = False
) -> Checkpoint | None:
    """Load what `newest_good` would name, as `load_checkpoint` does; only what is read (`names`) has to be whole."""
    return _newest(folder, warn, resumable, lambda path: load_checkpoint(path, names, lazily=lazily))


def _newest(folder: Path, warn: Warn, resumable: bool, read: Callable[[Path], T]) -> T | None:
    damages, weights_only = [], []
    for path in reversed(list_checkpoints(folder).values()):
        try:
            if resumable and not read_manifest(path).resumable:
                weights_only.append(path)
                continue
            good = read(path)
        except CheckpointError as error:
            damages.append(error.what)
            continue
        if damages:
            warn(f"{'; '.join(damages)}; using {path.name} instead")
        return good
    if damages:
        raise CheckpointError(f"no checkpoint is whole: {'; '.join(damages)}", "restore one, or start anew elsewhere")
    if weights_only:
        raise CheckpointError(f"{folder} holds weights only, nothing to resume", "fine-tune from this run instead")
    return None


# Evaluations: small results, committed beside the checkpoint they judge


def commit_evaluation(path: Path, result: Mapping[str, Any]) -> None:
    """Write `result` (plain JSON, no NaN) beside a checkpoint, whole or not at all. Raises PrimegptError."""
    sealed = _seal({"step": read_manifest(path).step, "result": result})
    assert len(sealed) <= MAX_JSON_BYTES, "an evaluation this large would not be read back"
    atomic.write_bytes_atomic(path / EVALUATION, sealed)


def read_evaluation(path: Path, warn: Warn) -> dict[str, Any] | None:
    """The result committed beside the checkpoint at `path`; None, to be done again, if there is none that is whole."""
    if not (path / EVALUATION).exists():
        return None
    try:
        content = _read_sealed(path / EVALUATION)
        if content.get("step") != read_manifest(path).step or "result" not in content:
            raise CheckpointError(f"{path / EVALUATION} belongs to another step: {content.get('step')}")
    except CheckpointError as error:
        warn(f"{error.what}; evaluating again")
        return None
    return content["result"]


def _seal(content: Mapping[str, Any]) -> bytes:
    """JSON that carries the SHA-256 of its own canonical form without that field."""
    digest = hashlib.sha256(canonical_json(content)).hexdigest()
    return canonical_json({**content, "sha256": digest})


def _read_sealed(path: Path) -> dict[str, Any]:
    with _open_checked(path) as file:
        data = file.read(MAX_JSON_BYTES)
    try:
        content = json.loads(data)
        stored = content.pop("sha256")
        digest = hashlib.sha256(canonical_json(content)).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if data != _seal(content):  # to the byte, so that not even a changed space passes
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {digest}, not {stored}")
    return content
