"""What is chosen or measured once, before step 1: device, precision, threads, attention, and the steps that fit.

The result is an ordinary configuration with nothing left open. It is printed, written to the run, and reused on
resume, since a run is exactly repeatable only under the same choices.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from primegpt.config import MAX_STEPS, Config, TrainConfig, resolve
from primegpt.data.batching.batches import Batches
from primegpt.data.batching.feed import fixed_batches, smaller_micro_batch, training_batches
from primegpt.data.batching.pairs import row_lengths
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.shards import Shards
from primegpt.device import available_cores, bf16_speedup, choose_device, choose_precision, matmul_rate, memory_of
from primegpt.errors import ConfigError, OutOfMemory
from primegpt.hugepages import keep_in_huge_pages
from primegpt.model.memory import batch_bytes, training_memory, what_to_lower
from primegpt.model.size import human_bytes, human_seconds, parameter_count
from primegpt.parallel.world import ALONE, World
from primegpt.planning.packing import with_packing
from primegpt.planning.recipe import DEFAULT_MINUTES
from primegpt.planning.timing import StepTime, candidates, compiled_step_time, reference_seconds, step_times
from primegpt.training.early import early_seconds, early_steps
from primegpt.training.objective import objective_for
from primegpt.training.pace import EVALUATION_SECONDS, EVALUATIONS, intervals
from primegpt.training.state import INTERVALS
from primegpt.training.step import Precision

EVALUATION_SHARE = 0.025  # of the budget, for evaluations on the fixed sets
SLACK = 0.03  # of the training time, for checkpoints, the log and the display
CLOSING_SECONDS = 0.8  # the plot, the files of the run
MOST_THREADS = 16  # a core; a run that goes on elsewhere may have some too many, and stays the same to the bit
FEW_STEPS = 50  # that hardly teach a network anything
REREAD_SHARE = 0.05  # of a time budget, for the loss on the text that a base model has learnt
LENGTHS = 16  # that batches of records have, and the context: kernels are kept for each (docs/experiments.md)

NOT_COMPILED = "not compiled: "
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
    flags leave nothing to measure, and as long as compiling does where that is asked for.
    """
    started, train = time.monotonic(), config.train
    length = train.sequence_length or config.model.block_size
    lengths = few_lengths(corpus.train, length) if corpus.train.has_roles else ()
    small = 4 * parameter_count(config.model) < 50e6
    keep = train.keep_checkpoints or ("milestones" if small else 3)
    config = config.with_values(train={"sequence_length": length, "keep_checkpoints": keep}, plan={"lengths": lengths})
    config, batches, times, notes, warnings = fitting_step(config, corpus, world)

    minutes = train.minutes or (None if train.max_steps or train.tokens or train.epochs else DEFAULT_MINUTES)
    elapsed += time.monotonic() - started + reference_seconds(config, corpus, times)
    left = max(1.0, 60 * minutes - elapsed) if minutes else 0.0
    counted = steps_for_counted_budget(train, batches)
    course = plotted(config, corpus, times, counted, left, rereading, world.size)
    allowed, most_steps = course.training_seconds, None
    if left and (passes := batches.epoch(course.steps)) > most_passes:
        left = course.closing_seconds + allowed * most_passes / passes
        course = plotted(config, corpus, times, counted, left, rereading, world.size)
        most_steps = course.steps
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
        "step_seconds": times.step,
        "peak_flops": matmul_rate(train.device, Precision(train.precision, train.device).dtype),
        "training_seconds": allowed,
        "most_steps": most_steps,
        "closing_seconds": course.closing_seconds,
        "expected_seconds": course.expected_seconds,
        "reread_targets": course.reread_targets,
        "expected_memory_mb": training_memory(config).total / 1e6,
        "chosen": [name for name, interval in given.items() if interval is None],
        "notes": notes,
        "warnings": [*warnings, *doubts(train, course, minutes)],
    }
    planned = config.with_values(
        train=values,
        data={"val_tokens": course.val_tokens},
        generate={"start_document": begins_documents(corpus) if start is None else start},
        plan=record,
    )
    return as_on_rank_0(planned, world)


class Course(NamedTuple):
    """What a run will do, and how long that takes in seconds."""

    steps: int
    early: Sequence[int]  # those after which it is evaluated early
    val_tokens: int
    reread_targets: int
    training_seconds: float  # that it may take, 0 where the budget is not of time
    closing_seconds: float
    expected_seconds: float
    costs: Mapping[str, float]  # of what is done between steps, each time


