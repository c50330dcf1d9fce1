"""Evaluations before the first one that the intervals ask for, while most is learnt: at which steps, and at what price.

Between step 0 and a tenth of a run a model has learnt letters, words and more than half of what it ever will. So it is
evaluated at steps 1, 2, 5, 10, 20, 50 … too, on a part of the fixed sets, and where milestones are kept, the weights of
these steps are. Neither early stopping nor `best` counts them, and nothing goes on from them: a resume makes them again
with the steps that it makes again.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from math import ceil
from typing import Any

from primegpt.config import Config, TrainConfig
from primegpt.data.batching.batches import Batch
from primegpt.model.size import parameter_count
from primegpt.run.files import EARLY
from primegpt.run.saving import MARKS

SOONEST = 5  # where the first regular evaluation comes sooner, there is nothing to see before it
PART = 4  # of the batches of a fixed set, one in so many is read
SHARE = 0.015  # of the time of training, at most, for all of them
SAVING_SECONDS, SAVED_PER_SECOND = 0.02, 200e6  # of weights: their files by themselves, and bytes


def early_steps(train: TrainConfig, first: int, fitting: float) -> tuple[int, ...]:
    """The steps that were asked for; else 1, 2, 5, 10, 20, 50 … below the `first` evaluation.

    If these take more than their share of a training with room for `fitting` of them, they are every second one, or
    every third, from the last on.
    """
    if train.early_evaluations is not None:
        return train.early_evaluations
    marks, most = list(takewhile(lambda mark: mark < first, MARKS[1:])), int(SHARE * fitting)
    return tuple(marks[:: -ceil(len(marks) / most)][::-1]) if first >= SOONEST and most else ()


def early_seconds(config: Config, val_tokens: int, per_target: float) -> float:
    """Forecast of one: of both fixed sets, of about `val_tokens` targets at so many seconds each, and of saving."""
    batch = config.train.batch_size * config.sequence_length
    reading = 2 * batch * ceil(val_tokens / batch / PART) * per_target
    if config.train.keep_checkpoints != "milestones":
        return reading
    return reading + SAVING_SECONDS + 4 * parameter_count(config.model) / SAVED_PER_SECOND


def part_of(batches: Sequence[Batch]) -> Sequence[Batch]:
    """What an early evaluation reads of a fixed set: spread over it as all of it is."""
    return batches[::PART]


def early_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """The line of an evaluation as that of an early one: {"step": 5, …, "early/val/loss": 3.1, …}."""
    return {f"{EARLY}{key}" if "/" in key else key: value for key, value in line.items()}
