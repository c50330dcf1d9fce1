"""The checkpoints of a run in progress, written at once or beside the next steps; older ones go when one is whole.

Each rank writes its share of the tensors to files of its own. When all are written rank 0 seals them with a manifest.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Literal

from torch import Tensor

from primegpt.parallel.world import World
from primegpt.run import atomic
from primegpt.run.checkpoint import STATE, step_name
from primegpt.run.folder import RunFolder
from primegpt.run.saving import (
    begin_checkpoint,
    complete_checkpoint,
    contents_of,
    encoded_state,
    save_checkpoint,
    saving,
    write_files,
)

Shares = Mapping[str, Mapping[str, Tensor]]  # by the stems of their files


class Checkpoints:
    """Writes checkpoints into `folder`; with `behind`, while the next steps are made. All ranks do the same."""

    def __init__(
        self, folder: RunFolder, world: World, *, keep: int | Literal["milestones"] | None, behind: bool
    ) -> None:
        self.folder, self.keep, self.behind = folder, keep, behind
        self.world, self.writing_world = world, world.aside() if behind else world
        self.saved_step: int | None = None  # the newest step known to be on disk, whole
        self.pending: tuple[int, Callable[[], None]] | None = None  # a newer one, and what remains to be done for it

    def save(self, step: int, tensors: Shares, state: Mapping[str, object]) -> None:
        """Write a checkpoint when the one before is on the disk. Where that is `behind`, the tensors are copied now."""
        self.finish()
        shares = {stem: self.world.share_of_tensors(named) for stem, named in tensors.items()}
        if self.behind:
            shares = {stem: copied(named) for stem, named in shares.items()}
        write = partial(self.write, step, shares, state)
        self.pending = step, in_background(write) if self.behind else write
        if not self.behind:
            self.finish()

    def keep_weights(self, step: int, tensors: Shares, state: Mapping[str, object]) -> None:
        """Write weights to look back on, unless the step has a checkpoint. Nothing goes on from them."""
        self.finish()
        if self.saved_step != step:
            shares = {stem: self.world.share_of_tensors(named) for stem, named in tensors.items()}
            save_shares(self.world, self.folder.checkpoints_dir, step, shares, state, resumable=False)

    def write(self, step: int, shares: Shares, state: Mapping[str, object]) -> None:
        """Put a checkpoint on the disk; perhaps in a thread, and so with nothing that the steps change."""
        with self.writing_world.together():
            self.folder.sync_metrics()  # so that no checkpoint is newer than the lines that led to it
        save_shares(self.writing_world, self.folder.checkpoints_dir, step, shares, state)

    def finish(self) -> None:
        """Wait until the checkpoint that was begun is on the disk; then `last` names it, and older ones may go."""
        if not self.pending:
            return
        (step, finish), self.pending = self.pending, None
        finish()
        self.saved_step = step
        self.folder.point("last", step)
        self.folder.prune(self.keep if isinstance(self.keep, int) else 3, keep_milestones=self.keep == "milestones")
        self.folder.seal()


def save_shares(
    world: World, folder: Path, step: int, shares: Shares, state: Mapping[str, object], *, resumable: bool = True
) -> None:
    """`save_checkpoint` of what all ranks' `shares` are together; all of them call it. `state` is rank 0's.

    When a disk fails on one, nothing changes, and one of them raises a PrimegptError.
    """
    if world.size == 1:
        save_checkpoint(folder, step, shares, state, resumable=resumable)
        return
    contents = contents_of(shares, f"-{world.rank + 1:05d}-of-{world.size:05d}")
    if world.rank == 0:
        contents[STATE] = encoded_state(state)
    temporary = Path(world.tell(str(atomic.temporary_name(folder / step_name(step)))))
    try:
        with world.together(), saving(folder, step):
            if world.rank == 0:
                begin_checkpoint(temporary)
        with world.together(), saving(folder, step):
            mine = write_files(temporary, contents)
        files = {name: record for written in world.collect(mine) for name, record in written.items()}
        with world.together(), saving(folder, step):
            if world.rank == 0:
                complete_checkpoint(temporary, step, files, resumable)
    except BaseException:
        if world.rank == 0:
            with suppress(OSError):
                atomic.remove(temporary)
        raise


def in_background(work: Callable[[], None]) -> Callable[[], None]:
    """Start `work` in a thread; what is returned waits for its end, and raises what it raised."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # SystemExit too, when another rank speaks of the failure
            outcome.set_exception(error)

    Thread(target=run, name="saving", daemon=True).start()  # whoever leaves without waiting leaves it half written
    return outcome.result


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which the next steps will not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
