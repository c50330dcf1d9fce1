"""What is chosen or measured once, before step 1: device, precision, threads, attention, and the steps that fit.

The result is an ordinary configuration with nothing left open. It is printed, written to the run, and reused on
resume, since a run is exactly repeatable only under the same choices.
"""

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any, Literal

import torch

from primegpt.config import Config, TrainConfig, resolve
from primegpt.data.corpus import Corpus
from primegpt.data.feed import Batches, training_batches
from primegpt.data.mixture import Mixture
from primegpt.model.size import (
    human_bytes,
    human_count,
    human_seconds,
    lora_parameter_count,
    parameter_count,
    training_memory,
)
from primegpt.training.assemble import assemble
from primegpt.training.distributed import ALONE, World
from primegpt.training.optimizers import Optimizers
from primegpt.training.precision import Precision, available_threads, choose_device, choose_precision, matmul_rate
from primegpt.training.trainer import compute_gradients, is_out_of_memory, update

DEFAULT_MINUTES = 3.0
RECORD = 256  # tokens that a record with an answer may need
EVALUATIONS = 10
EVALUATION_SHARE = 0.04  # of the budget, for evaluations on the fixed sets
SAMPLES = 4
PROBE_SECONDS = 0.4  # of steps timed for each candidate

NOT_COMPILED = "not compiled: "

Kernel = Literal["sdpa", "explicit"]


def recipe(
    text_bytes: int | None, device: str, minutes: float | None, preset: str = "prime", *, records: bool = False
) -> dict[str, Any]:
    """The zero-config layer: what to train on `text_bytes` of text in `minutes` on `device`, nothing else known.

    Records with an answer have to fit into a context, so they get a longer one and longer pieces of text.

    Small text: characters, since a few MB hold too few examples of each longer piece. The network grows with the
    time there is, not with the text: on a CPU, minutes are what is scarce. Measured in docs/experiments.md.
    """
    size = _network(device, minutes or DEFAULT_MINUTES)
    if records and (short := RECORD // size["model"]["block_size"]) > 1:
        size["model"]["block_size"] = RECORD
        size["train"]["batch_size"] //= short
    return {
        "model": {"preset": preset, **size["model"]},
        "tokenizer": {"kind": "bpe", "vocab_size": 2048} if records else tokenizer_for(text_bytes),
        "train": size["train"],
    }


def tokenizer_for(text_bytes: int | None) -> dict[str, Any]:
    """The tokenizer of the zero-config layer. The size of a stream is not known; it is taken to be small."""
    text_bytes = text_bytes or 1_000_000
    if text_bytes < 3_000_000:
        return {"kind": "char"}
    vocab_size = 2048 if text_bytes < 20_000_000 else 8192 if text_bytes < 500_000_000 else 16384
    return {"kind": "bpe", "vocab_size": vocab_size}


def _network(device: str, minutes: float) -> dict[str, dict[str, Any]]:
    """Width, depth, context and batch by the compute there is."""
    if device == "cuda":
        return {
            "model": {"n_layer": 12, "n_head": 6, "n_embd": 768, "block_size": 512},
            "train": {"batch_size": 64},
        }
    if minutes < 1:
        return {
            "model": {"n_layer": 4, "n_head": 2, "n_embd": 128, "block_size": 64},
            "train": {"batch_size": 32},
        }
    if minutes < 8:
        return {
            "model": {"n_layer": 4, "n_head": 3, "n_embd": 192, "block_size": 128},
            "train": {"batch_size": 16},
        }
    return {
        "model": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256},
        "train": {"batch_size": 16},
    }


