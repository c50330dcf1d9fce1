"""SIGINT and SIGTERM as a polite request: finish the micro-batch, save, leave; a second SIGINT leaves at once."""

import signal
import threading
from contextlib import ExitStack
from types import FrameType, TracebackType

from primegpt.errors import PrimegptError
from primegpt.signals import heeding_signals


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
