"""What a run would need on GPUs that are not here: memory of each, and time, from stated rates. Nothing is measured.

    step = rows of one GPU * FLOPs / (UTILISATION * rate) + the update, at the memory's bandwidth
           and what is sent between GPUs, at their bandwidth

With ddp the gradient (fp32) is summed after the last backward pass: 2 (N - 1) / N of it passes each GPU. With fsdp the
weights are collected for each forward and each backward pass of a micro-batch, and the gradient is dealt out once, all
beside the arithmetic, so that the longer of the two counts.
"""

from dataclasses import dataclass
from typing import Literal

from primegpt.config import Config
from primegpt.data.batching.feed import for_ranks
from primegpt.errors import ConfigError, nearest
from primegpt.model.memory import ALLOCATOR_OVERHEAD, training_memory
from primegpt.model.size import block_matrix_parameters, flops_per_token, parameter_count

UTILISATION = 0.4  # of a GPU's stated rate: what well-tuned training of this kind reaches
PER_MACHINE = 8  # GPUs
BETWEEN_MACHINES = 50e9  # bytes/s a GPU: a network card of 400 Gbit/s for each
USABLE = 0.95  # of a GPU's memory; the rest is the driver's
RECOMPUTING = 4 / 3  # of the arithmetic, with activation checkpointing
UPDATE_BYTES = 28  # a parameter: AdamW reads weight, gradient and two moments, and writes all but the gradient


@dataclass(frozen=True)
class GPU:
    """What a maker states. FLOP/s are dense bf16 ones; `link` is to the others of its machine, one way."""

    memory: float  # bytes
    flops: float  # a second
    memory_bandwidth: float  # bytes/s
    link: float  # bytes/s


GPUS = {
    "a100": GPU(80e9, 312e12, 2.04e12, 300e9),
    "h100": GPU(80e9, 989e12, 3.35e12, 450e9),
    "h200": GPU(141e9, 989e12, 4.8e12, 450e9),
    "b200": GPU(180e9, 2250e12, 8e12, 900e9),
    "l40s": GPU(48e9, 362e12, 0.864e12, 32e9),
    "4090": GPU(24e9, 165e12, 1.01e12, 32e9),
}


@dataclass(frozen=True)
class Forecast:
    """One way to run a configuration on N GPUs. Bytes are of one GPU, at the peak."""

    parallel: Literal["ddp", "fsdp"]
    activation_checkpointing: bool
    memory: float
    fits: bool
    step_seconds: float
    total_seconds: float | None
    """None where the configuration has no budget in steps or tokens."""


def forecasts(config: Config, gpus: int, kind: str) -> list[Forecast]:
    """ddp and fsdp, with and without activation checkpointing. Raises ConfigError for a kind that is not known.

    `model.vocab_size` has to be known.
    """
    if kind not in GPUS:
        raise ConfigError(f"--gpu {kind!r} is not known", nearest(kind, GPUS))
    config = for_ranks(config, gpus).with_values(train={"device": "cuda", "precision": "bf16", "attention": "sdpa"})
    ways: list[tuple[Literal["ddp", "fsdp"], bool]] = [("ddp", False), ("ddp", True), ("fsdp", False), ("fsdp", True)]
    return [_forecast(config, gpus, GPUS[kind], *way) for way in ways]


def _forecast(config: Config, gpus: int, gpu: GPU, parallel: Literal["ddp", "fsdp"], recompute: bool) -> Forecast:
    train = config.train
    config = config.with_values(train={"activation_checkpointing": recompute})
    tokens, passes = config.tokens_per_step, RECOMPUTING if recompute else 1.0
    arithmetic = passes * tokens / gpus * flops_per_token(config.model, config.sequence_length)
    computing = arithmetic / (UTILISATION * gpu.flops)
    sending = _bytes_sent(config, gpus, parallel) / (gpu.link if gpus <= PER_MACHINE else BETWEEN_MACHINES)
    updated = parameter_count(config.model) / (gpus if parallel == "fsdp" else 1)
    updating = UPDATE_BYTES * updated / gpu.memory_bandwidth
    seconds = (computing + sending if parallel == "ddp" else max(computing, sending)) + updating
    steps = train.max_steps or (train.tokens and -(-train.tokens // tokens))
    memory = _memory(config, gpus, parallel)
    fits = memory <= USABLE * gpu.memory
    return Forecast(parallel, recompute, memory, fits, seconds, steps * seconds if steps else None)


def _bytes_sent(config: Config, gpus: int, parallel: str) -> float:
    """What each GPU sends, and receives, in a step."""
    share = (gpus - 1) / gpus * 4 * parameter_count(config.model)
    passes = config.train.gradient_accumulation_steps / gpus  # micro-batches of one GPU
    return 2 * share if parallel == "ddp" else (2 * passes + 1) * share


def _memory(config: Config, gpus: int, parallel: str) -> float:
    """Peak bytes of one GPU. With fsdp, beside its part: two blocks and what is outside of blocks, with gradients."""
    need = training_memory(config)
    if parallel == "ddp" or gpus == 1:
        return need.total
    in_blocks = block_matrix_parameters(config.model)
    collected = 2 * in_blocks / config.model.n_layer + parameter_count(config.model) - in_blocks
    parts = (need.weights + need.gradients + need.optimizer) / gpus
    # The 16-bit copies are of all weights: autocast and the backward pass keep them, collected or not.
    kept = parts + 8 * collected + need.weight_copies + need.activations
    return kept * (1 + ALLOCATOR_OVERHEAD) + need.logits
