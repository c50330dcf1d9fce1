"""What is chosen or measured once, before step 1: device, precision, threads, attention, and the steps that fit.

The result is an ordinary configuration with nothing left open. It is printed, written to the run, and reused on
resume, since a run is exactly repeatable only under the same choices.
"""

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch

from primegpt.config import Config, TrainConfig, resolve
from primegpt.data.batching.batches import Batches
from primegpt.data.batching.feed import smaller_micro_batch, training_batches
from primegpt.data.batching.pairs import row_lengths
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.shards import Shards
from primegpt.device import available_cores, choose_device, choose_precision, matmul_rate, memory_of
from primegpt.errors import ConfigError, OutOfMemory
from primegpt.hugepages import keep_in_huge_pages
from primegpt.model.memory import batch_bytes, process_memory, training_memory, what_to_lower
from primegpt.model.size import human_bytes, parameter_count
from primegpt.parallel.world import ALONE, World
from primegpt.planning.compiling import NOT_COMPILED, compiled_step_time, compiling_pays, remember_compiled
from primegpt.planning.course import Course, course_for, doubts
from primegpt.planning.packing import with_packing
from primegpt.planning.recipe import DEFAULT_MINUTES
from primegpt.planning.timing import (
    StepTime,
    candidates,
    forget,
    measure_steps,
    reference_seconds,
    step_times,
)
from primegpt.training.pace import intervals
from primegpt.training.state import INTERVALS
from primegpt.training.step import Precision

MOST_THREADS = 16  # a core; a run that goes on elsewhere may have some too many, and stays the same to the bit
LENGTHS = 16  # that batches of records have, and the context: kernels are kept for each (docs/experiments.md)

FIT = "set --train.activation_checkpointing, or a shorter --train.sequence_length, or train a smaller model"


