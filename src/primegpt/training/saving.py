"""How a checkpoint gets from the ranks to the disk, at once or behind the next steps.

Each rank writes its share of the tensors to files of its own. When all are written rank 0 seals them with a manifest.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from torch import Tensor

from primegpt.run import atomic
from primegpt.run.checkpoint import (
    STATE,
    begin_checkpoint,
    complete_checkpoint,
    contents_of,
    encoded_state,
    save_checkpoint,
    saving,
    step_name,
    write_files,
)
from primegpt.training.world import World


def save_shares(
    world: World, folder: Path, step: int, shares: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """`save_checkpoint` of what all ranks' `shares` are together; all of them call it. `state` is rank 0's.

    When a disk fails on one, nothing changes, and one of them raises a PrimegptError.
    """
    if world.size == 1:
        save_checkpoint(folder, step, shares, state)
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
                complete_checkpoint(temporary, step, files, resumable=True)
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
