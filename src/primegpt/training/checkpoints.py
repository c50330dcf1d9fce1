"""The checkpoints of a run in progress: one at a time is written, and when it is whole, older ones may go."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor

from primegpt.run.folder import RunFolder
from primegpt.training.saving import copied, in_background, save_shares
from primegpt.training.world import World

Shares = Mapping[str, Mapping[str, Tensor]]  # by the stems of their files


class Checkpoints:
    """Writes checkpoints into `folder` at once, or, with `behind`, behind the next steps; all ranks do the same."""

    def __init__(
        self, folder: RunFolder, world: World, *, keep: int | Literal["milestones"] | None, behind: bool
    ) -> None:
        self.folder, self.keep, self.behind = folder, keep, behind
        self.world, self.writing_world = world, world.aside() if behind else world
        self.saved_step: int | None = None  # the newest step known to be on disk, whole
        self.pending: tuple[int, Callable[[], None]] | None = None  # a newer one, and what remains to be done for it

    def save(self, step: int, tensors: Shares, state: Mapping[str, Any]) -> None:
        """Write a checkpoint when the one before is on the disk. Where that is `behind`, the tensors are copied now."""
        self.finish()
        shares = {stem: self.world.share_of_tensors(named) for stem, named in tensors.items()}
        if self.behind:
            shares = {stem: copied(named) for stem, named in shares.items()}
        write = partial(self.write, step, shares, state)
        self.pending = step, in_background(write) if self.behind else write
        if not self.behind:
            self.finish()

    def write(self, step: int, shares: Shares, state: Mapping[str, Any]) -> None:
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
