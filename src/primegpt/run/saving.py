"""Checkpoints come, whole or not at all, and go: the ones asked for stay, light ones to look back on, and never none.

A checkpoint is built in `.tmp-step-000500-PID` and renamed when it is whole. One that is replaced or deleted is first
renamed to `.trash-step-000500-PID`, and still counts for as long as its manifest is there.
"""

import json
import os
from bisect import bisect
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from primegpt.errors import CheckpointError, PrimegptError
from primegpt.run import atomic
from primegpt.run.atomic import FileRecord, canonical_json, io_errors, remove, seal, sync_folder, write_synced
from primegpt.run.checkpoint import (
    EVALUATION,
    FORMAT,
    MANIFEST,
    STATE,
    list_checkpoints,
    newest_good,
    read_manifest,
    read_verified,
    step_name,
    step_of,
    tensor_files,
    verify_checkpoint,
)
from primegpt.run.tensors import Chunks, serialize
from primegpt.terminal import silent

if TYPE_CHECKING:
    from torch import Tensor


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: "Mapping[str, Mapping[str, Tensor]]",
    state: Mapping[str, object],
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


def encoded_state(state: Mapping[str, object]) -> Chunks:
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
        path = newest_good(folder, warn=silent)
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
    write_synced(temporary / MANIFEST, [seal(manifest)])
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


MARKS = [0, *(digit * 10**power for power in range(12) for digit in (1, 2, 5))]


def milestones(steps: Iterable[int]) -> set[int]:
    """The steps to remember for good: the first of `steps` at or after each of 0, 1, 2, 5, 10, 20, 50, 100, ...

    Taken from the steps there are, so that any checkpoint interval meets them; and deleting others changes nothing.
    """
    first: dict[int, int] = {}
    for step in sorted(steps, reverse=True):
        first[bisect(MARKS, step)] = step
    return set(first.values())


def prune(folder: Path, keep: Collection[int], slim: Collection[int] = ()) -> None:
    """Delete the checkpoints whose step is not in `keep`; of those in `slim` the weights and the state stay.

    If none of `keep` is whole, the newest that is stays too. Raises PrimegptError when the disk fails.
    """
    existing = {step: path for step, path in list_checkpoints(folder).items() if path.name == step_name(step)}
    going = [step for step in existing if step not in keep and not (step in slim and is_weights_only(existing[step]))]
    if not going:
        return
    by_worth = sorted(existing, key=lambda step: (step in keep, step), reverse=True)
    survivor = next((step for step in by_worth if _is_whole(existing[step])), None)
    with io_errors(f"delete old checkpoints in {folder}"):
        for step in going:
            if survivor not in (None, step):
                (_slim if step in slim else delete)(existing[step])


def _is_whole(path: Path) -> bool:
    try:
        return verify_checkpoint(path).resumable
    except CheckpointError:
        return False


def is_weights_only(path: Path) -> bool:
    try:
        return not read_manifest(path).resumable
    except CheckpointError:
        return False


def copy_weights(path: Path, folder: Path) -> int:
    """Write the weights and the state of the checkpoint at `path` into `folder`, and return its step.

    Raises CheckpointError if what is read is damaged, OSError if it cannot be written.
    """
    manifest = read_manifest(path)
    read = partial(read_verified, path, manifest=manifest)
    names = [*tensor_files("model", manifest), STATE]
    contents = {name: map(read, [name]) for name in names}  # each read when its turn comes
    if (path / EVALUATION).exists():
        contents[EVALUATION] = map(Path.read_bytes, [path / EVALUATION])
    write_checkpoint(folder, manifest.step, contents, resumable=False)
    return manifest.step


def _slim(path: Path) -> None:
    """Replace a checkpoint by its weights and state; a damaged one is left as it is, for a person to look at."""
    with suppress(CheckpointError):
        copy_weights(path, path.parent)


def delete(path: Path) -> None:
    """Delete one checkpoint; killed half way, it is whole or no longer counts. Raises OSError."""
    trash = move_to_trash(path)
    sync_folder(path.parent)
    empty_trash(trash)


def tidy(folder: Path) -> None:
    """Clear what dead processes left in `folder`, and put back a checkpoint whose replacement never came.

    Only for the process that holds the run's lock: everything hidden here is then left over. Raises PrimegptError.
    """
    with io_errors(f"tidy {folder}"):
        for unfinished in [*folder.glob(".tmp-step-*"), *folder.glob("step-*/.tmp-*")]:
            remove(unfinished)
        for trash in folder.glob(".trash-step-*"):
            step = step_of(trash)
            if step is None:
                continue
            if (trash / MANIFEST).exists() and not (folder / step_name(step)).exists():
                atomic.perform(os.rename, trash, folder / step_name(step))
            else:
                empty_trash(trash)
        if folder.is_dir():
            sync_folder(folder)
