"""The lines of metrics.jsonl as events for TensorBoard (the extra [track]).

    tensorboard --logdir runs

The events are a copy, and metrics.jsonl is the truth: each session writes them anew from its lines, so that after a
resume they are those of a run that never stopped, however it was killed.
"""

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from primegpt.errors import UsageError
from primegpt.run.atomic import io_errors
from primegpt.run.folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def require_tensorboard() -> None:
    """Raise UsageError, before anything long begins, if the package is not there."""
    if find_spec("tensorboard") is None:
        raise UsageError(
            "train.tensorboard needs the package tensorboard, which is not installed",
            "pip install 'primegpt[track]', or leave it off",
        )


@contextmanager
def mirrored(folder: RunFolder, wanted: bool = True) -> Generator[None, None, None]:
    """Within this, every line that `folder` gets is written to its folder tensorboard too, if that is `wanted`."""
    if not wanted:
        yield
        return
    require_tensorboard()
    mirror = _Mirror(folder)
    folder.followers.append(mirror)
    try:
        yield
    finally:
        folder.followers.remove(mirror)
        mirror.close()


class _Mirror:
    """Writes to TensorBoard what is appended to metrics.jsonl; with the first line, all that stood there before."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.writer: SummaryWriter | None = None
        self.began = 0.0  # so that times are those that were spent in training, over all sessions

    def __call__(self, line: Mapping[str, Any]) -> None:
        with io_errors(f"write {self.folder.tensorboard_dir}"):
            if self.writer is None:
                self.began = time.time() - (line.get("seconds") or 0.0)
                self.writer = self._open()
                for earlier in self.folder.read_metrics():
                    self._write(self.writer, earlier)
            else:
                self._write(self.writer, line)
            self.writer.flush()

    def _open(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        for events in self.folder.tensorboard_dir.glob("events.out.tfevents.*"):
            with suppress(OSError):  # Windows keeps a file that is being read; purging tells its reader enough
                events.unlink()
        return SummaryWriter(str(self.folder.tensorboard_dir), purge_step=0)  # who has read old events drops them

    def _write(self, writer: "SummaryWriter", line: Mapping[str, Any]) -> None:
        for key, value in line.items():
            if not key.endswith("step") and isinstance(value, int | float):
                writer.add_scalar(key, value, line["step"], walltime=self.began + (line.get("seconds") or 0.0))

    def close(self) -> None:
        if self.writer is not None:
            with io_errors(f"write {self.folder.tensorboard_dir}"):
                self.writer.close()
