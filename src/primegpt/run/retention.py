"""Which checkpoints stay: the ones asked for, light ones to look back on, and never none."""

import os
from bisect import bisect
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from primegpt.errors import CheckpointError
from primegpt.run import atomic
from primegpt.run.atomic import io_errors, remove, sync_folder
from primegpt.run.checkpoint import (
    EVALUATION,
    MANIFEST,
    STATE,
    empty_trash,
    list_checkpoints,
    move_to_trash,
    read_manifest,
    read_verified,
    step_name,
    step_of,
    tensor_files,
    verify_checkpoint,
    write_checkpoint,
)


def milestones(steps: Iterable[int]) -> set[int]:
    """The steps to remember for good: the first of `steps` at or after each of 0, 1, 2, 5, 10, 20, 50, 100, ...

    Taken from the steps there are, so that any checkpoint interval meets them; and deleting others changes nothing.
    """
    marks = [0] + [digit * 10**power for power in range(12) for digit in (1, 2, 5)]
    first: dict[int, int] = {}
    for step in sorted(steps, reverse=True):
        first[bisect(marks, step)] = step
    return set(first.values())


def prune(folder: Path, keep: Collection[int], slim: Collection[int] = ()) -> None:
    """Delete the checkpoints whose step is not in `keep`; of those in `slim` the weights and the state stay.

    If none of `keep` is whole, the newest that is stays too. Raises PrimegptError when the disk fails.
    """
    existing = {step: path for step, path in list_checkpoints(folder).items() if path.name == step_name(step)}
    going = [step for step in existing if step not in keep and not (step in slim and _is_weights_only(existing[step]))]
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


def _is_weights_only(path: Path) -> bool:
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
