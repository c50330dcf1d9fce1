"""The lines of metrics.jsonl for trackers of others too, as train.track has it: each in a process of its own.

So training waits for no network and bears whatever a library of others does: prints, hangs, handlers, crashes. What a
tracker has is a copy, and metrics.jsonl is the truth. Each session begins one with its first line and hands it all that
stood there before; what it has already it passes over, so that a run that was stopped goes on as the same tracked run.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any

from primegpt.config import Config
from primegpt.errors import UsageError
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say

PATIENCE = 30  # seconds at the end of a session for what is still on its way, of all trackers together
SILENCE = 3  # seconds of it that nothing is said of


def require_trackers(config: Config) -> None:
    """Raise UsageError, before anything long begins, where the package of one that is asked for is not there."""
    for name in config.train.track:
        found = find_spec(name)
        if found is None or found.origin is None:  # no origin: a folder that is merely called so, as wandb/ by wandb
            what = f"train.track = {name!r} needs the package {name}, which is not installed"
            raise UsageError(what, f"pip install 'primegpt[{name}]', or leave it off")


@contextmanager
def tracked(folder: RunFolder, config: Config, say: Say) -> Generator[None, None, None]:
    """Within this, every line that `folder` gets goes to what train.track names too."""
    mirrors = [Mirror(name, folder, say) for name in dict.fromkeys(config.train.track)]
    folder.followers += mirrors
    try:
        yield
    finally:
        with suppress(KeyboardInterrupt, SystemExit):  # one more signal ends the waiting, and how the run ended is told
            _end(folder, mirrors, say)


def _end(folder: RunFolder, mirrors: Sequence["Mirror"], say: Say) -> None:
    """Let all of them end at the same time, and end those that do not."""
    for mirror in mirrors:
        folder.followers.remove(mirror)
        mirror.lines.put(None)
    started, why = time.monotonic(), "was not waited for"
    try:
        if late := [mirror.name for mirror in mirrors if not mirror.ended(started + min(SILENCE, PATIENCE))]:
            say(f"{'waiting':<10} for {', '.join(late)}, {PATIENCE} seconds at most; Ctrl-C ends it")
        if not all(mirror.ended(started + PATIENCE) for mirror in mirrors):
            why = f"does not answer, {PATIENCE} seconds after the end"
    finally:
        for mirror in mirrors:
            mirror.close(why)


class Mirror:
    """Hands what is appended to metrics.jsonl to a tracker; with the first line, all that stood there before."""

    def __init__(self, name: str, folder: RunFolder, say: Say) -> None:
        self.name, self.folder, self.say = name, folder, say
        self.begun = False
        self.process: subprocess.Popen[str] | None = None
        self.lines, self.news = SimpleQueue[Mapping[str, Any] | None](), SimpleQueue[str]()
        self.threads = [threading.Thread(target=job, daemon=True) for job in (self._hand_over, self._listen)]

    def __call__(self, line: Mapping[str, Any]) -> None:
        if not self.begun:
            self._start(time.time() - (line.get("seconds") or 0.0))
        elif self.process:
            self.lines.put(line)
        self._tell()

    def _start(self, began: float) -> None:
        """Begin it; `began` is when the run would have if it had never stopped, so that times are those of training."""
        command = [sys.executable, "-P", "-m", "primegpt.report.trackers", self.name, str(self.folder.path), str(began)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.begun = True
        try:
            self.process = subprocess.Popen(command, encoding="utf-8", **pipes)
        except OSError as error:  # no memory, no more processes, no more open files
            self._warn(f"cannot be begun: {error.strerror}")
            return
        for line in self.folder.read_metrics():
            self.lines.put(line)
        for thread in self.threads:
            thread.start()

    def _hand_over(self) -> None:
        """In a thread: a pipe that nobody empties would hold up who writes into it."""
        assert self.process
        assert self.process.stdin
        with suppress(OSError), self.process.stdin as stdin:  # OSError: it has ended, which shows in the end
            for line in iter(self.lines.get, None):
                stdin.write(json.dumps(line) + "\n")
                stdin.flush()

    def _listen(self) -> None:
        assert self.process
        assert self.process.stdout
        with self.process.stdout as stdout:
            for line in stdout:
                self.news.put(line.rstrip("\n"))

    def _tell(self) -> None:
        """Say what has come from it: here, where nothing else is being printed."""
        while not self.news.empty():
            self.say(self.news.get())

    def ended(self, deadline: float) -> bool:
        """Whether it has, by `deadline` on the monotonic clock, or never began."""
        with suppress(subprocess.TimeoutExpired):
            if self.process:
                self.process.wait(max(0.0, deadline - time.monotonic()))
            return True
        return False

    def close(self, why: str) -> None:
        """End it where it has not ended, and say so: `why`."""
        if not self.process:
            return
        if self.process.poll() is None:
            self._warn(why)
            self.process.kill()
            self.process.wait()
        elif self.process.returncode:
            self._warn(f"ended with exit code {self.process.returncode}")
        for thread in self.threads:
            thread.join(1)  # a process that the library began may hold the pipes open
        self._tell()

    def _warn(self, what: str) -> None:
        self.news.put(warning(self.name, what, self.folder))


def warning(name: str, what: str, folder: RunFolder) -> str:
    """What is said once of a tracker that fails."""
    return f"warning: train.track: {name} {what}; the run goes on, and {folder.metrics_path} has every line"
