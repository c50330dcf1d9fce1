"""What a person sees while a model trains: a live bar in a terminal, plain lines everywhere else. All on stderr."""

import sys
import time
from typing import Any, TextIO

from primegpt.model.size import human_seconds
from primegpt.training.state import TrainState


class PlainDisplay:
    """A line at each evaluation, and one every `interval` seconds; for logs, pipes and notebooks."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self.stream, self.interval = stream or sys.stderr, interval
        self.printed_at = time.monotonic()
        self.last: dict[str, Any] = {}
        self.val_loss: float | None = None

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def print(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def on_step(self, state: TrainState, line: dict[str, Any] | None) -> None:
        self.last = line or self.last
        if line and time.monotonic() - self.printed_at > self.interval:
            self.printed_at = time.monotonic()
            self.print(self.describe(state))

    def describe(self, state: TrainState) -> str:
        """step 120/1000  loss 2.413  val 2.380  21,300 tok/s  1 min 5 s left"""
        parts = [f"step {state.step:,}/{state.max_steps:,}"]
        if self.last:
            parts.append(f"loss {self.last['train/loss']:.3f}")
        if self.val_loss is not None:
            parts.append(f"val {self.val_loss:.3f}")
        if self.last:
            parts.append(f"{self.last['tokens_per_sec']:,.0f} tok/s")
        if state.step:
            left = state.seconds / state.step * max(0, state.max_steps - state.step)
            parts.append(f"{human_seconds(left)} left")
        return "  ".join(parts)

    def on_evaluation(self, state: TrainState, line: dict[str, Any], best: bool) -> None:
        self.val_loss = line["val/loss"]
        self.print(
            f"step {line['step']:,}: validation loss {line['val/loss']:.4f}, "
            f"perplexity {line['val/perplexity']:.1f}, {line['val/bits_per_byte']:.3f} bits per byte"
            + (" (best)" if best and line["step"] else "")
        )

    def on_sample(self, state: TrainState, text: str) -> None:
        self.print(f"── sample at step {state.step:,} " + "─" * 40 + f"\n{text}\n" + "─" * 64)

    def on_message(self, text: str) -> None:
        self.print(text)


class NoDisplay(PlainDisplay):
    """Nothing, for processes beside the one that speaks."""

    def print(self, text: str) -> None:
        pass


class LiveDisplay(PlainDisplay):
    """A progress bar that stays at the bottom, with the same lines scrolling above it."""

    def __enter__(self) -> "LiveDisplay":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(file=self.stream, highlight=False)
        self.bar = Progress(BarColumn(bar_width=24), TextColumn("{task.description}"), console=console)
        self.task = self.bar.add_task("starting", total=None)
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def print(self, text: str) -> None:
        self.bar.console.print(text, markup=False)

    def on_step(self, state: TrainState, line: dict[str, Any] | None) -> None:
        self.last = line or self.last
        self.bar.update(self.task, completed=state.step, total=state.max_steps, description=self.describe(state))


def display(stream: TextIO | None = None) -> PlainDisplay:
    """The live display in a terminal, the plain one elsewhere."""
    stream = stream or sys.stderr
    return (LiveDisplay if stream.isatty() else PlainDisplay)(stream)
