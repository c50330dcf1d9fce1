"""What an optimizer step would take on this machine: measured on a few layers and a few rows of it.

    step = micro-batches * seconds of gradients + seconds of the update

All blocks cost the same, and so do all rows of a micro-batch. Two models of one and of three blocks, as wide as the
real one and with its vocabulary, therefore tell what each block adds, and what everything outside of blocks costs.

A model of which not even that fits into memory is nearly all matrix products, and is taken to reach half of their rate.
"""

import time
from collections.abc import Sequence

import torch

from primegpt.config import Config
from primegpt.data.batches import Batch
from primegpt.model.memory import training_memory
from primegpt.model.size import flops_per_token
from primegpt.training.assemble import assemble
from primegpt.training.optimizers import Optimizers
from primegpt.training.precision import Precision, matmul_rate
from primegpt.training.step import compute_gradients, update

LAYERS = 3  # of the deeper of the two models
TOKENS = 1024  # that are timed at most on a CPU; a GPU has too little to do with less than a whole micro-batch
MEMORY = 4e9  # bytes that the measurement may take on a CPU
SECONDS = 1.0  # after which nothing is timed again
SHORT = 256  # tokens up to which the explicit attention may be faster than the fused one, on a CPU


def step_seconds(config: Config) -> float:
    """Seconds of one optimizer step of `config`, not compiled. Expects device, precision and vocabulary to be resolved.

    Builds one and LAYERS layers and takes as long as some steps of these with TOKENS tokens do.
    """
    train, length = config.train, config.sequence_length
    if train.attention == "auto":
        kernels = ("sdpa", "explicit") if train.device == "cpu" and length <= SHORT else ("sdpa",)
        return min(step_seconds(config.with_values(train={"attention": kernel})) for kernel in kernels)
    depths = sorted({1, min(LAYERS, config.model.n_layer)})
    parts = [part_of(config, depth) for depth in depths]
    if training_memory(parts[-1]).total > (torch.cuda.mem_get_info()[0] if train.device == "cuda" else MEMORY):
        rate = matmul_rate(train.device, Precision(train.precision, train.device).dtype)
        return config.tokens_per_step * flops_per_token(config.model, length) / (0.5 * rate)
    probes = [Probe(part, config.tokens_per_step / part.tokens_per_step) for part in parts]
    started, turns = time.monotonic(), []
    while len(turns) < 2 or (len(turns) < 5 and time.monotonic() - started < SECONDS):
        turns.append([probe.step_seconds() for probe in probes])  # in turns, since the pace of a machine varies
    return extrapolated(depths, [min(times) for times in zip(*turns, strict=True)], config.model.n_layer)


def part_of(config: Config, layers: int) -> Config:
    """`config` with so many layers, and a step of few rows."""
    train, length = config.train, config.sequence_length
    rows = train.batch_size
    if train.device == "cpu":
        rows, length = max(1, min(rows, TOKENS // length)), min(length, TOKENS)
    step = {"batch_size": rows, "sequence_length": length, "gradient_accumulation_steps": 1, "compile": False}
    return config.with_values(model={"n_layer": layers}, train=step)


def extrapolated(depths: Sequence[int], seconds: Sequence[float], layers: int) -> float:
    """Seconds of `layers` layers, on the line through the shallowest and the deepest that were measured."""
    block = (seconds[-1] - seconds[0]) / max(1, depths[-1] - depths[0])
    return seconds[0] + (layers - depths[0]) * block


class Probe:
    """A throw-away model and a micro-batch of random ids, of which the real step has `times` as many."""

    def __init__(self, config: Config, times: float) -> None:
        self.config, self.times = config, times
        train = config.train
        ids = torch.randint(config.model.vocab_size or 1, (train.batch_size, train.sequence_length or 1))
        self.batch = Batch(ids, ids.roll(-1, 1), None, None, 0)
        self.model = assemble(config).train()
        self.precision = Precision(train.precision, train.device)
        self.optimizers = Optimizers(self.model, train, self.precision.dtype)

    def step_seconds(self) -> float:
        """Seconds of all the tokens of a step, at the pace of these few, and of one update."""
        start = self.now()
        compute_gradients(self.model, [self.batch], self.precision, 0, 0)
        middle = self.now()
        update(self.model, self.optimizers, self.precision, self.config.train.grad_clip)
        return self.times * (middle - start) + self.now() - middle

    def now(self) -> float:
        if self.precision.device != "cpu":
            getattr(torch, self.precision.device).synchronize()
        return time.perf_counter()
