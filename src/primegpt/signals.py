"""Signals while native code runs: Python's own handlers wait until it returns, which may take minutes."""

import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

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
