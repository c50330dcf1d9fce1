"""One writer a run: a lock that ends with its process, and notices when its file is taken away."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from primegpt.errors import PrimegptError, RunFolderError
from primegpt.run.atomic import reason

SECONDS = 0.5  # how long a process that is just ending is waited for
LOCK_FILES = (".lock", ".lock.pid")


class RunLock:
    """The lock of the run in `folder`: a file that the system locks, and beside it the holder's pid, for people."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path, self.owner_path = (folder / name for name in LOCK_FILES)
        self.held: os.stat_result | None = None  # our file, while we have it

    @contextmanager
    def hold(self) -> Generator[None, None, None]:
        """Be the one process that writes to this run. Raises RunFolderError when another process does.

        The system drops the lock when the process ends, however it ends; the file stays and means nothing.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path)
        try:
            lock.acquire(timeout=SECONDS)
            self.held = os.stat(self.path)
        except Timeout as error:
            what = f"{self.folder} is in use by another process{self._owner()}"
            raise RunFolderError(what, "wait for it to end, or stop it") from error
        except OSError as error:
            raise RunFolderError(f"could not lock {self.folder}: {reason(error)}", "is it read-only?") from error
        try:
            with suppress(OSError):  # it only serves the message above
                self.owner_path.unlink(missing_ok=True)  # a dead process's, or a link to who knows where
                self.owner_path.write_text(f"{os.getpid()}\n", encoding="utf-8")
            yield
        finally:
            with suppress(PrimegptError, OSError):
                self.require()
                self.owner_path.unlink(missing_ok=True)
            self.held = None
            lock.release()

    def require(self) -> None:
        """Raise PrimegptError if the file of the lock that we hold was deleted or replaced since.

        Another process can then hold the lock of a new file, and write to the run as we do.
        """
        if self.held is None:
            return
        with suppress(FileNotFoundError):
            if os.path.samestat(self.held, os.stat(self.path)):
                return
        raise PrimegptError(
            f"{self.path} was deleted or replaced while this process trained: another one may write to the run",
            f"when no other does, continue with: primegpt train --resume {self.folder}",
        )

    def is_held(self) -> bool:
        """Whether a process has the lock at this moment."""
        from filelock import FileLock, Timeout

        if not self.was_left():  # nobody, or one that died: nothing is made in a folder at rest
            return False
        try:
            with FileLock(self.path, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that cannot be written to
            return False

    def was_left(self) -> bool:
        """Whether a process that held it had no time to say that it ends, or holds it now."""
        return self.owner_path.exists()

    def _owner(self) -> str:
        try:
            return f" (pid {int(self.owner_path.read_text(encoding='utf-8'))})"
        except (OSError, ValueError):
            return ""
