"""What copies are worth: the same compute on 70 KB of songs, on these copied to 10 MB, and on 10 MB of different songs.

Copies look like data: a larger file, and a validation loss that falls and falls, since what is held out of them stands
in the training text too. Songs that no arm has seen tell them apart, and so does what is copied.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from primegpt.config import Settings
from primegpt.data.batching.feed import training_batches
from primegpt.data.songbook import songbook
from primegpt.evaluation.memorization import copied_from
from primegpt.experiments.arms import (
    HELD_OUT_SEED,
    PROMPT_SEED,
    SEEDS,
    TRAINING_SEED,
    Arm,
    Book,
    Findings,
    Measures,
    Place,
    facts,
    merged,
)
from primegpt.inference.run import Run, load
from primegpt.jobs.evaluation import loss_of_text, own_corpus
from primegpt.model.size import human_bytes
from primegpt.report.chart import Series
from primegpt.report.page import Page
from primegpt.report.pictures import Plot, draw_bars
from primegpt.run.checkpoint import list_checkpoints
from primegpt.terminal import Say, to_stderr

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


N = "12"  # of the n-grams that are shown
HEADER = ("text", "to train on", "epochs", "loss on its own held-out part", "loss on new songs", "the best on the way",
          "copied 12-grams", "of new songs", "longest copied")  # fmt: skip


def table(found: Findings) -> list[tuple[str, ...]]:
    """A row a corpus, the columns of HEADER."""
    return [
        (
            LABELS[kind],
            human_bytes(each["text_bytes"]),
            f"{each['epochs']:.1f}",
            _spread(each["own_loss"]),
            _spread(each["loss"]),
            _spread(each["best"]),
            _spread(each["copied"][N], "%"),
            f"{each['by_chance'][N]:.1%}",
            f"{max(each['longest'])} tokens",
        )
        for kind, each in found["kinds"].items()
    ]


def _spread(values: Sequence[float], unit: str = "") -> str:
    shown = [f"{value:.1%}" if unit else f"{value:.3f}" for value in (fmean(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})" if len(values) > 1 else shown[0]


def plots(found: Findings) -> list[Plot]:
    """Loss over the steps: on songs that no arm has seen, and on what each arm holds out of its own text."""

    def curves(name: str) -> list[Series]:
        return [
            Series(
                LABELS[kind],
                [(step, mean) for step, mean, *_ in each[name]],
                dots=True,
                intervals=[(step, low, high) for step, _, low, high in each[name] if high > low],
            )
            for kind, each in found["kinds"].items()
        ]

    return [
        Plot("held-out", "Loss on new songs", curves("held_out"), "step", "nats per token"),
        Plot("own", "Loss on what each held out of its own text", curves("own"), "step", "nats per token"),
    ]


def write_report(folder: Path, found: Findings, prompts: Sequence[str], facts: Sequence[tuple[str, str]]) -> Path:
    """report.html in `folder`, and the pictures beside it."""
    page = Page(
        "What copies are worth", "The same compute on a small text, on copies of it, and on as much varied text"
    )
    page.section("What came out").table(HEADER, table(found))
    for plot in plots(found):
        plot.add_to(page)
        plot.draw(folder)
    kinds = found["kinds"]
    shares = {LABELS[kind]: fmean(each["copied"][N]) for kind, each in kinds.items()}
    chance = {LABELS[kind]: each["by_chance"][N] for kind, each in kinds.items()}
    draw_bars(folder / "copied.png", "12-grams copied from the training text", {"written": shares, "new songs": chance})
    for kind, each in kinds.items():
        page.section(LABELS[kind]).notes([f"the audit: {line}" for line in each["warnings"]], "warning")
        page.card(prompts[0], each["samples"][0].strip(), "what it writes")
        page.card("the longest span copied", each["longest_text"], f"{max(each['longest'])} tokens")
    page.section("Set-up").facts(facts)
    return page.write(folder / "report.html")


def experiment_duplication(
    out: str | Path | None = None,
    *,
    quick: bool = False,
    size: Size | None = None,
    say: Say = to_stderr,
) -> dict[str, Any]:
    """What copies are worth: the same compute on a small text, on copies of it, and on as much varied text.

    The folder `out` and the result are as in `experiment_alignment`.
    """
    size = size or (QUICK if quick else FULL)
    place = Place(Path(out or "runs/duplication"), say)
    chosen = arms(size)
    tokenizer = place.tokenizer(varied(size), size.vocab_size, "text")
    unseen = place.book(held_out(size))
    prompts = [song.prompt for song in songbook(size.prompts, seed=PROMPT_SEED)]

    def measure(run: Run, arm: Arm) -> Measures:
        say("measuring: loss over the steps, songs, copies")
        steps = list_checkpoints(run.folder.checkpoints_dir)
        curve = [
            (step, loss_of_text(load(run.folder.path, checkpoint=step, say=say), str(unseen), say=say)["loss"])
            for step in steps
        ]
        corpus = own_corpus(run, say)
        written = [samples[0] for samples in run.complete_all([f"{prompt}\n\n" for prompt in prompts])]
        fresh = [run.tokenizer.encode(song.lyrics) for song in songbook(size.prompts, seed=PROMPT_SEED)]
        copied, by_chance = (
            copied_from(texts, corpus.train) for texts in ([completion.ids for completion in written], fresh)
        )
        judged = run.folder.read_metrics()
        return {
            "held_out": curve,
            "own": [(line["step"], line["val/loss"]) for line in judged if "val/loss" in line],
            "copied": copied.shares,
            "by_chance": by_chance.shares,
            "longest": copied.longest,
            "longest_text": run.tokenizer.decode(copied.span),
            "text_bytes": corpus.train_bytes,
            "epochs": training_batches(run.config, corpus).epoch(run.step),
            "warnings": json.loads(run.folder.data_path.read_text(encoding="utf-8"))["audit"]["warnings"],
            "samples": [completion.text for completion in written[:2]],
        }

    place.carry_out(chosen, tokenizer, measure)
    found = findings(place.notes.by_kind(chosen))
    report = write_report(place.folder, found, prompts, facts(chosen))
    return place.finish(found, report)
