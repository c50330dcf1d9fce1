"""What a person sees of a run while it trains."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from primegpt.training import display as displays
from primegpt.training.display import LiveDisplay, NotebookDisplay, PlainDisplay


def state(step: int = 40) -> SimpleNamespace:
    return SimpleNamespace(step=step, max_steps=100, seconds=20.0)


def line(step: int, loss: float) -> dict[str, float]:
    speed = {"lr": 1e-3, "grad_norm": 1.0, "tokens_per_sec": 21_300.0, "mfu": 0.2, "memory_mb": 300.0}
    return {"step": step, "tokens": step * 64, "seconds": 0.5 * step, "train/loss": loss, **speed}


@pytest.fixture
def terminal(monkeypatch):
    """A live display on a terminal of `width` columns, and what that has been sent."""

    def made(width: int, **options):
        file = io.StringIO()
        options = {"force_terminal": True, "color_system": "standard", "width": width, **options}
        monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=file, highlight=False, **options))
        return LiveDisplay(), file

    return made


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_last_line_of_progress_fits_and_has_the_last_evaluation(terminal, width):
    display, file = terminal(width)
    with display:
        for step in range(1, 41):
            display.on_step(state(step), line(step, 4.0 - step / 20))
        display.on_evaluation(
            state(), {"step": 40, "val/loss": 1.9876, "val/perplexity": 7.3, "val/bits_per_byte": 2.8}, True
        )
        shown = display.describe(state())
    assert "val 1.988" in shown
    assert "30 s left" in shown
    assert len(shown) + display.width + 1 <= width
    assert ("tok/s" in shown) == (width > 60)
    assert ("█" in shown) == (width > 60)  # the course of the loss, where there is room
    assert "val 1.988" in file.getvalue().rpartition("\n")[0].rpartition("\n")[2]


def test_the_newest_loss_is_shown_and_that_of_an_early_evaluation_as_about(terminal):
    display, file = terminal(100)
    with display:
        display.on_evaluation(state(0), {"step": 0, "val/loss": 6.9}, False)
        assert "val 6.900" in display.describe(state(1))
        display.on_evaluation(state(5), {"step": 5, "early/val/loss": 2.2049}, False)
        assert "val ≈2.20" in display.describe(state(6))
        display.on_evaluation(state(9), {"step": 9, "val/loss": 2.1}, True)
        assert "val 2.100" in display.describe(state(10))
    assert "step 5: validation loss about 2.20" in file.getvalue()


def test_colours_mean_something_and_can_be_refused(terminal, monkeypatch):
    def sent() -> str:
        display, file = terminal(100)
        with display:
            display.on_evaluation(state(), {"step": 40, "val/loss": 1.9}, True)
            display.on_message("warning: [red]this[/red] is text")
        return file.getvalue()

    assert "\x1b[32m(best)" in sent()
    assert "\x1b[33mwarning: [red]this[/red] is text" in sent()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in sent()
    assert "(best)" in sent()


def test_other_programs_are_told_of_once(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(displays, "other_load", lambda: 3.25)
    display = PlainDisplay(said.append)
    display.on_step(state(1), None)
    assert said == []  # the system's mean is over a minute
    display.began_at -= displays.WATCH_AFTER + 1
    for step in range(2, 5):
        display.on_step(state(step), None)
    assert len(said) == 1
    assert said[0].startswith("warning: other programs compute here too (they want 3.2 more cores than the ")


def test_alone_on_the_machine_nothing_is_said(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(displays, "other_load", lambda: 0.0)
    display = PlainDisplay(said.append)
    display.began_at -= displays.WATCH_AFTER + 1
    display.on_step(state(), None)
    assert said == []


def test_steps_that_are_not_those_of_the_plan_say_so():
    display = PlainDisplay(lambda text: None)
    now = state(10)
    display.on_step(now, None)
    assert display.describe(now).startswith("step 10/100  ")
    now.max_steps = 81  # it takes longer than was measured, though not twice as long
    assert display.describe(now).startswith("step 10/81 (100 planned)  ")


def test_a_notebook_shows_progress_in_one_place_and_not_at_every_step(monkeypatch):
    clock, shown = [100.0], list[str]()
    monkeypatch.setattr(displays.time, "monotonic", lambda: clock[0])
    with NotebookDisplay(shown.append) as display:
        for step in range(1, 41):
            clock[0] += 0.1
            display.on_step(state(step), line(step, 4.0 - step / 20))
        assert 7 <= len(shown) <= 9  # of 4 seconds
        display.on_message("warning: <b>this</b> is text")
        assert "warning: &lt;b&gt;this&lt;/b&gt; is text" in shown[-1]
        display.on_evaluation(state(), {"step": 40, "val/loss": 1.9876}, True)
    assert "step 40/100" in shown[-1]
    assert "width:40.0%" in shown[-1]
    assert "validation loss 1.9876 (best)" in shown[-1]
    assert "3.950 at step 1, 2.000 at step 40" in shown[-1]


def test_a_long_curve_in_a_notebook_keeps_its_ends():
    display = NotebookDisplay(lambda html: None)
    for step in range(1, 3001):
        display.on_step(state(step), line(step, 5.0 - step / 1000))
    assert len(display.losses) <= displays.MOST_POINTS
    assert (display.losses[0], display.losses[-1]) == ((1, 4.999), (3000, 2.0))