def prepare_device(config: Config, world: World = ALONE) -> Config:
    """Resolve device, precision and threads, and set the process up for them; several ranks share out the threads."""
    train = config.train
    device = choose_device(train.device)
    fair = max(1, available_threads() // world.local_size)
    threads = min(train.threads or fair, fair) if world.local_size > 1 else train.threads or fair
    torch.set_num_threads(threads)
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
    flags leave nothing to measure.
    """
    started, train = time.monotonic(), config.train
    length = train.sequence_length or config.model.block_size
    config = config.with_values(train={"sequence_length": length})
    batches = training_batches(config, corpus, world.rank, world.size)
    notes = []
    if train.compile and (reason := why_not_compiled(config, batches, world)):
        config = config.with_values(train={"compile": False})
        notes.append(f"{NOT_COMPILED}{reason}")
    times = measure_steps(config, batches, world)
    kernel = min(times, key=lambda name: times[name])
    step_seconds = times[kernel]

    tokens_per_step = batches.tokens_per_step
    eval_seconds_per_token = step_seconds / tokens_per_step / 3  # forward is a third of forward and backward
    minutes = train.minutes or (None if train.max_steps or train.tokens or train.epochs else DEFAULT_MINUTES)
    steps = steps_for_counted_budget(train, batches)
    training_seconds = 0.0
    if minutes is not None:
        closing = eval_seconds_per_token * corpus.val_targets + 3.0  # the full evaluation, the plot, the last samples
        measuring = time.monotonic() - started  # compiling is the most of it
        training_seconds = max(1.0, 60 * minutes - elapsed - measuring - closing)
        steps = max(1, int(training_seconds * (1 - EVALUATION_SHARE - 0.04) / step_seconds))
    assert steps is not None

    budget = training_seconds or steps * step_seconds
    values: dict[str, Any] = intervals(config, steps)
    values |= {"max_steps": steps, "minutes": None, "tokens": None, "epochs": None, "attention": kernel}
    small = 4 * parameter_count(config.model) < 50e6
    values["keep_checkpoints"] = train.keep_checkpoints or ("milestones" if small else 3)
    val_tokens = config.data.val_tokens or affordable_targets(config, budget, eval_seconds_per_token)
    start = config.generate.start_document
    record = {
        "device": train.device,
        "threads": train.threads,
        "train_tokens": len(corpus.train),
        "step_seconds": step_seconds,
        "peak_flops": matmul_rate(train.device, Precision(train.precision, train.device).dtype),
        "training_seconds": training_seconds,
        "expected_seconds": training_seconds or steps * step_seconds * (1 + EVALUATION_SHARE + 0.04),
        "expected_memory_mb": training_memory(config.with_values(train={"attention": kernel})).total / 1e6,
        "notes": notes + [f"attention {name}: {1000 * seconds:.1f} ms a step" for name, seconds in times.items()],
    }
    planned = config.with_values(
        train=values,
        data={"val_tokens": min(val_tokens, corpus.val_targets)},
        generate={"start_document": begins_documents(corpus) if start is None else start},
        plan=record,
    )
    return as_on_rank_0(planned, world)


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


def intervals(config: Config, steps: int) -> dict[str, int]:
    """How often to log, evaluate, sample and save, where the user has not said."""
    train = config.train
    evaluation = train.eval_interval or max(1, math.ceil(steps / EVALUATIONS))
    return {
        "eval_interval": evaluation,
        "sample_interval": train.sample_interval or max(1, math.ceil(steps / SAMPLES)),
        "checkpoint_interval": train.checkpoint_interval or evaluation,
        "log_interval": train.log_interval or max(1, math.ceil(steps / 500)),
    }


def affordable_targets(config: Config, budget: float, seconds_per_token: float) -> int:
    """Validation targets that keep all evaluations (train and validation set each time) within their share."""
    affordable = EVALUATION_SHARE * budget / (2 * (EVALUATIONS + 1)) / seconds_per_token
    batch = config.train.batch_size * (config.train.sequence_length or config.model.block_size)
    return batch * max(1, round(affordable / batch))


def measure_steps(config: Config, batches: Batches, world: World = ALONE) -> dict[Kernel, float]:
    """Seconds of one optimizer step for each attention implementation that is in question."""
    wanted = config.train.attention
    candidates: tuple[Kernel, ...] = ("sdpa", "explicit") if wanted == "auto" else (wanted,)
    if wanted == "auto" and config.train.device == "cuda":
        candidates = ("sdpa",)
    return {
        kernel: measure_step(config.with_values(train={"attention": kernel}), batches, world) for kernel in candidates
    }


def why_not_compiled(config: Config, batches: Batches, world: World = ALONE) -> str | None:
    """Why `torch.compile` cannot be used here, in one line; None if it can. Takes as long as compiling does."""
    try:
        measure_step(config.with_values(train={"attention": "sdpa"}), batches, world, seconds=0.0)
    except Exception as error:  # whatever a compiler, or the lack of one, may raise
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return None


def measure_step(config: Config, batches: Batches, world: World = ALONE, seconds: float = PROBE_SECONDS) -> float:
    """Median seconds of one optimizer step of a throw-away model, two warm-ups aside; of the slowest rank."""
    model = world.shard(assemble(config)).train()
    precision = Precision(config.train.precision, config.train.device)
    optimizers = Optimizers(model, config.train, precision.dtype)
    times: list[float] = []
    while len(times) < 3 or (sum(times[1:]) < seconds and len(times) < 100):
        start = time.perf_counter()
        step, seed = len(times), config.train.seed
        compute_gradients(model, batches.micro_batches(step), precision, seed, step, world=world)
        world.sum_gradients(model)
        update(model, optimizers, precision, config.train.grad_clip)
        times.append(world.max(time.perf_counter() - start))
    return statistics.median(times[2:])


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
