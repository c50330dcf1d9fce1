"""A function of the user's own, or a pattern, in a process of its own, which a time limit can end on every system.

The process is started when it is checked or first asked, and ends with this one, or when the reward is forgotten. It
has the user's rights, as whatever they run here has: the process bounds time, not what the code may do.
"""

import json
import math
import os
import queue
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from primegpt.errors import PrimegptError, UsageError, quoted

SECONDS = 10.0  # for a completion
LOADING = 120.0  # for running the file, whose imports may be large
MARGIN = 5.0  # after which the process ends itself, where nobody is left to end it
MAX_BYTES = 2**22
MEND = "it is code of your own: mend it there"
PROGRAM = Path(__file__).with_name("reward_process.py")

Asked = tuple[str, str, Mapping[str, Any], str]
"""A prompt, a completion, the record, and where that stands."""


class RewardError(PrimegptError):
    """A reward of the user's own fails, takes too long, or is no number that can be relied on."""


def pattern_of(name: str, pattern: str) -> dict[str, str]:
    """What the process is told of a regular expression. Raises UsageError where it is none."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"the reward {quoted(name)} is no regular expression: {error}", "mend it") from None
    return {"pattern": pattern}


def read_function(name: str) -> dict[str, str]:
    """What the process is told of FILE.py:function: the file as it is now. Raises UsageError if it cannot be read."""
    path, _, function = name.rpartition(":")
    try:
        with open(path, "rb") as file:
            source = file.read(MAX_BYTES + 1)
        if len(source) > MAX_BYTES:
            raise UsageError(f"{path} is larger than {MAX_BYTES >> 20} MB", "no file with a reward is")
        return {"path": path, "function": function, "source": source.decode()}
    except OSError as error:
        raise UsageError(f"the reward {quoted(name)}: {error.strerror}", "name a Python file of yours") from error
    except ValueError as error:  # a NUL in the name, bytes that are no text
        raise UsageError(f"the reward {quoted(name)}: {error}", "name a Python file of yours") from error


class Code:
    """A pattern or a function of the user's own that scores in a process beside this one."""

    def __init__(self, name: str, told: Mapping[str, str], seconds: float) -> None:
        self.name, self.told, self.seconds = name, dict(told), seconds
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str] = queue.Queue()

    @property
    def source(self) -> str:
        """What it does, as text: its value hangs on nothing else."""
        return self.told.get("source", "")

    def scores(self, asked: Sequence[Asked]) -> list[float]:
        """The value of each completion; the first is asked for twice, and must be the same. Raises RewardError."""
        found = [self._score(each) for each in asked]
        if asked and (again := self._score(asked[0])) != found[0]:
            what = f"two calls with the same completion gave {found[0]!r} and {again!r}"
            raise self._failed(what, asked[0], "draw nothing at random, keep nothing between calls")
        return found

    def _score(self, asked: Asked) -> float:
        self._tell(self.start(), {"asked": asked[:3]})
        said = self._hear(self.seconds, asked)
        if "error" in said:
            raise self._failed(said["error"], asked)
        if "odd" in said:
            raise self._failed(f"it returned {said['odd']}, which is no number", asked)
        if not math.isfinite(said["value"]):
            raise self._failed(f"it returned {said['value']}", asked, "return a finite number")
        return float(said["value"])

    def start(self) -> subprocess.Popen[str]:
        """The process, which has run the user's file. Raises RewardError if that cannot be run."""
        if self._process:
            return self._process
        # Sets of texts would else be walked through in another order each time.
        settings = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8"}
        command = [sys.executable, "-P", str(PROGRAM)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
        process = self._process = subprocess.Popen(command, env=settings, **pipes)
        weakref.finalize(self, _end, process)
        assert process.stdout
        threading.Thread(target=_listen, args=(process.stdout, self._replies), daemon=True).start()
        limits = {"loading": LOADING + MARGIN, "seconds": self.seconds + MARGIN}
        self._tell(process, {**self.told, **limits, "modules": [part for part in sys.path if part]})
        said = self._hear(LOADING)
        if "error" in said:
            self.close()
            raise self._failed(said["error"])
        return process

    def _tell(self, process: subprocess.Popen[str], message: Mapping[str, Any]) -> None:
        assert process.stdin
        with suppress(OSError):  # it has ended: that shows when it is listened to
            process.stdin.write(json.dumps(message, default=str) + "\n")
            process.stdin.flush()

    def _hear(self, seconds: float, asked: Asked | None = None) -> dict[str, Any]:
        """The next reply. The process is ended where it does not come in time."""
        process = self._process
        assert process
        try:
            line = self._replies.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise self._failed(f"it takes more than {seconds:g} s", asked, "make it faster") from None
        except BaseException:  # a signal's: the reply would else be taken for the next one's
            self.close()
            raise
        if not line:
            self.close()
            raise self._failed(f"its process has ended by itself, exit code {process.returncode}", asked)
        return json.loads(line)

    def close(self) -> None:
        """End the process; it is started again when it is asked."""
        if self._process:
            _end(self._process)
        self._process, self._replies = None, queue.Queue()

    def _failed(self, what: str, asked: Asked | None = None, remedy: str = MEND) -> RewardError:
        of = f"; completion {quoted(asked[1])}, {asked[3]}" if asked else ""
        return RewardError(f"reward {self.name}: {what}{of}", remedy)


def _listen(pipe: IO[str], replies: "queue.Queue[str]") -> None:
    """Put what the process says, line by line, where waiting has a limit; an empty line when it has ended."""
    with pipe:
        for line in pipe:
            replies.put(line)
    replies.put("")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdin:
        with suppress(OSError):  # of what it has not read
            process.stdin.close()
