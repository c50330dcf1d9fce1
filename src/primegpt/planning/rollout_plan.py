"""The plan of a run that learns from rewards: its first step is taken once, and how many fit follows from that."""

import time
from typing import Any

import torch

from primegpt.config import Config
from primegpt.data.batching.batches import Batches
from primegpt.data.batching.feed import smaller_micro_batch
from primegpt.device import matmul_rate, memory_of
from primegpt.errors import ConfigError, OutOfMemory, is_out_of_memory
from primegpt.model.gpt import GPT
from primegpt.model.memory import held_bytes, inference_memory, training_memory
from primegpt.model.size import human_bytes, human_count, human_seconds, lora_parameter_count, parameter_count
from primegpt.planning.course import CLOSING_SECONDS, REREAD_SHARE, affordable_steps, steps_for_counted_budget
from primegpt.planning.recipe import DEFAULT_MINUTES
from primegpt.training.objective import Objective
from primegpt.training.pace import intervals
from primegpt.training.state import INTERVALS, TrainState
from primegpt.training.step import Precision, compute_gradients

REREAD = 20_000  # targets of the text that the base has learnt, of which is told how much is forgotten
READ_AT_ONCE = 8  # rows, where the time of reading is measured
LOWER = "lower reinforce.prompts_per_step, reinforce.num_generations or reinforce.max_new_tokens"
SMALL = 50e6  # bytes of weights, up to which those of log-spaced steps are kept


