"""What a person sees of a run while it trains: a live bar in a terminal or a notebook, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

from primegpt import notebook
from primegpt.device import available_cores, other_load
from primegpt.model.size import human_seconds
from primegpt.run.files import EARLY, figures_of
from primegpt.terminal import Course, Say, printable, to_stderr
from primegpt.training.state import TrainState

FIGURES = 2  # of an objective's, that stand in a line of progress


class Observer(Protocol):
    """Who watches a run: a progress display, a notebook, a test.

    Lines are those of metrics.jsonl; that of an early evaluation has names that begin with EARLY.
    """

    def on_step(self, state: TrainState, line: dict[str, Any] | None) -> None: ...
    def on_evaluation(self, state: TrainState, line: dict[str, Any], best: bool) -> None: ...
    def on_sample(self, state: TrainState, text: str) -> None: ...
    def on_message(self, text: str) -> None: ...


WATCH_AFTER = 60  # seconds, over which the system takes the mean of its load
ROOMY = 100  # columns of a terminal
SPARK = 24  # bars of the course of the loss, at most
REDRAWN = 0.5  # seconds between two drawings in a notebook
MOST_POINTS = 400  # of its curve; then every other one goes
COLORS = {r"\(best\)$": "green", r"^warning.*": "yellow", r"^(── sample at step [\d,]+ )?─+$": "dim"}


class PlainDisplay:
    """A line at each evaluation, and one every `interval` seconds; for logs and pipes."""

    def __init__(self, say: Say = to_stderr, interval: float = 10.0) -> None:
        self.say, self.interval = say, interval
        self.printed_at = self.began_at = time.monotonic()
        self.watches = True  # for other programs
        self.planned: int | None = None  # steps, when this session began
        self.last: dict[str, Any] = {}
        self.val = ""  # the newest validation loss; one of an early evaluation, on a part of the text, is about it

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def print(self, text: str) -> None:
        self.say(text)

    def on_step(self, state: TrainState, line: dict[str, Any] | None) -> None:
        self.last, self.planned = line or self.last, self.planned or state.max_steps
        self.watch()
        if line and time.monotonic() - self.printed_at > self.interval:
            self.printed_at = time.monotonic()
            self.print(self.describe(state))

    def watch(self) -> None:
        """Say once, when a minute has passed, that other programs slow the run down, if they do."""
        if self.watches and time.monotonic() - self.began_at > WATCH_AFTER:
            self.watches = False
            if (load := other_load()) > 0.5:
                self.print(
                    f"warning: other programs compute here too (they want {load:.1f} more cores than the "
                    f"{available_cores()} there are), so that steps take longer than they need"
                )

    def describe(self, state: TrainState) -> str:
        """step 120/1000  loss 2.413  val 2.380  21,300 tok/s  1 min 5 s left"""
        return "  ".join(self.parts(state))

    def parts(self, state: TrainState) -> list[str]:
        self.planned = self.planned or state.max_steps
        planned = f" ({self.planned:,} planned)" if self.planned != state.max_steps else ""
        parts = [f"step {state.step:,}/{state.max_steps:,}{planned}"]
        if self.last:
            parts.append(f"loss {self.last['train/loss']:.3f}")
        if self.val:
            parts.append(f"val {self.val}")
        parts += shown_figures(figures_of(self.last))
        if self.last:
            parts.append(f"{self.last['tokens_per_sec']:,.0f} tok/s")
        if state.step:
            left = state.seconds / state.step * max(0, state.max_steps - state.step)
            parts.append(f"{human_seconds(left)} left")
        return parts

    def on_evaluation(self, state: TrainState, line: dict[str, Any], best: bool) -> None:
        if (about := line.get(f"{EARLY}val/loss")) is not None:
            self.val = f"≈{about:.2f}"
            self.print(f"step {line['step']:,}: validation loss about {about:.2f}")
            return
        told = f"step {line['step']:,}: validation loss {line['val/loss']:.4f}"
        if "val/reward" in line:
            told = f"step {line['step']:,}: reward {line['val/reward']:.4f} on validation prompts"
        else:
            self.val = f"{line['val/loss']:.3f}"
        if "val/perplexity" in line:
            told += f", perplexity {line['val/perplexity']:.1f}, {line['val/bits_per_byte']:.3f} bits per byte"
        self.print(told + (" (best)" if best and line["step"] else ""))

    def on_sample(self, state: TrainState, text: str) -> None:
        self.print(f"── sample at step {state.step:,} " + "─" * 40 + f"\n{text}\n" + "─" * 64)

    def on_message(self, text: str) -> None:
        self.print(text)


def shown_figures(figures: Mapping[str, float]) -> list[str]:
    """What an objective has measured, as a line of progress has room for it."""
    if "reward" not in figures:
        return [f"{name} {value:.3f}" for name, value in list(figures.items())[:FIGURES]]
    parts = [f"reward {figures['reward']:.3f} ± {figures['reward_std']:.3f}"]
    parts += [f"kl {figures['kl']:.4f}"] if "kl" in figures else []
    parts.append(f"length {figures['completions/mean_length']:.0f}")
    return [*parts, f"{figures['frac_reward_zero_std']:.0%} without spread"]


class LiveDisplay(PlainDisplay):
    """A progress bar that stays at the bottom, with the same lines scrolling above it.

    Green is a best evaluation, yellow a warning, pale what only frames; the course of the loss is a row of bars.
    """

    def __enter__(self) -> "LiveDisplay":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, highlight=False)
        self.width = 24 if console.width >= ROOMY else 8
        self.losses = Course()
        self.bar = Progress(BarColumn(self.width), TextColumn("{task.description}", markup=False), console=console)
        self.task = self.bar.add_task("starting", total=None)
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def print(self, text: str) -> None:
        from rich.text import Text

        shown = Text(printable(text))
        for pattern, style in COLORS.items():
            shown.highlight_regex(pattern, style)
        self.bar.console.print(shown, soft_wrap=True)

    def on_step(self, state: TrainState, line: dict[str, Any] | None) -> None:
        self.last = line or self.last
        if line and "train/loss" in line:
            self.losses.add(line["train/loss"])
        self.watch()
        self.update(state)

    def on_evaluation(self, state: TrainState, line: dict[str, Any], best: bool) -> None:
        super().on_evaluation(state, line, best)
        self.update(state)  # so that the last line is of the last evaluation

    def update(self, state: TrainState) -> None:
        self.bar.update(self.task, completed=state.step, total=state.max_steps, description=self.describe(state))

    def describe(self, state: TrainState) -> str:
        """What there is room for, and the course of the loss where there is more."""
        console, parts = self.bar.console, self.parts(state)
        room = console.width - self.width - 1
        while len(parts) > 2 and len("  ".join(parts)) > room:
            parts.pop(-2)  # how long it will take stays
        spare = min(SPARK, room - len("  ".join(parts)) - 2)
        if spare >= 8 and "utf" in console.encoding and len(parts) > 1:
            parts.insert(2, self.losses.bars(spare))
        return "  ".join(parts)


class NotebookDisplay(PlainDisplay):
    """The same under the cell that trains, drawn anew in place."""

    def __init__(self, show: Say) -> None:
        """`show` puts HTML where the last one was."""
        super().__init__()
        self.show, self.losses, self.told = show, list[tuple[float, float]](), list[str]()
        self.done, self.now, self.shown_at = 0.0, "starting", -math.inf

    def __enter__(self) -> "NotebookDisplay":
        self.draw()
        return self

    def __exit__(self, *_: object) -> None:
        self.draw()

    def print(self, text: str) -> None:
        self.told.append(text)
        self.draw()

    def on_step(self, state: TrainState, line: dict[str, Any] | None) -> None:
        self.last = line or self.last
        if line and "train/loss" in line:
            self.losses.append((state.step, line["train/loss"]))
            if len(self.losses) > MOST_POINTS:
                del self.losses[1:-1:2]
        self.watch()
        self.done, self.now = state.step / max(1, state.max_steps), self.describe(state)
        if time.monotonic() - self.shown_at > REDRAWN:
            self.draw()

    def draw(self) -> None:
        self.shown_at = time.monotonic()
        self.show(notebook.progress(self.done, self.now, self.losses, self.told))


def under_the_cell() -> Say:
    """Shows HTML under the cell of a notebook that is being run, each time in the place of the last."""
    from IPython.display import HTML
    from IPython.display import display as show

    handle = show(HTML(""), display_id=True)
    return lambda html: handle.update(HTML(html))


def display(say: Say) -> PlainDisplay:
    """Progress by `say`; a live display where that is a terminal or a notebook."""
    if say is to_stderr and notebook.in_notebook():
        return NotebookDisplay(under_the_cell())
    return LiveDisplay() if say is to_stderr and sys.stderr and sys.stderr.isatty() else PlainDisplay(say)
