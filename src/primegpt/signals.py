"""Signals as a polite request: finish the micro-batch, save, leave; and an end that native code cannot put off.

Python's own handlers wait until native code returns, which may take minutes.
"""

import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType

from primegpt.errors import PrimegptError

GRACE_SECONDS = 3.0  # for Python's own handler of SIGTERM, called where the native code comes back now and then


@contextmanager
def heeding_signals(*, terminate: bool = True, grace: float = GRACE_SECONDS) -> Generator[None, None, None]:
    """Inside, a second SIGINT, and SIGTERM if `terminate`, end the process even if native code does not return.

    SIGTERM does so `grace` seconds later. That end is a hard one, as kill -9 is, but for the exit code (130, 143):
    only for work that can bear it. A first SIGINT is left to Python. In a thread other than the main one nothing is
    changed.
    """
    if threading.current_thread() is not threading.main_thread():  # the only one that Python tells of signals
        yield
        return
    left = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        received: list[int] = []
        while number := reader.recv(1):
            received += number
            if received.count(signal.SIGINT) == 2:
                os._exit(128 + signal.SIGINT)
            if terminate and received[-1] == signal.SIGTERM and not left.wait(grace):
                os._exit(128 + signal.SIGTERM)

    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(previous)
        writer.close()
        watcher.join()
        reader.close()


class Interrupted(PrimegptError):
    """The run was asked to stop. `exit_code` follows the shell's custom: 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self, number: int, what: str = "interrupted", remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.number, self.exit_code = number, 128 + number


class Interrupts:
    """While entered, signals only set a flag; `poll()` raises Interrupted at a moment of the caller's choosing.

    With `grace`, SIGTERM ends the process so many seconds later, wherever it is.
    """

    def __init__(self, grace: float | None = None) -> None:
        self.grace = grace
        self.received: int | None = None

    def __enter__(self) -> "Interrupts":
        self.previous, self.stack = {}, ExitStack()
        # A backward pass may take seconds. One that waits for a rank that is gone may take for ever.
        self.stack.enter_context(heeding_signals(terminate=self.grace is not None, grace=self.grace or 0.0))
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            if number == signal.SIGTERM and error and self.grace is not None:
                continue  # leaving already: torchrun's, for a rank that is gone, must not cut the last words short
            signal.signal(number, handler)
        self.stack.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def poll(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.received is not None:
            raise Interrupted(self.received)
