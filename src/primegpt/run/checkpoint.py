"""Checkpoints: named tensors and plain state, verified when read, never pickled. saving.py writes them.

    step-000500/
      model.safetensors  optimizer.safetensors  state.json      what was saved
      MANIFEST.json       written last, removed first: the size and SHA-256 of each file, and a hash of itself
      evaluation.json     may come later; it carries a hash of its own

Several ranks write whole tensors, each its share of them, to `model-00001-of-00002.safetensors` and so on.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from primegpt.errors import CheckpointError
from primegpt.run import atomic
from primegpt.run.atomic import (
    MAX_JSON_BYTES,
    FileRecord,
    canonical_json,
    compare_hash,
    open_checked,
    read_sealed,
    seal,
)
from primegpt.run.tensors import OnDisk, deserialize
from primegpt.terminal import Say

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
MANIFEST, STATE, EVALUATION = "MANIFEST.json", "state.json", "evaluation.json"

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
    tensors: "dict[str, Mapping[str, Tensor]]"
    resumable: bool
    path: Path

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration of the run when this was saved; None in what earlier versions imported."""
        return self.state.get("config")


def step_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:06d}"


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
        with open_checked(path / name, record) as file:
            compare_hash(path / name, record, hashlib.file_digest(file, "sha256").hexdigest())
    for entry in path.iterdir():  # hidden ones are the system's, or ours on the way to becoming an evaluation
        if entry.name not in {MANIFEST, EVALUATION, *manifest.files} and not entry.name.startswith("."):
            raise CheckpointError(f"{entry} is not in the checkpoint's manifest", "move it elsewhere")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """What the checkpoint at `path` says it holds; only the manifest itself is verified. Raises CheckpointError."""
    content = read_sealed(path / MANIFEST)
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


def fingerprint_of(path: Path) -> str:
    """What identifies all that the checkpoint at `path` says it holds; of the weights, where it holds no more."""
    return hashlib.sha256(canonical_json(read_manifest(path).files)).hexdigest()


def load_checkpoint(
    path: Path, names: Collection[str] | None = None, *, lazily: bool = False, run: str | None = None
) -> Checkpoint:
    """Read the state and the tensor files `names` (stems; None: all of them) into memory, verifying what is read.

    The bytes that are hashed are the very bytes that are used; but `lazily` all files are hashed first, and each tensor
    is read again when it is asked for, for one who keeps a part of it. Raises CheckpointError as `verify_checkpoint`,
    and for a checkpoint of another run than `run`, if that is given.
    """
    manifest = verify_checkpoint(path) if lazily else read_manifest(path)
    if names is None:
        names = {stem for name in manifest.files if (stem := stem_of(name))}
    load = _open_tensors if lazily else _load_tensors
    try:
        state = json.loads(read_verified(path, STATE, manifest))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / STATE} is not JSON: {error}") from error
    if run is not None and (theirs := _run_in(state)) != run:
        what = f"{path} belongs to another run: {theirs or 'one without a name'}, not {run or 'one without a name'}"
        raise CheckpointError(f"{what} (plan.run in config.toml)", "move it elsewhere, or put config.toml back")
    tensors = {stem: load(path, stem, manifest) for stem in names}
    return Checkpoint(manifest.step, state, tensors, manifest.resumable, path)


def _run_in(state: Any) -> str:
    try:
        return state["config"]["plan"]["run"]
    except (KeyError, TypeError):  # made before runs had an identity
        return ""


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
    with open_checked(path / name, record) as file:
        data = file.read()
    compare_hash(path / name, record, hashlib.sha256(data).hexdigest())
    return data


def newest_good(folder: Path, warn: Say, *, resumable: bool = True) -> Path | None:
    """The newest checkpoint that is whole (and, by default, resumable); None when there is none at all.

    Damaged newer ones are passed over with one line to `warn`. Raises CheckpointError when there are checkpoints but
    none is good, since starting afresh would bury them.
    """

    def verified(path: Path) -> Path:
        verify_checkpoint(path)
        return path

    return _newest(folder, warn, resumable, verified)


def load_newest(
    folder: Path,
    warn: Say,
    names: Collection[str] | None = None,
    *,
    resumable: bool = True,
    lazily: bool = False,
    run: str | None = None,
) -> Checkpoint | None:
    """Load what `newest_good` would name, as `load_checkpoint` does; only what is read (`names`) has to be whole."""
    return _newest(folder, warn, resumable, lambda path: load_checkpoint(path, names, lazily=lazily, run=run))


def _newest(folder: Path, warn: Say, resumable: bool, read: Callable[[Path], T]) -> T | None:
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
    manifest = read_manifest(path)
    sealed = seal({"step": manifest.step, "of": _of(manifest), "result": result})
    assert len(sealed) <= MAX_JSON_BYTES, "an evaluation this large would not be read back"
    atomic.write_bytes_atomic(path / EVALUATION, sealed)


def read_evaluation(path: Path, warn: Say) -> dict[str, Any] | None:
    """The result committed beside the checkpoint at `path`; None, to be done again, if there is none that is whole."""
    if not (path / EVALUATION).exists():
        return None
    try:
        content = read_sealed(path / EVALUATION)
        manifest = read_manifest(path)
        of = content.get("of", _of(manifest))  # which earlier versions left out
        mine = (content.get("step"), of) == (manifest.step, _of(manifest))
        if not mine or "result" not in content:
            raise CheckpointError(f"{path / EVALUATION} belongs to another checkpoint")
    except CheckpointError as error:
        warn(f"{error.what}; evaluating again")
        return None
    return content["result"]


def _of(manifest: Manifest) -> str:
    """What tells a checkpoint from those of other runs at the same step, with weights alone too."""
    return manifest.files[STATE]["sha256"] if STATE in manifest.files else ""