def plotted(
    config: Config, corpus: Corpus, times: StepTime, counted: int | None, left: float, rereading: int, ranks: int
) -> Course:
    """The steps that were asked for (`counted`), or as many as fit into the seconds `left`; and all that belongs to
    them: evaluations, samples, and what is read at the end.
    """
    train = config.train
    budget = left or (counted or 1) * times.step
    given: dict[str, int | None] = {name: getattr(train, name) for name in INTERVALS}
    per_target = times.position * positions_per_target(config, corpus.val)
    val_tokens = config.data.val_tokens or affordable_targets(config, budget, per_target / ranks, timed=bool(left))
    val_tokens = min(val_tokens, corpus.val_targets)
    costs = {
        "eval_interval": 2 * val_tokens * per_target / ranks,
        "sample_interval": times.token * config.generate.max_new_tokens,
    }
    early = early_seconds(config, val_tokens, per_target / ranks)
    in_fp32 = times.position * (bf16_speedup() if rereading and train.precision == "bf16" else 1.0)
    if left and not config.data.base_text:
        rereading = min(rereading, max(1, int(REREAD_SHARE * left / 2 / in_fp32)))
    # As `jobs.trainers.evaluated` has it: what an evaluation has found is not asked for again.
    told = val_tokens >= corpus.val_targets and objective_for(config).is_likelihood
    judged = 0 if told else corpus.val_targets
    closing = CLOSING_SECONDS + judged * per_target + 2 * rereading * in_fp32
    if counted:
        often = intervals(given, counted)
        training = counted * times.step + sum(cost * (counted / often[name] + 1) for name, cost in costs.items())
        at = early_steps(train, often["eval_interval"], training / early)
        expected = training + early * sum(map(bool, at)) + closing
        return Course(counted, at, val_tokens, rereading, 0.0, closing, expected, costs)
    training = max(1.0, left - closing)
    often = intervals(given, affordable_steps(training, times.step, given, costs), training, costs)
    at = early_steps(train, often["eval_interval"], training / early)
    steps = min(MAX_STEPS, affordable_steps(training - early * sum(map(bool, at)), times.step, given, costs))
    return Course(steps, at, val_tokens, rereading, training, closing, training + closing, costs)


def fitting_step(
    config: Config, corpus: Corpus, world: World
) -> tuple[Config, Batches, StepTime, list[str], list[str]]:
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
        if excess(config, world) <= 0 and (fastest := fastest_step(config, batches, world)):
            config, times, notes, not_compiled = fastest
            return config, batches, times, notes, warnings + not_compiled
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
    need, have = training_memory(config).total + batch_bytes(config), memory_of(config.train.device)
    if world.sharded:
        need /= world.size
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


def fastest_step(
    config: Config, batches: Batches, world: World
) -> tuple[Config, StepTime, list[str], list[str]] | None:
    """`config` with the fastest attention, and compiled no more if that fails; and what was measured of it.

    Then what was found, in words, and why there is nothing compiled. Attention is compared without compiling, which
    would take its time for each kind; where there is but one, only the compiled step is timed, since the other one may
    not fit into the memory of a GPU. None where memory does not suffice.
    """
    kernels, times, notes = candidates(config), {}, []
    if len(kernels) > 1 or not config.train.compile:
        times, remembered = step_times(config.with_values(train={"compile": False}), batches, world)
        when = ", measured before" if remembered else ""
        notes = [f"attention {name}: {1000 * time.step:.1f} ms a step{when}" for name, time in times.items()]
        if not times:
            return None
    kernel = min(times, key=lambda name: times[name].step, default=kernels[0])
    config = config.with_values(train={"attention": kernel})
    if not config.train.compile:
        return config, times[kernel], notes, []
    compiled = compiled_step_time(config, batches, world)
    if isinstance(compiled, StepTime):
        return config, compiled, [*notes, f"compiled: {1000 * compiled.step:.1f} ms a step"], []
    if compiled is None:
        return None
    config = config.with_values(train={"compile": False})
    times = times or step_times(config, batches, world)[0]
    return (config, times[kernel], notes, [f"{NOT_COMPILED}{compiled}"]) if times else None