def prepare_device(config: Config, world: World = ALONE) -> Config:
    """Resolve device, precision and threads, and set the process up for them; several ranks share out the threads."""
    train = config.train
    device = choose_device(train.device)
    fair = max(1, available_cores() // world.local_size)
    threads = min(train.threads or fair, fair) if world.local_size > 1 else train.threads or fair
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_in_huge_pages()
    elif device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for products in fp32
    torch.set_flush_denormal(True)  # numbers below 1e-38 cost a hundred times as much and mean nothing here
    precision = choose_precision(train.precision, device)
    config = config.with_values(train={"device": device, "threads": threads, "precision": precision})
    return as_on_rank_0(config, world)


def refuse_threads(train: TrainConfig) -> None:
    """Raise ConfigError for threads that would spend all their time waiting for a core."""
    if (train.threads or 1) > MOST_THREADS * available_cores():
        what = f"train.threads = {train.threads}, and this process may use {available_cores()} cores"
        raise ConfigError(what, "leave it out: as many threads as cores are the fastest")


def as_on_rank_0(config: Config, world: World) -> Config:
    """`config` as rank 0 has it, where ranks may have measured different things."""
    return config if world.size == 1 else resolve(world.tell(config.model_dump(mode="json", exclude_unset=True)))


class Fitted(NamedTuple):
    """A step that memory suffices for, with the fastest attention."""

    config: Config
    batches: Batches
    times: StepTime
    notes: list[str]
    """What was measured, in words."""
    warnings: list[str]
    remembered: bool
    """Whether the times are those of an earlier plan."""


def make_plan(
    config: Config,
    corpus: Corpus,
    *,
    elapsed: float = 0.0,
    rereading: int = 0,
    most_passes: float = math.inf,
    world: World = ALONE,
) -> Config:
    """`config` with everything resolved for `corpus`; `elapsed` seconds of a time budget are already gone, and at the
    end two models read `rereading` targets of another text. No more steps are planned for a time budget than make
    `most_passes` over the text.

    Expects `prepare_device` to have been called and `model.vocab_size` to be known. Takes about a second, less when
    flags leave nothing to measure, and as long as compiling does where that is asked for or pays.
    """
    started, train = time.monotonic(), config.train
    length = train.sequence_length or config.model.block_size
    lengths = few_lengths(corpus.train, length) if corpus.train.has_roles else ()
    small = 4 * parameter_count(config.model) < 50e6
    keep = train.keep_checkpoints or ("milestones" if small else 3)
    config = config.with_values(train={"sequence_length": length, "keep_checkpoints": keep}, plan={"lengths": lengths})
    minutes = train.minutes or (None if train.max_steps or train.tokens or train.epochs else DEFAULT_MINUTES)

    def course_of(fitted: Fitted) -> Course:
        gone = elapsed + time.monotonic() - started + reference_seconds(fitted.config, corpus, fitted.times)
        left = max(1.0, 60 * minutes - gone) if minutes else 0.0
        return course_for(
            fitted.config, corpus, fitted.batches, fitted.times,
            left=left, rereading=rereading, most_passes=most_passes, ranks=world.size,
        )  # fmt: skip

    fitted = fitting_step(config, corpus, world)
    course = course_of(fitted)
    lacks_time = minutes and not course.most_steps and any(doubts(train, course, minutes))
    if lacks_time and fitted.remembered and forget(fitted.config):
        # What is remembered may be of a moment in which other programs had the machine.
        fitted = fitting_step(config, corpus, world)
        course = course_of(fitted)
    return as_on_rank_0(planned(fitted, course, corpus, minutes), world)


def planned(fitted: Fitted, course: Course, corpus: Corpus, minutes: float | None) -> Config:
    """The configuration of a run that makes `course`."""
    config, train = fitted.config, fitted.config.train
    given: dict[str, int | None] = {name: getattr(train, name) for name in INTERVALS}
    values: dict[str, Any] = intervals(given, course.steps, course.training_seconds, course.costs)
    values |= {"max_steps": course.steps, "minutes": None, "tokens": None, "epochs": None}
    values["warmup_steps"] = min(train.warmup_steps, course.steps // 2)  # the other half is there to cool down
    values["early_evaluations"] = course.early
    start = config.generate.start_document
    record = {
        "device": train.device,
        "threads": train.threads,
        "train_tokens": len(corpus.train),
        "step_seconds": fitted.times.step,
        "peak_flops": matmul_rate(train.device, Precision(train.precision, train.device).dtype),
        "training_seconds": course.training_seconds + course.spare_seconds,
        "most_steps": course.most_steps,
        "closing_seconds": course.closing_seconds,
        "expected_seconds": course.expected_seconds,
        "reread_targets": course.reread_targets,
        "expected_memory_mb": process_memory(config) / 1e6,
        "chosen": [*config.plan.chosen, *(name for name, interval in given.items() if interval is None)],
        "notes": fitted.notes,
        "warnings": [*fitted.warnings, *doubts(train, course, minutes)],
    }
    return config.with_values(
        train=values,
        data={"val_tokens": course.val_tokens},
        generate={"start_document": begins_documents(corpus) if start is None else start},
        plan=record,
    )


def fitting_step(config: Config, corpus: Corpus, world: World) -> Fitted:
    """`fastest_step` with the largest micro-batch that memory suffices for: that of `config`, or a part of it.

    What the forecast says cannot fit is not tried: a system that promises more memory than it has would end the
    process. Raises OutOfMemory where not even one row fits.
    """
    warnings: list[str] = []
    with world.together():
        refuse_what_cannot_fit(config, world)
    pack = config.data.pack
    while True:
        config = as_on_rank_0(with_packing(config.with_values(data={"pack": pack}), corpus, world), world)
        batches = training_batches(config, corpus, world.rank, world.size)
        if excess(config, world) <= 0 and (fitted := fastest_step(config, batches, world)):
            return compiled_where_it_pays(fitted._replace(warnings=warnings + fitted.warnings), world)
        rows = batches.batch_size
        if rows == 1:
            raise OutOfMemory(
                f"out of memory: a step of one row of {config.sequence_length:,} tokens does not fit", FIT
            )
        smaller = {
            "batch_size": smaller_micro_batch(rows),
            "gradient_accumulation_steps": batches.examples_per_step // smaller_micro_batch(rows),
        }
        config = config.with_values(train=smaller)
        steps = "{gradient_accumulation_steps} micro-batches of {batch_size} rows a step".format(**smaller)
        warnings = [f"micro-batches of {rows} rows do not fit into memory: {steps} instead"]


def excess(config: Config, world: World = ALONE) -> float:
    """Bytes by which the forecast of a step is above what this rank may have; below 0 where it fits."""
    need, have = process_memory(config), memory_of(config.train.device)
    if world.sharded:
        need -= (1 - 1 / world.size) * (training_memory(config).total + batch_bytes(config))
    return need - (have if config.train.device == "cuda" else have / world.local_size)


def refuse_what_cannot_fit(config: Config, world: World = ALONE) -> None:
    """Raise ConfigError, with the key to lower, if by the forecast not even a step of single rows fits into memory.

    `model.vocab_size` may still be unknown: then the least is assumed.
    """
    known = {"model": {"vocab_size": config.model.vocab_size or 1}}
    rows = config.train.batch_size * config.train.gradient_accumulation_steps
    least = config.with_values(**known, train={"batch_size": 1, "gradient_accumulation_steps": rows})
    if (too_much := excess(least, world)) > 0:
        have = memory_of(config.train.device) / (1 if config.train.device == "cuda" else world.local_size)
        raise ConfigError(
            f"a step of this model needs about {human_bytes(have + too_much)} by forecast, even with one row at once, "
            f"and there are {human_bytes(have)}",
            f"lower {what_to_lower(least)}",
        )


def fastest_step(config: Config, batches: Batches, world: World) -> Fitted | None:
    """`config` with the fastest attention, and compiled no more if that fails.

    Attention is compared without compiling, which would take its time for each kind; where there is but one, only the
    compiled step is timed, since the other one may not fit into the memory of a GPU. None where memory does not
    suffice.
    """
    kernels, times, notes, remembered = candidates(config), {}, [], False
    if len(kernels) > 1 or not config.train.compile:
        times, remembered = step_times(config.with_values(train={"compile": False}), batches, world)
        when = ", measured before" if remembered else ""
        notes = [f"attention {name}: {1000 * time.step:.1f} ms a step{when}" for name, time in times.items()]
        if not times:
            return None
    kernel = min(times, key=lambda name: times[name].step, default=kernels[0])
    config = config.with_values(train={"attention": kernel})
    if not config.train.compile:
        return Fitted(config, batches, times[kernel], notes, [], remembered)
    compiled = compiled_step_time(config, batches, world)
    if isinstance(compiled, StepTime):  # its own time was measured now
        notes = [*notes, f"compiled: {1000 * compiled.step:.1f} ms a step"]
        return Fitted(config, batches, compiled, notes, [], remembered=False)
    if compiled is None:
        return None
    config = config.with_values(train={"compile": False})
    if not times:
        times, remembered = step_times(config, batches, world)
    warnings = [f"{NOT_COMPILED}{compiled}"]
    return Fitted(config, batches, times[kernel], notes, warnings, remembered) if times else None


def compiled_where_it_pays(fitted: Fitted, world: World) -> Fitted:
    """The same, compiled where nobody has said whether, the minutes repay it, and steps prove to be faster."""
    config, batches, plain = fitted.config, fitted.batches, fitted.times
    if not compiling_pays(config, world):
        return fitted
    compiled = config.with_values(train={"compile": True})
    with suppress(OutOfMemory):
        times = compiled_step_time(compiled, batches, world)
        if not isinstance(times, StepTime):
            return fitted
        # Compiling took a minute, or the other time is remembered: the machine may be slower by now, or faster.
        plain = next(iter(measure_steps(config, batches, world).values()), plain)
        told = f"compiled: {1000 * times.step:.1f} ms a step, as written then {1000 * plain.step:.1f}"
        fitted = fitted._replace(times=plain, notes=[*fitted.notes, told], remembered=False)
        if times.step < plain.step:
            remember_compiled(compiled)
            return fitted._replace(config=compiled, times=times)
    return fitted


def few_lengths(records: Shards, context: int) -> tuple[int, ...]:
    """The lengths to pad records to: each is the next one for as many of them as any other is."""
    parts = np.quantile(row_lengths(records) - 1, np.linspace(0, 1, LENGTHS + 1)[1:], method="higher").clip(1)
    return tuple(sorted({*parts.astype(int).tolist(), context}))


def begins_documents(corpus: Corpus) -> bool:
    """Whether a text that is to be continued begins a document, as most did in training."""
    return corpus.n_documents > 1 and not corpus.train.has_roles


def conditions(config: Config, world: World = ALONE) -> dict[str, object]:
    """What must be equal, beside the plan, for two runs to be equal bit for bit."""
    import platform

    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": config.train.device,
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "ranks": world.size,
    }


def differences(saved: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Conditions that have changed, in words."""
    before = {"ranks": 1, **saved}
    return [f"{key} was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]]
