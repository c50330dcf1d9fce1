"""The plan of a run that learns from rewards: its first step is taken once, and how many fit follows from that."""

import time
from typing import Any

from primegpt.config import Config
from primegpt.data.batching.batches import Batches
from primegpt.data.batching.feed import smaller_micro_batch
from primegpt.device import matmul_rate
from primegpt.errors import OutOfMemory
from primegpt.model.gpt import GPT
from primegpt.model.memory import training_memory
from primegpt.model.size import human_count, human_seconds, lora_parameter_count, parameter_count
from primegpt.planning.plan import CLOSING_SECONDS, FIT, affordable_steps, steps_for_counted_budget
from primegpt.planning.recipe import DEFAULT_MINUTES
from primegpt.training.objective import Objective
from primegpt.training.pace import intervals
from primegpt.training.state import INTERVALS, TrainState
from primegpt.training.step import Precision, compute_gradients

REREAD = 20_000  # targets of the text that the base has learnt, of which is told how much is forgotten
SMALL = 50e6  # bytes of weights, up to which those of log-spaced steps are kept


def planned(
    config: Config, model: GPT, batches: Batches, objective: Objective, val_prompts: int, elapsed: float
) -> tuple[Config, Batches]:
    """`config` with everything resolved; `elapsed` seconds of a time budget are already gone.

    What the first step writes for the measurement it does not write again.
    """
    started, train, reinforce = time.monotonic(), config.train, config.reinforce
    batches, step = first_step(config, model, batches, objective)
    minutes = train.minutes or (None if train.max_steps or train.epochs else DEFAULT_MINUTES)
    given: dict[str, int | None] = {name: getattr(train, name) for name in INTERVALS}
    evaluation = step * val_prompts / reinforce.rows_per_step
    costs = {"eval_interval": evaluation, "sample_interval": evaluation / max(1, val_prompts)}
    training = max(1.0, 60 * minutes - elapsed - (time.monotonic() - started) - CLOSING_SECONDS) if minutes else 0.0
    steps = steps_for_counted_budget(train, batches) or affordable_steps(training, step, given, costs)
    often = intervals(given, steps, training, costs)
    between = sum(cost * (steps / often[name] + 1) for name, cost in costs.items())
    values: dict[str, Any] = often | {
        "max_steps": steps,
        "minutes": None,
        "epochs": None,
        "warmup_steps": min(train.warmup_steps, steps // 2),
        "batch_size": batches.batch_size,
        "gradient_accumulation_steps": batches.gradient_accumulation_steps,
        "keep_checkpoints": train.keep_checkpoints
        or ("milestones" if 4 * parameter_count(config.model) < SMALL else 3),
    }
    record = {
        "device": train.device,
        "threads": train.threads,
        "step_seconds": step,
        "peak_flops": matmul_rate(train.device, Precision(train.precision, train.device).dtype),
        "training_seconds": training,
        "closing_seconds": CLOSING_SECONDS,
        "expected_seconds": (training or steps * step + between) + CLOSING_SECONDS,
        "reread_targets": REREAD,
        "expected_memory_mb": training_memory(config).total / 1e6,
        "chosen": [name for name, interval in given.items() if interval is None],
    }
    val_tokens = val_prompts * (reinforce.max_new_tokens or 1)
    return config.with_values(train=values, data={"val_tokens": val_tokens}, plan=record), batches


def first_step(config: Config, model: GPT, batches: Batches, objective: Objective) -> tuple[Batches, float]:
    """The largest micro-batch that memory suffices for, and the seconds of a step with it; no weight changes."""
    precision = Precision(config.train.precision, config.train.device)
    while True:
        started = time.monotonic()
        micro_batches = batches.micro_batches(0)
        model.train()
        found = compute_gradients(model, micro_batches, precision, config.train.seed, 0, objective=objective)
        if found:
            model.zero_grad()
            return batches, time.monotonic() - started
        if batches.batch_size == 1:
            raise OutOfMemory("out of memory: a step of single completions does not fit", FIT)
        batches = batches.with_batch_size(smaller_micro_batch(batches.batch_size))


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
        rows.append(("expected", human_seconds(config.plan.expected_seconds)))
    return rows