def doubts(train: TrainConfig, course: Course, minutes: float | None) -> Iterator[str]:
    """What speaks against a plan, each with its remedy; where steps were asked for, they are taken to be meant."""
    if minutes and course.closing_seconds > 60 * minutes / 2:
        yield (
            f"what is read at the end, validation text above all, takes about {human_seconds(course.closing_seconds)} "
            f"of {human_seconds(60 * minutes)}: lower --data.val_fraction, or give more --minutes"
        )
    if course.steps < FEW_STEPS and not train.max_steps:
        what = "what fits the time" if minutes else "all that was asked for"
        more = "--minutes" if minutes else "--epochs or --tokens"
        yield (
            f"{course.steps:,} step{'s are' if course.steps != 1 else ' is'} {what}, too few to learn much: give more "
            f"{more}, or "
            "take smaller steps (--train.batch_size, --train.gradient_accumulation_steps) or a smaller model "
            "(--model.n_embd)"
        )


def few_lengths(records: Shards, context: int) -> tuple[int, ...]:
    """The lengths to pad records to: each is the next one for as many of them as any other is."""
    parts = np.quantile(row_lengths(records) - 1, np.linspace(0, 1, LENGTHS + 1)[1:], method="higher").clip(1)
    return tuple(sorted({*parts.astype(int).tolist(), context}))


def begins_documents(corpus: Corpus) -> bool:
    """Whether a text that is to be continued begins a document, as most did in training."""
    return corpus.n_documents > 1 and not corpus.train.has_roles


def steps_for_counted_budget(train: TrainConfig, batches: Batches) -> int | None:
    """The steps of a budget in steps, tokens or epochs; None when none of these is given."""
    steps, budget = train.max_steps, "max_steps"
    if train.tokens:
        steps, budget = math.ceil(train.tokens / batches.tokens_per_step), "tokens"
    elif train.epochs:
        steps, budget = math.ceil(train.epochs / batches.epoch(1)), "epochs"
    if (steps or 0) > MAX_STEPS:
        asked = f"train.{budget} = {getattr(train, budget):,}"
        raise ConfigError(f"{asked} are {steps:,} steps, and a run may have {MAX_STEPS:,}", "give less")
    return steps


def positions_per_target(config: Config, shards: Shards) -> float:
    """Tokens of fixed batches, padding included, for each that is asked for: 1 in a text, more in records."""
    seen = list(islice(fixed_batches(config, shards, 8 * config.tokens_per_step), 8))
    return sum(batch.ids.numel() for batch in seen) / max(1, sum(batch.supervised for batch in seen))


def affordable_targets(config: Config, budget: float, seconds_per_target: float, *, timed: bool) -> int:
    """Validation targets that keep all evaluations (train and validation set each time) within their share."""
    steps_apart = config.train.eval_interval
    evaluations = min(EVALUATIONS, budget // EVALUATION_SECONDS) if timed and not steps_apart else EVALUATIONS
    affordable = EVALUATION_SHARE * budget / (2 * (evaluations + 1)) / seconds_per_target
    batch = config.train.batch_size * config.sequence_length
    return batch * max(1, round(affordable / batch))


def affordable_steps(seconds: float, step: float, given: Mapping[str, int | None], costs: Mapping[str, float]) -> int:
    """Steps of `step` seconds that fit into `seconds`, with what is done between them: each of `costs` every so many
    steps as `given`, or as often as the plan will have it."""
    often = intervals({}, 10**6, seconds, costs)
    counts = {name: 10**6 / often[name] for name in costs if not given[name]}
    between = sum(costs[name] * (1 + counts.get(name, 0.0)) for name in costs)
    each = step + sum(cost / interval for name, cost in costs.items() if (interval := given[name]))
    return max(1, int((seconds * (1 - SLACK) - between) / each))


def steps_in(config: Config, seconds: float) -> int:
    """Steps of a run with a plan that fit into `seconds` more, with as much between them as it was planned for."""
    train, plan = config.train, config.plan
    steps, planned = train.max_steps or 1, plan.expected_seconds - plan.closing_seconds
    given = {
        name: None if name in plan.chosen else getattr(train, name) for name in ("eval_interval", "sample_interval")
    }
    times = sum(steps / getattr(train, name) + 1 for name in given if getattr(train, name))
    between = planned * (1 - (SLACK if plan.training_seconds else 0.0)) - steps * plan.step_seconds
    costs = dict.fromkeys(given, max(0.0, between) / max(1.0, times))  # one as much as the other: only the sum is known
    return affordable_steps(seconds, plan.step_seconds, given, costs)


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
