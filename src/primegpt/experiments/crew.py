"""Jobs of an experiment in several processes at once, each of which ends when the one that started it does."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

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
    """Processes that do jobs, `size` at once.

    A job begins when all that it needs is done. The first that fails ends the others, which go on next time.
    """

    def __init__(self, size: int, place: Place) -> None:
        self.size, self.place = size, place
        self.processes: dict[Connection, BaseProcess] = {}

    def carry_out(self, jobs: Sequence[Job], begin: Callable[[Job], None], end: Callable[[Job], None]) -> None:
        """Do `jobs`, which stand in an order that works; `begin` is called before each, `end` after it.

        Raises PrimegptError as the job did that failed.
        """
        waiting, busy = list(jobs), dict[Connection, Job]()
        try:
            for _ in range(min(self.size, len(waiting))):
                self._start()
            while waiting or busy:
                idle = [connection for connection in self.processes if connection not in busy]
                for connection, job in zip(idle, filter(self._is_ready, list(waiting)), strict=False):
                    begin(job)
                    connection.send(job)
                    busy[connection] = job
                    waiting.remove(job)
                for ready in wait(list(busy)):
                    connection = cast(Connection, ready)
                    end(self._finished(connection, busy.pop(connection)))
        finally:
            self._stop()

    def _is_ready(self, job: Job) -> bool:
        return all(self.place.result(key) is not None for key in job.needs)

    def _start(self) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(str(self.place.folder), theirs))
        process.start()
        theirs.close()
        self.processes[ours] = process

    def _finished(self, connection: Connection, job: Job) -> Job:
        try:
            failure = connection.recv()
        except (EOFError, ConnectionError):  # it was killed, or had no memory left
            process = self.processes.pop(connection)
            process.join()
            failure = f"its process ended with {process.exitcode}", "run this again, with fewer --processes", 1
        if failure:
            what, remedy, code = failure
            raise failed(job, what, remedy, code)
        return job

    def _stop(self) -> None:
        for connection, process in self.processes.items():
            connection.close()  # which ends those that do nothing
            process.terminate()  # and has the others save what they have
        for process in self.processes.values():
            process.join(SECONDS)
            process.kill()


def _work(folder: str, connection: Connection) -> None:
    """Do what is sent, in a process of its own."""
    _end_with_parent()
    place = Place(Path(folder))
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        while True:
            job = connection.recv()
            try:
                Doer(place, Plan(place), to_stderr).do(job)
                connection.send(None)
            except PrimegptError as error:
                connection.send((error.what, error.remedy, error.exit_code))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "it was started by another"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
