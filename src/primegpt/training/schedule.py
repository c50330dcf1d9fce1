"""How far along the run is, and what learning rate belongs there: pure functions of the step."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from primegpt.errors import quoted
from primegpt.extend import ExtensionFailure, find, place_of, told

SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "wsd": lambda done: min(1.0, (1.0 - done) / 0.2),
}


class Stretch(NamedTuple):
    """From `step` on, what is left of the schedule is fitted to end at `max_steps`; or all of it begins `anew`.

    With `done`, the share of a time budget that is spent, the schedule goes on from there, wherever it was, and its
    last update is made at its very end, however few there still are.
    """

    step: int
    max_steps: int
    anew: bool = False
    done: float | None = None


def progress(step: int, max_steps: int, stretches: Sequence[Stretch] = ()) -> float:
    """Share of the schedule done at `step`, 0 at the start and 1 at the end."""
    done, start, end, to_the_end = 0.0, 0, max_steps, 0
    for stretch in stretches:
        if step < stretch.step:
            break
        if stretch.done is not None:
            done, to_the_end = stretch.done, 1
        else:
            gone = (stretch.step - start) / max(1, end - start)
            done, to_the_end = 0.0 if stretch.anew else min(1.0, done + (1 - done) * gone), 0
        start, end = stretch.step, stretch.max_steps
    return min(1.0, done + (1 - done) * (step + to_the_end - start) / max(1, end - start))


def after_warmup(done: float, warm: float) -> float:
    """Share done of what follows the warm-up, when `done` of everything is, and the warm-up ends at `warm`."""
    if done >= 1.0:  # the last update of a plan that was cut short within its warm-up
        return 1.0
    return max(0.0, done - warm) / (1.0 - warm) if warm < 1.0 else 0.0


def learning_rate_factor(
    step: int, done: float, kind: str, warmup_steps: int = 0, floor: float = 0.0, extension: str = ""
) -> float:
    """Share of the peak learning rate for the update after `step` completed ones, `done` of the shape gone.

    Linear warm-up over `warmup_steps`, then the shape down to `floor` (Loshchilov & Hutter 2017, arXiv:1608.03983
    for cosine; Hu et al. 2024, arXiv:2404.06395 for wsd: flat, then linear over the last fifth). Another `kind` is one
    of the `extension` of that hash.
    """
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    shape = SHAPES[kind](done) if kind in SHAPES else shape_of_extension(kind, done, extension)
    return warmup * (floor + (1.0 - floor) * shape)


def shape_of_extension(name: str, done: float, sha256: str) -> float:
    """The share that the schedule of an extension gives. Raises ExtensionFailure for what is none."""
    place = place_of("schedule", name, sha256)
    with told(place=place, running=True):
        share = find("schedule", name, sha256)(done)
    if not (isinstance(share, int | float) and math.isfinite(share) and share >= 0):
        what = f"{place} gave {quoted(share)} for {done:g}"
        raise ExtensionFailure(what, "give a share of the peak rate, a number of 0 or more")
    return float(share)
