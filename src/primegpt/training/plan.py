"""What is chosen or measured once, before step 1: device, precision, threads, attention, and the steps that fit.

The result is an ordinary configuration with nothing left open. It is printed, written to the run, and reused on
resume, since a run is exactly repeatable only under the same choices.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from primegpt.config import Config, TrainConfig, resolve
from primegpt.data.corpus import Corpus
from primegpt.data.feed import Batches, training_batches
from primegpt.data.mixture import Mixture
from primegpt.model.memory import training_memory
from primegpt.model.size import human_bytes, human_count, human_seconds, lora_parameter_count, parameter_count
from primegpt.training.heap import keep_in_huge_pages
from primegpt.training.precision import Precision, available_threads, choose_device, choose_precision, matmul_rate
from primegpt.training.recipe import DEFAULT_MINUTES
from primegpt.training.timing import candidates, compiled_step_seconds, step_times
from primegpt.training.world import ALONE, World

EVALUATIONS = 10
EVALUATION_SECONDS = 3.0  # a time budget has at most one evaluation in so many seconds ...
SAMPLE_SECONDS = 12.0  # ... and one sample
EVALUATION_SHARE = 0.025  # of the budget, for evaluations on the fixed sets
SAMPLES = 4

NOT_COMPILED = "not compiled: "
COMPILING_SAVES = 1.5  # at most so many times the compiled step (docs/experiments.md), where only that is timed


def prepare_device(config: Config, world: World = ALONE) -> Config:
    """Resolve device, precision and threads, and set the process up for them; several ranks share out the threads."""
    train = config.train
    device = choose_device(train.device)
    fair = max(1, available_threads() // world.local_size)
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


def as_on_rank_0(config: Config, world: World) -> Config:
    """`config` as rank 0 has it, where ranks may have measured different things."""
    return config if world.size == 1 else resolve(world.tell(config.model_dump(mode="json", exclude_unset=True)))


def make_plan(config: Config, corpus: Corpus, *, elapsed: float = 0.0, world: World = ALONE) -> Config:
    """`config` with everything resolved for `corpus`; `elapsed` seconds of a time budget are already gone.

    Expects `prepare_device` to have been called and `model.vocab_size` to be known. Takes about a second, less when
    flags leave nothing to measure, and as long as compiling does where that is asked for.
    """
    started, train = time.monotonic(), config.train
    length = train.sequence_length or config.model.block_size
    config = config.with_values(train={"sequence_length": length})
    batches = training_batches(config, corpus, world.rank, world.size)
    config, step_seconds, as_written_seconds, notes = fastest_step(config, batches, world)

    tokens_per_step = batches.tokens_per_step
    eval_seconds_per_token = as_written_seconds / tokens_per_step / 3  # forward is a third of forward and backward
    minutes = train.minutes or (None if train.max_steps or train.tokens or train.epochs else DEFAULT_MINUTES)
    steps = steps_for_counted_budget(train, batches)
    training_seconds = 0.0
    if minutes is not None:
        closing = eval_seconds_per_token * corpus.val_targets + 2.0  # the full evaluation, the plot, the last samples
        measuring = time.monotonic() - started  # compiling is the most of it
        training_seconds = max(1.0, 60 * minutes - elapsed - measuring - closing)
        steps = max(1, int(training_seconds * (1 - EVALUATION_SHARE - 0.04) / step_seconds))
    assert steps is not None

    budget = training_seconds or steps * step_seconds
    values: dict[str, Any] = intervals(config, steps, training_seconds)
    values |= {"max_steps": steps, "minutes": None, "tokens": None, "epochs": None}
    small = 4 * parameter_count(config.model) < 50e6
    values["keep_checkpoints"] = train.keep_checkpoints or ("milestones" if small else 3)
    evaluations = steps / values["eval_interval"]
    val_tokens = config.data.val_tokens or affordable_targets(config, budget, evaluations, eval_seconds_per_token)
    start = config.generate.start_document
    record = {
        "device": train.device,
        "threads": train.threads,
        "train_tokens": len(corpus.train),
        "step_seconds": step_seconds,
        "peak_flops": matmul_rate(train.device, Precision(train.precision, train.device).dtype),
        "training_seconds": training_seconds,
        "expected_seconds": training_seconds or steps * step_seconds * (1 + EVALUATION_SHARE + 0.04),
        "expected_memory_mb": training_memory(config).total / 1e6,
        "notes": notes,
    }
    planned = config.with_values(
        train=values,
        data={"val_tokens": min(val_tokens, corpus.val_targets)},
        generate={"start_document": begins_documents(corpus) if start is None else start},
        plan=record,
    )
    return as_on_rank_0(planned, world)


def fastest_step(config: Config, batches: Batches, world: World) -> tuple[Config, float, float, list[str]]:
    """`config` with the fastest attention, and compiled no more if that fails; and how long a step of it takes.

    That is in seconds, and again as written: so are evaluations. Last what was found, in words. Attention is compared
    without compiling, which would take its time for each kind; where there is but one, only the compiled step is
    timed, since the other one may not fit into the memory of a GPU.
    """
    kernels, times, notes = candidates(config), {}, []
    if len(kernels) > 1 or not config.train.compile:
        times, remembered = step_times(config.with_values(train={"compile": False}), batches, world)
        when = ", measured before" if remembered else ""
        notes = [f"attention {name}: {1000 * seconds:.1f} ms a step{when}" for name, seconds in times.items()]
    kernel = min(times, key=lambda name: times[name], default=kernels[0])
    config = config.with_values(train={"attention": kernel})
    if not config.train.compile:
        return config, times[kernel], times[kernel], notes
    seconds = compiled_step_seconds(config, batches, world)
    if isinstance(seconds, str):
        config = config.with_values(train={"compile": False})
        plain = times[kernel] if times else step_times(config, batches, world)[0][kernel]
        return config, plain, plain, [f"{NOT_COMPILED}{seconds}", *notes]
    plain = times.get(kernel, COMPILING_SAVES * seconds)
    return config, seconds, plain, [*notes, f"compiled: {1000 * seconds:.1f} ms a step"]


def begins_documents(corpus: Corpus) -> bool:
    """Whether a text that is to be continued begins a document, as most did in training."""
    return corpus.n_documents > 1 and not corpus.train.has_roles


def steps_for_counted_budget(train: TrainConfig, batches: Batches) -> int | None:
    """The steps of a budget in steps, tokens or epochs; None when none of these is given."""
    if train.tokens:
        return math.ceil(train.tokens / batches.tokens_per_step)
    if train.epochs:
        return math.ceil(train.epochs / batches.epoch(1))
    return train.max_steps


def intervals(config: Config, steps: int, seconds: float = 0.0) -> dict[str, int]:
    """How often to log, evaluate, sample and save, where the user has not said; `seconds` of a time budget, if any."""
    train = config.train
    evaluations = min(EVALUATIONS, seconds // EVALUATION_SECONDS) if seconds else EVALUATIONS
    samples = min(SAMPLES, seconds // SAMPLE_SECONDS) if seconds else SAMPLES
    evaluation = train.eval_interval or math.ceil(steps / max(1, evaluations))
    return {
        "eval_interval": evaluation,
        "sample_interval": train.sample_interval or math.ceil(steps / max(1, samples)),
        "checkpoint_interval": train.checkpoint_interval or evaluation,
        "log_interval": train.log_interval or max(1, math.ceil(steps / 500)),
    }


def affordable_targets(config: Config, budget: float, evaluations: float, seconds_per_token: float) -> int:
    """Validation targets that keep all evaluations (train and validation set each time) within their share."""
    affordable = EVALUATION_SHARE * budget / (2 * (evaluations + 1)) / seconds_per_token
    batch = config.train.batch_size * (config.train.sequence_length or config.model.block_size)
    return batch * max(1, round(affordable / batch))


def table(config: Config, corpus: Corpus) -> list[tuple[str, str]]:
    """The plan in words, a row a choice, for printing."""
    model, train, plan = config.model, config.train, config.plan
    parameters = parameter_count(model)
    batches = training_batches(config, corpus)
    steps = train.max_steps or 0
    total = steps * batches.tokens_per_step
    text = f"{human_bytes(corpus.train_bytes)} to train on, {human_bytes(corpus.val_bytes)} held out"
    kernels = f"{train.attention} attention{', compiled' if train.compile else ''}"
    rows = [
        ("text", f"{text}, {corpus.n_documents} document{'s' if corpus.n_documents > 1 else ''}"),
        *_shares(config, batches, steps),
        ("tokenizer", f"{corpus.tokenizer.kind}, {corpus.tokenizer.vocab_size:,} ids"),
        (
            "model",
            f"{model.preset}, {human_count(parameters)} parameters: {model.n_layer} layers, {model.n_embd} wide, "
            f"{model.n_head} heads, context {model.block_size}",
        ),
        (
            "data",
            f"{human_count(plan.train_tokens)} tokens, {plan.train_tokens / parameters:.1f} a parameter, "
            f"{batches.epoch(steps):.1f} epochs",
        ),
        (
            "steps",
            f"{steps:,} of {batches.tokens_per_step:,} tokens ({human_count(total)} in all), "
            f"{train.optimizer}, {train.schedule}",
        ),
        (
            "machine",
            f"{train.device}, {train.threads} threads, {train.precision}, {kernels}",
        ),
        ("expected", f"{human_seconds(plan.expected_seconds)}, {plan.expected_memory_mb:,.0f} MB for training"),
    ]
    rows += [("warning", note) for note in plan.notes if note.startswith(NOT_COMPILED)]
    if config.lora.rank:
        learns = lora_parameter_count(config)
        share = f"{human_count(learns)} parameters learn, {100 * learns / (parameters + learns):.2g}% of all"
        rows.insert(3, ("lora", f"rank {config.lora.rank}: {share}"))
    return rows


def _shares(config: Config, batches: Batches, steps: int) -> list[tuple[str, str]]:
    """What each source gives to a mixture, and how often it will have been seen."""
    if not isinstance(batches, Mixture):
        return []
    sources = zip(config.data.sources, batches.shares, batches.epochs(steps), strict=True)
    return [("mixture", ", ".join(f"{share:.0%} {name} ({epochs:.1f} epochs)" for name, share, epochs in sources))]


def conditions(config: Config, world: World = ALONE) -> dict[str, Any]:
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


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Conditions that have changed, in words."""
    before = {"ranks": 1, **saved}
    return [f"{key} was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]]
