"""Begins a command in a process of its own that has nothing left to import: a fork of one that did it once.

Python and torch take seconds to start, and tests that kill a run at thirty moments start it sixty times.
"""

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

MODULES = ["cli.main", "cli.commands", "cli.train", "cli.reinforce", "jobs.training", "jobs.finetuning"]
MODULES += ["jobs.reinforcing", "jobs.resuming"]
PROGRAM = """
import os, runpy, sys
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
os.dup2(descriptor, 1)
os.dup2(descriptor, 2)
module, sys.argv = (words[1], words[1:]) if words[0] == "-m" else ("", words)
if module:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
else:
    runpy.run_path(words[0], run_name="__main__")
"""


class Command:
    """What of subprocess.Popen is used of it."""

    def __init__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> None:
        given = {"words": list(words), "folder": str(folder), "environment": dict(environment), "log": str(log)}
        self.words, self.process = words, forks().Process(target=exec, args=(PROGRAM, given))
        self.process.start()
        assert self.process.pid
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, seconds: float) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.words, seconds)
        return self.process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@cache
def forks() -> Any:
    """What forks a process that has all modules; the first command then takes no longer than others."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"primegpt.{module}" for module in MODULES])
    first = context.Process(target=int)
    first.start()
    first.join()
    return context


def begin(words: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> Command:
    """`python WORDS` in `folder`, with what it says at the end of the file `log`."""
    return Command(words, folder, environment, log)
