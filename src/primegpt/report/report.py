"""The web page of a run, or of several side by side: results, curves, samples, text, plan, configuration.

The report of several runs is the report of one with a column for each: every table goes through `side_by_side`.
"""

import math
from collections.abc import Iterable, Sequence

from primegpt.config import Config
from primegpt.model.size import human_count, human_seconds, parameter_breakdown
from primegpt.report.chart import Series
from primegpt.report.history import History, Points, near
from primegpt.report.page import Page, Strong
from primegpt.report.run_facts import (
    Rows,
    events_in_words,
    model_rows,
    plan_rows,
    session_rows,
    settings_rows,
    text_rows,
    tokenizer_rows,
)
from primegpt.report.verdict import verdict

MOST_SAMPLES = 9
UNKNOWN = "–"


def report_page(runs: Sequence[History]) -> Page:
    """The page about `runs`, one or more."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [near(run.folder.path) for run in runs]
    page = Page(" · ".join(names), runs[0].status.capitalize() if len(runs) == 1 else f"{len(runs)} runs side by side")
    _results(page, names, runs)
    _curves(page, names, runs)
    if len(runs) > 1:
        page.section("What differs", "Settings that are not the same in all of these runs.")
        _differences(page, names, runs)
    _samples(page, names, runs)
    page.section("Model")
    side_by_side(page, names, [model_rows(run) for run in runs])
    page.section("Text", "What the audit before training found, and what was held out.")
    side_by_side(page, names, [text_rows(run) for run in runs])
    for name, run in zip(names, runs, strict=True):
        page.notes(_of(name, runs, run.audit.warnings if run.audit else []), "warning")
    page.section("Tokenizer")
    side_by_side(page, names, [tokenizer_rows(run) for run in runs])
    page.section("Plan", "What was measured or chosen before the first step, and what came of it.")
    side_by_side(page, names, [plan_rows(run) for run in runs])
    for name, run in zip(names, runs, strict=True):
        page.notes(_of(name, runs, events_in_words(run.events)))
    page.section("Origin", "When, by which command and with what it was trained.")
    side_by_side(page, names, [session_rows(run) for run in runs])
    page.section("Configuration")
    if len(runs) == 1:
        defaults = dict(settings_rows(Config()))
        page.text("Settings that are not the default; all of them are in config.toml.")
        page.facts([row for row in settings_rows(runs[0].config) if row[1] != defaults.get(row[0])])
    side_by_side(page, names, [settings_rows(run.config) for run in runs], fold="All settings")
    return page


def side_by_side(page: Page, names: Sequence[str], columns: Sequence[Rows], fold: str = "") -> None:
    """A table with a column for each run; its rows are all that any of them has. A row without a name goes on."""
    merged = [_merged(column) for column in columns]
    keys = list(dict.fromkeys(key for column in merged for key in column))
    if not keys:
        page.text("Nothing is known of it.")
    elif len(names) == 1:
        page.facts([(key, merged[0][key]) for key in keys], fold)
    else:
        page.table(["", *names], [[key, *(column.get(key, UNKNOWN) for column in merged)] for key in keys], fold)


def _merged(rows: Rows) -> dict[str, str]:
    merged: dict[str, str] = {}
    key = ""
    for name, value in rows:
        key = name or key
        merged[key] = value if name else f"{merged[key]}\n{value}"
    return merged


def _of(name: str, runs: Sequence[History], lines: Iterable[str]) -> list[str]:
    """`lines`, each with the name of the run that it is about where there are several."""
    return [line if len(runs) == 1 else f"{name}: {line}" for line in lines]


# ---- Results ---------------------------------------------------------------------------------------------------------


def _results(page: Page, names: Sequence[str], runs: Sequence[History]) -> None:
    page.section("Results")
    if len(runs) == 1:
        if tiles := _tiles(runs[0]):
            page.tiles(tiles)
    else:
        comparable = not _several(run.data.get("val_fingerprint") for run in runs)
        same_tokens = not _several(run.data.get("tokenizer_fingerprint") for run in runs)
        judged = ("bits per byte", "validation loss", "perplexity")[: (3 if same_tokens else 1) if comparable else 0]
        side_by_side(page, names, _best_in_bold([_result(run) for run in runs], judged))
        if not same_tokens:
            page.notes(
                ["The tokenizers differ, so a loss per token says little here: compare bits per byte."], "warning"
            )
        if not comparable:
            page.notes(["The validation texts are not the same, so neither is the task: compare with care."], "warning")
    for name, run in zip(names, runs, strict=True):
        page.notes(_of(name, runs, [*run.remarks, *run.edits]), "warning")
        page.notes(_of(name, runs, verdict(run) + _forgetting(run)))


def _several(values: Iterable[object]) -> bool:
    return len({value for value in values if value}) > 1


def _best_in_bold(columns: list[Rows], judged: Sequence[str]) -> list[Rows]:
    """The lowest value of each of the rows `judged` made strong."""
    values = {
        key: [float(value) for rows in columns for name, value in rows if name == key and value != UNKNOWN]
        for key in judged
    }
    return [
        [
            (key, Strong(value) if values.get(key) and value != UNKNOWN and float(value) == min(values[key]) else value)
            for key, value in rows
        ]
        for rows in columns
    ]


def _judged(run: History, measure: str) -> float | None:
    """A measure on all the validation text, once that is known; before, at the best evaluation."""
    final = run.last(f"final/val/{measure}")
    return run.at_best(f"val/{measure}") if final is None else final


def _forgetting(run: History) -> list[str]:
    """What fine-tuning cost on the text that its base was trained on, in words."""
    before, after = run.last("base/loss_before"), run.last("base/loss_after")
    if before is None or after is None:
        return []
    return [
        f"Fine-tuned: the loss on the base's own validation text went from {before:.4f} to {after:.4f} nats per token."
    ]


def _tiles(run: History) -> list[tuple[str, str, str]]:
    tiles = []
    if run.rewarded and (reward := _judged(run, "reward")) is not None:
        before = _fixed(next((value for _, value in run.points("val/reward")), None), 4)
        tiles.append(("reward", f"{reward:.4f}", f"on validation prompts, {before} at the beginning"))
    elif (loss := _judged(run, "loss")) is not None:
        where = "on all the validation text" if run.last("final/val/loss") is not None else "at the best evaluation"
        tiles.append(("validation loss", f"{loss:.4f}", f"{run.loss_unit}, {where}"))
        if run.is_likelihood:
            perplexity = _fixed(_judged(run, "perplexity"), 2)
            tiles.append(("bits per byte", _fixed(_judged(run, "bits_per_byte"), 4), f"perplexity {perplexity}"))
    if (accuracy := _judged(run, "rewards/accuracies")) is not None:
        tiles.append(("pairs in order", f"{accuracy:.1%}", "of the validation text, by the reward"))
    if run.lines:
        best = run.early_stopping.best_step
        remark = f"best at {best:,}" if best is not None else ""
        tiles.append(("steps", f"{run.step:,}", remark))
        tiles.append(("tokens seen", human_count(run.last("tokens") or 0), _passes(run)))
        tiles.append(("time", human_seconds(run.last("seconds") or 0), _planned(run)))
        tiles.append(("tokens per second", f"{run.median('tokens_per_sec') or 0:,.0f}", "median"))
    return tiles


def _result(run: History) -> Rows:
    best = run.early_stopping.best_step
    return [
        ("state", run.status),
        ("validation loss", _fixed(_judged(run, "loss"), 4)),
        ("perplexity", _fixed(_judged(run, "perplexity"), 2)),
        ("bits per byte", _fixed(_judged(run, "bits_per_byte"), 4)),
        ("training loss", _fixed(run.at_best("train/eval_loss"), 4)),
        ("best step", UNKNOWN if best is None else f"{best:,}"),
        ("steps", f"{run.step:,}"),
        ("tokens seen", human_count(run.last("tokens") or 0)),
        ("passes over the text", _passes(run).partition(" ")[0] or UNKNOWN),
        ("time", human_seconds(run.last("seconds") or 0)),
        ("tokens per second", f"{run.median('tokens_per_sec') or 0:,.0f}"),
        ("parameters", human_count(parameter_breakdown(run.config.model).total)),
    ]


def _fixed(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def _passes(run: History) -> str:
    seen, size = run.last("tokens"), run.config.plan.train_tokens
    return f"{seen / size:.2f} passes over the text" if seen and size else ""


def _planned(run: History) -> str:
    expected = run.config.plan.expected_seconds
    return f"planned: {human_seconds(expected)}" if expected else ""


# ---- Curves and samples ----------------------------------------------------------------------------------------------


def _curves(page: Page, names: Sequence[str], runs: Sequence[History]) -> None:
    page.section("Curves")
    if not any(run.lines for run in runs):
        page.text("No step has been logged yet.")
        return

    def each(key: str, x: str = "step", dots: bool = False) -> list[Series]:
        """A line for each run."""
        return [
            Series(name if len(runs) > 1 else "", run.curve(key, x), color, dots=dots)
            for color, (name, run) in enumerate(zip(names, runs, strict=True), 1)
        ]

    units = {run.loss_unit for run in runs}
    nats = units.pop() if len(units) == 1 else " or ".join(sorted(units))
    if len(runs) == 1:
        _own_loss(page, runs[0], nats)
    else:
        measure = "bits_per_byte" if _several(run.data.get("tokenizer_fingerprint") for run in runs) else "loss"
        y = "bits per byte" if measure == "bits_per_byte" else nats
        title, key = "Validation" if measure == "bits_per_byte" else "Validation loss", f"val/{measure}"
        page.chart(title, each(key, dots=True), y=y, wide=True)
        page.chart(f"{title}, second half", _second_half(each(key, dots=True)), y=y)
        page.chart(f"{title} by time", each(key, "seconds", dots=True), x="seconds", y=y)
        page.chart(f"{title} by tokens seen", each(key, "tokens", dots=True), x="tokens", y=y)
        page.chart("Training loss", each("train/loss"), y=nats)
    for name in dict.fromkeys(name for run in runs for name in run.figures):
        page.chart(name, _figure(runs[0], name) if len(runs) == 1 else each(name))
    clip = {run.config.train.grad_clip for run in runs}
    clipped = [(limit, "clipped above") for limit in clip if limit and len(clip) == 1]
    page.chart("Learning rate", each("lr"), zero=True)
    page.chart("Gradient norm", each("grad_norm"), log=True, horizontals=clipped)
    page.chart("Speed", each("tokens_per_sec"), y="tokens per second", zero=True)
    page.chart("Memory", each("memory_mb"), y="MB, the process's peak so far", zero=True)


def _own_loss(page: Page, run: History, y: str) -> None:
    """Training and validation loss of one run, with what guessing would cost and where it was best."""
    if run.rewarded:
        own = Series("completions of the steps", run.points("reward"), 1, faint=True)
        judged = Series("validation prompts", run.curve("val/reward"), 2, dots=True)
        page.chart("Reward", [own, judged], y="reward", wide=True)
        return
    lines = [
        Series("training batches", run.points("train/loss"), 1, faint=True),
        Series("training text, fixed part", run.curve("train/eval_loss"), 1, dots=True),
        Series("validation text, fixed part", run.curve("val/loss"), 2, dots=True),
    ]
    train = run.config.train
    choices = 2 if train.objective == "dpo" else run.config.model.vocab_size  # of a pair, or of ids
    guessing = math.log(max(2, choices))
    highest = max((value or 0.0 for line in lines for _, value in line.points), default=0.0)
    known = run.is_likelihood or (train.objective == "dpo" and not train.sft_weight)
    levels = [(guessing, f"guessing: ln {choices:,}")] if known and 0.8 * guessing < highest else []
    best = run.early_stopping.best_step
    marks = [(best, "best")] if best is not None and best < run.step else []
    page.chart("Loss", lines, y=y, wide=True, horizontals=levels, verticals=marks)
    if run.points("early/val/loss"):
        page.chart("Loss, with room for the first steps", lines, y=y, wide=True, counted=True)


def _figure(run: History, name: str) -> list[Series]:
    """What an objective has measured, in training and on what is held out."""
    held_out = Series("validation text, fixed part", run.curve(f"val/{name}"), 2, dots=True)
    return [Series("training batches" if held_out.points else "", run.points(name), 1), held_out]


def _second_half(lines: list[Series]) -> list[Series]:
    end = max((at for line in lines for at, _ in line.points), default=0.0)
    halves: list[Points] = [[point for point in line.points if point[0] >= end / 2] for line in lines]
    return [Series(line.name, half, line.color, dots=True) for line, half in zip(lines, halves, strict=True)]


def _samples(page: Page, names: Sequence[str], runs: Sequence[History]) -> None:
    if not any(run.samples for run in runs):
        return
    if len(runs) > 1:
        page.section("Samples", "The last text that each wrote while training; its own report has those before it.")
        for name, run in zip(names, runs, strict=True):
            if run.samples:
                step = max(run.samples)
                page.card(name, run.samples[step].rstrip("\n"), f"step {step:,}")
        return
    run = runs[0]
    steps = _spread(sorted(run.samples))
    left_out = len(run.samples) - len(steps)
    more = f" {left_out} more are in the folder samples." if left_out else ""
    page.section("Samples", f"The same prompts, continued at different steps of the training.{more}")
    measure, named = ("val/reward", "reward") if run.rewarded else ("val/loss", "validation loss")
    losses = {at: value for at, value in run.points(measure) if value is not None}
    for step in steps:
        known = [at for at in losses if at <= step]
        loss = f"{named} {losses[max(known)]:.2f}" if known else ""
        page.card(f"Step {step:,}", run.samples[step].rstrip("\n"), loss)


def _spread(steps: Sequence[int]) -> list[int]:
    """At most MOST_SAMPLES of `steps`: the first, the last, and the rest evenly between them."""
    if len(steps) <= MOST_SAMPLES:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (MOST_SAMPLES - 1))] for i in range(MOST_SAMPLES)]


def _differences(page: Page, names: Sequence[str], runs: Sequence[History]) -> None:
    columns = [dict(settings_rows(run.config)) for run in runs]
    keys = dict.fromkeys(key for column in columns for key in column)
    different = [key for key in keys if len({column.get(key) for column in columns}) > 1]
    if not different:
        page.text("None: these runs were configured alike.")
        return
    side_by_side(page, names, [[(key, column.get(key, UNKNOWN)) for key in different] for column in columns])
