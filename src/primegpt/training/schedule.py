"""How far along the run is, and what learning rate belongs there: pure functions of the step."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

Kind = Literal["cosine", "linear", "constant", "wsd"]


class Stretch(NamedTuple):
    """From `step` on, what is left of the schedule is fitted to end at `max_steps`; or all of it begins `anew`."""

    step: int
    max_steps: int
    anew: bool = False


def progress(step: int, max_steps: int, stretches: Sequence[Stretch] = ()) -> float:
    """Share of the schedule done at `step`, 0 at the start and 1 at the end; continuous but where it begins anew."""
    done, start, end = 0.0, 0, max_steps
    for stretch in stretches:
        if step < stretch.step:
            break
        done = 0.0 if stretch.anew else done + (1 - done) * (stretch.step - start) / max(1, end - start)
        start, end = stretch.step, stretch.max_steps
    return min(1.0, done + (1 - done) * (step - start) / max(1, end - start))


def after_warmup(done: float, warm: float) -> float:
    """Share done of what follows the warm-up, when `done` of everything is, and the warm-up ends at `warm`."""
    return max(0.0, done - warm) / (1.0 - warm) if warm < 1.0 else 0.0


def learning_rate_factor(step: int, done: float, kind: Kind, warmup_steps: int = 0, floor: float = 0.0) -> float:
    """Share of the peak learning rate for the update after `step` completed ones, `done` of the shape gone.

    Linear warm-up over `warmup_steps`, then the shape down to `floor` (Loshchilov & Hutter 2017, arXiv:1608.03983
    for cosine; Hu et al. 2024, arXiv:2404.06395 for wsd: flat, then linear over the last fifth).
    """
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    shape = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        "wsd": min(1.0, (1.0 - done) / 0.2),
    }[kind]
    return warmup * (floor + (1.0 - floor) * shape)
