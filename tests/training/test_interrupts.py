"""What a signal does while a run is being left."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from primegpt.training.interrupts import Interrupts


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
