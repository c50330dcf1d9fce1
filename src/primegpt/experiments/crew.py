"""Jobs of an experiment in several processes at once, each of which ends when the one that started it does."""

import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from primegpt.errors import PrimegptError, UsageError
from primegpt.experiments.perform import Doer
from primegpt.experiments.place import Place, Plan
from primegpt.experiments.stages import Job
from primegpt.terminal import to_stderr

SECONDS = 60.0  # that a process gets to save what it has


def failed(job: Job, what: str, remedy: str, exit_code: int) -> PrimegptError:
    """An error of a job as that of the experiment."""
    kind = UsageError if exit_code == UsageError.exit_code else PrimegptError
    error = kind(f"{job.title}: {what}", remedy)
    error.exit_code = exit_code
    return error


class Crew:
    """At most `size` jobs at once.

    A job begins when all that it needs is done. The first that fails ends the others, which go on next time.
    """

    def __init__(self, size: int, place: Place) -> None:
        self.size, self.place = size, place
        self.running: dict[int, tuple[BaseProcess, Connection, Job]] = {}  # by the sentinel of the process

    def carry_out(self, jobs: Sequence[Job], begin: Callable[[Job], None], end: Callable[[Job], None]) -> None:
        """Do `jobs`, which stand in an order that works; `begin` is called before each, `end` after it.

        Raises PrimegptError as the job did that failed.
        """
        waiting = list(jobs)
        try:
            while waiting or self.running:
                for job in [job for job in waiting if self._is_ready(job)][: self.size - len(self.running)]:
                    begin(job)
                    self._start(job)
                    waiting.remove(job)
                for sentinel in wait(list(self.running)):
                    end(self._finished(sentinel))
        finally:
            self._stop()

    def _is_ready(self, job: Job) -> bool:
        return all(self.place.result(key) is not None for key in job.needs)

    def _start(self, job: Job) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(str(self.place.folder), job, theirs))
        process.start()
        theirs.close()
        self.running[process.sentinel] = process, ours, job

    def _finished(self, sentinel: Any) -> Job:
        process, connection, job = self.running.pop(sentinel)
        process.join()
        try:
            failure = connection.recv()
        except EOFError:  # it had nothing to say
            failure = None
        if failure or process.exitcode:
            what, remedy, code = failure or (f"its process ended with {process.exitcode}", "run this again", 1)
            raise failed(job, what, remedy, code)
        return job

    def _stop(self) -> None:
        processes = [process for process, *_ in self.running.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(SECONDS)
            process.kill()


def _work(folder: str, job: Job, told: Connection) -> None:
    """One job, in a process of its own."""
    _end_with_parent()
    place = Place(Path(folder))

    try:
        Doer(place, Plan(place), to_stderr).do(job)
    except PrimegptError as error:
        told.send((error.what, error.remedy, error.exit_code))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "it was started by another"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
