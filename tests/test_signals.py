"""A signal ends a process that is deep in native code, which Python's own handlers cannot."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from primegpt import signals
from primegpt.signals import Interrupts, heeding_signals

SCRIPT = """
import hashlib, signal, sys
from primegpt import signals
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
signals.GRACE_SECONDS = 0.2
with signals.heeding_signals():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # many minutes in C
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("sent", "code"), [([signal.SIGTERM], 143), ([signal.SIGINT, signal.SIGINT], 130), ([signal.SIGINT], None)]
)
def test_native_code_does_not_outlive_a_signal(sent: list[signal.Signals], code: int | None) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        for number in sent:
            time.sleep(0.05)
            process.send_signal(number)
        try:
            assert process.wait(5 if code else 1) == code
        except subprocess.TimeoutExpired:
            assert code is None  # the first SIGINT is Python's, and has to wait
        finally:
            process.kill()


def test_python_handles_what_it_can() -> None:
    """Where Python is awake its handlers do what they always do, and nothing is left behind."""
    before = signal.set_wakeup_fd(-1), threading.active_count()
    with pytest.raises(KeyboardInterrupt), heeding_signals():
        signal.raise_signal(signal.SIGINT)
    assert (signal.set_wakeup_fd(-1), threading.active_count()) == before


def test_another_thread_is_left_alone() -> None:
    found = []

    def work() -> None:
        with heeding_signals():
            found.append(threading.active_count())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [threading.active_count() + 1]
    assert signals.GRACE_SECONDS < 10


@pytest.fixture(autouse=True)
def terminations() -> Iterator[list[int]]:
    """The SIGTERMs that reach what was the handler before."""
    came: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize(("grace", "reach"), [(None, 1), (9.0, 0)])
def test_torchruns_signal_cuts_no_last_words_short(terminations: list[int], grace: float | None, reach: int) -> None:
    """One rank is lost: torchrun ends the others, who at this moment find out which it was."""
    with suppress(RuntimeError), Interrupts(grace):
        raise RuntimeError("gloo: connection closed")
    os.kill(os.getpid(), signal.SIGTERM)
    assert len(terminations) == reach


@pytest.mark.parametrize("grace", [None, 9.0])
def test_after_an_ordinary_end_signals_are_as_before(terminations: list[int], grace: float | None) -> None:
    with Interrupts(grace) as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.received == signal.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)
    assert len(terminations) == 1
