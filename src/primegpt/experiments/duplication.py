"""What copies are worth: the same compute on 70 KB of songs, on these copied to 10 MB, and on 10 MB of different songs.

Copies look like data: a larger file, and a validation loss that falls and falls, since what is held out of them stands
in the training text too. Songs that no arm has seen tell them apart, and so does what is copied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from primegpt.experiments.arms import Arm, Book, Measures, Settings, merged

TRAINING_SEED, PROMPT_SEED, HELD_OUT_SEED = 0, 2, 3  # of the songbooks
SEEDS = (1337, 1338, 1339)  # of the runs

SMALL, COPIED, VARIED = "small", "copied", "varied"
LABELS = {SMALL: "70 KB", COPIED: "70 KB copied to 10 MB", VARIED: "10 MB of varied text"}

SETTINGS: Settings = {
    "model": {
        "preset": "prime",
        "embedding_norm": False,
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 128,
        "block_size": 256,
    },
    "data": {"val_tokens": 4000},
    "train": {
        "learning_rate": 8e-3,
        "muon_learning_rate": 0.03,
        "warmup_steps": 10,
        "weight_decay": 0.0,
        "attention": "explicit",
        "keep_checkpoints": "milestones",
    },
    "generate": {"max_new_tokens": 256, "temperature": 0.8, "top_k": 0},
}


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    seeds: tuple[int, ...] = SEEDS
    max_steps: int = 600
    batch_size: int = 5
    small_songs: int = 96
    """70 KB of them; a tenth is held out."""
    times: int = 143
    """How often the small text stands in 10 MB."""
    held_out: int = 100
    prompts: int = 50
    vocab_size: int = 2048
    overrides: Settings = field(default_factory=dict)
    """Above the settings of all arms."""

    @property
    def settings(self) -> Settings:
        steps = {"max_steps": self.max_steps, "checkpoint_interval": max(1, self.max_steps // 20)}
        steps |= {"eval_interval": max(1, self.max_steps // 20), "sample_interval": self.max_steps}
        return merged(SETTINGS, {"train": {**steps, "batch_size": self.batch_size}}, self.overrides)


FULL = Size()
QUICK = replace(FULL, seeds=SEEDS[:1])  # the full experiment goes on from it


def books(size: Size) -> dict[str, Book]:
    """What the arms learn from, by kind."""
    return {
        SMALL: Book(size.small_songs, TRAINING_SEED),
        COPIED: Book(size.small_songs, TRAINING_SEED, copies=size.times),
        VARIED: Book(size.small_songs * size.times, TRAINING_SEED),
    }


def varied(size: Size) -> Book:
    return books(size)[VARIED]


def held_out(size: Size) -> Book:
    return Book(size.held_out, HELD_OUT_SEED)


def arms(size: Size) -> list[Arm]:
    """All arms, the first seed first."""
    return [Arm(kind, book, seed, size.settings) for seed in size.seeds for kind, book in books(size).items()]


def findings(measured: Mapping[str, Sequence[Measures]]) -> dict[str, Any]:
    """Means over the seeds, with the least and the most, for each kind of arm that is finished."""
    return {"kinds": {kind: _finding(of_seeds) for kind, of_seeds in measured.items()}}


def _finding(of_seeds: Sequence[Measures]) -> dict[str, Any]:
    last = [dict(each["held_out"]) for each in of_seeds]
    return {
        "seeds": len(of_seeds),
        "held_out": _curve([each["held_out"] for each in of_seeds]),
        "own": _curve([each["own"] for each in of_seeds]),
        "loss": [losses[max(losses)] for losses in last],
        "best": [min(losses.values()) for losses in last],
        "own_loss": [each["own"][-1][1] for each in of_seeds],
        "copied": {n: [each["copied"][n] for each in of_seeds] for n in of_seeds[0]["copied"]},
        "by_chance": {n: fmean(each["by_chance"][n] for each in of_seeds) for n in of_seeds[0]["by_chance"]},
        "longest": [each["longest"] for each in of_seeds],
        **{name: of_seeds[0][name] for name in ("text_bytes", "epochs", "warnings", "samples", "longest_text")},
    }


def _curve(curves: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float, float, float]]:
    """(step, mean, least, most) at the steps that all seeds have."""
    known = [{int(step): float(loss) for step, loss in curve} for curve in curves]
    steps = sorted(set(known[0]).intersection(*known))
    values = [(step, [curve[step] for curve in known]) for step in steps]
    return [(step, fmean(each), min(each), max(each)) for step, each in values]