def planned(
    config: Config,
    model: GPT,
    batches: Batches,
    objective: Objective,
    *,
    val_prompts: int,
    longest: int,
    rereading: int,
    elapsed: float,
) -> tuple[Config, Batches]:
    """`config` with everything resolved; `elapsed` seconds of a time budget are already gone.

    The longest prompt has `longest` tokens, and `rereading` targets of the base's text are read at the end, twice. What
    the first step writes for the measurement it does not write again.
    """
    started, train, reinforce = time.monotonic(), config.train, config.reinforce
    batches, step = first_step(config, model, batches, objective, longest)
    minutes = train.minutes or (None if train.max_steps or train.epochs else DEFAULT_MINUTES)
    reading = seconds_per_target(model) if rereading else 0.0
    left = 60 * minutes - elapsed - (time.monotonic() - started) if minutes else 0.0
    if minutes and rereading and not config.data.base_text:
        rereading = min(rereading, max(1, int(REREAD_SHARE * left / 2 / reading)))
    closing = CLOSING_SECONDS + 2 * rereading * reading
    given: dict[str, int | None] = {name: getattr(train, name) for name in INTERVALS}
    evaluation = step * val_prompts / reinforce.rows_per_step
    costs = {"eval_interval": evaluation, "sample_interval": evaluation / max(1, val_prompts)}
    training = max(1.0, left - closing) if minutes else 0.0
    steps = steps_for_counted_budget(train, batches) or affordable_steps(training, step, given, costs)
    often = intervals(given, steps, training, costs)
    between = sum(cost * (steps / often[name] + 1) for name, cost in costs.items())
    values: dict[str, Any] = often | {
        "max_steps": steps,
        "minutes": None,
        "epochs": None,
        "warmup_steps": min(train.warmup_steps, steps // 2),
        **division(batches),
        "keep_checkpoints": train.keep_checkpoints
        or ("milestones" if 4 * parameter_count(config.model) < SMALL else 3),
    }
    record = {
        "device": train.device,
        "threads": train.threads,
        "step_seconds": step,
        "peak_flops": matmul_rate(train.device, Precision(train.precision, train.device).dtype),
        "training_seconds": training,
        "closing_seconds": closing,
        "expected_seconds": (training or steps * step + between) + closing,
        "reread_targets": max(1, rereading),
        "expected_memory_mb": (
            held_bytes(config) + rollout_memory(config.with_values(train=division(batches)), longest)
        )
        / 1e6,
        "chosen": [name for name, interval in given.items() if interval is None],
    }
    val_tokens = val_prompts * (reinforce.max_new_tokens or 1)
    return config.with_values(train=values, data={"val_tokens": val_tokens}, plan=record), batches


def division(batches: Batches) -> dict[str, int]:
    """How the rows of a step are divided, as [train] says it."""
    steps = batches.gradient_accumulation_steps
    return {"batch_size": batches.batch_size, "gradient_accumulation_steps": steps}


def first_step(
    config: Config, model: GPT, batches: Batches, objective: Objective, longest: int
) -> tuple[Batches, float]:
    """The largest micro-batch that memory suffices for, and the seconds of a step with it; no weight changes.

    What the forecast says cannot fit is not tried.
    """
    have = memory_of(config.train.device)
    while True:
        started = time.monotonic()
        fits = rollout_memory(config.with_values(train=division(batches)), longest) <= have
        if fits and takes_a_step(config, model, batches, objective):
            return batches, time.monotonic() - started
        if batches.batch_size == 1:
            raise OutOfMemory("out of memory: a step of single completions does not fit", LOWER)
        batches = batches.with_batch_size(smaller_micro_batch(batches.batch_size))


def takes_a_step(config: Config, model: GPT, batches: Batches, objective: Objective) -> bool:
    """Whether memory suffices for writing the first step's completions, and for learning from them."""
    precision = Precision(config.train.precision, config.train.device)
    try:
        micro_batches = batches.micro_batches(0)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    model.train()
    if not compute_gradients(model, micro_batches, precision, config.train.seed, 0, objective=objective):
        return False
    model.zero_grad()
    return True


@torch.no_grad()
def seconds_per_target(model: GPT) -> float:
    """Seconds that reading a token of a text takes, in fp32 and without learning from it."""
    ids = torch.zeros((READ_AT_ONCE, model.config.block_size), dtype=torch.long, device=model.device)
    model(ids, targets=ids)
    started = time.monotonic()
    float(model(ids, targets=ids)[0])
    return (time.monotonic() - started) / ids.numel()


def rollout_memory(config: Config, longest: int) -> int:
    """Bytes at the peak of a step, by forecast, where the longest prompt has `longest` tokens.

    A step writes first, all completions side by side with their keys and values, and then learns. Where there is a
    divergence from the model that the run began with, and no adapters to be left out for it, that one is there too.
    """
    model, reinforce = config.model, config.reinforce
    length = min(model.block_size, longest + (reinforce.max_new_tokens or 1))
    learning = training_memory(config.with_values(train={"sequence_length": length}))
    in_fp32, rows = config.with_values(generate={"precision": "fp32"}), reinforce.rows_per_step
    whole, prompts = (inference_memory(in_fp32, rows, tokens) for tokens in (length, longest))
    room = whole.kv_cache + whole.logits + prompts.kv_cache  # prompts fill a cache of their own, which is then copied
    frozen = 4 * parameter_count(model) if reinforce.beta and not config.lora.rank else 0
    return frozen + max(learning.total, learning.weights + learning.optimizer + room)


def refuse_what_cannot_fit(config: Config, longest: int) -> None:
    """Raise ConfigError if by the forecast not even a step that learns from single rows fits into memory."""
    rows = config.reinforce.rows_per_step
    least = config.with_values(train={"batch_size": 1, "gradient_accumulation_steps": rows})
    need, have = rollout_memory(least, longest), memory_of(config.train.device)
    if need > have:
        raise ConfigError(
            f"a step of {rows:,} completions needs about {human_bytes(need)} by forecast, even with one row at once "
            f"where it learns, and there are {human_bytes(have)}",
            LOWER,
        )


def plan_rows(config: Config, learnt: int, held_out: int, state: TrainState | None = None) -> list[tuple[str, str]]:
    """The plan in words, a row a choice, for printing; prompts to learn from, and held out."""
    model, train, reinforce = config.model, config.train, config.reinforce
    parameters = parameter_count(model)
    steps = state.max_steps if state else train.max_steps or 0
    done = f"; {state.step:,} done" if state else ""
    rows = [
        ("prompts", f"{learnt:,} to learn from, {held_out:,} held out"),
        ("reward", ", ".join(reinforce.reward)),
        ("model", f"{model.preset}, {human_count(parameters)} parameters, context {model.block_size}"),
        (
            "steps",
            f"{steps:,} of {reinforce.prompts_per_step} prompts with {reinforce.num_generations} completions of at "
            f"most {reinforce.max_new_tokens} tokens, {reinforce.loss_type}, {train.optimizer}{done}",
        ),
        ("machine", f"{train.device}, {train.threads} thread{'s' * (train.threads != 1)}, {train.precision}"),
    ]
    if config.lora.rank:
        learns = lora_parameter_count(config)
        rows.insert(3, ("lora", f"rank {config.lora.rank}: {human_count(learns)} parameters learn"))
    if not state:
        plan = config.plan
        rows.append(("expected", f"{human_seconds(plan.expected_seconds)}, {plan.expected_memory_mb:,.0f} MB"))
    return rows
