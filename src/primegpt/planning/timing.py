"""How long an optimizer step takes on this machine, with each implementation that is in question; remembered.

$PRIMEGPT_CACHE/timings/HASH.json   what was measured for one machine, model and batch
"""

import hashlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from primegpt import __version__
from primegpt.config import PREFERENCES, Config
from primegpt.data.batching.batches import Batch, Batches
from primegpt.data.batching.examples import GROUP
from primegpt.data.batching.pairs import as_pairs, row_lengths
from primegpt.data.preparing.corpus import Corpus
from primegpt.device import matmul_rate
from primegpt.errors import OutOfMemory, PrimegptError, is_out_of_memory
from primegpt.evaluation.perplexity import evaluate_loss
from primegpt.model.kernels import Kernel
from primegpt.model.memory import training_memory
from primegpt.model.size import flops_per_token
from primegpt.parallel.world import ALONE, World
from primegpt.run.atomic import write_json_atomic
from primegpt.training.assemble import as_written, assemble
from primegpt.training.objective import objective_for
from primegpt.training.optimizers import Optimizers
from primegpt.training.preference import has_reference
from primegpt.training.step import Precision, compute_gradients, update

PROBE_SECONDS = 0.4  # of steps timed for each candidate ...
PROBE_SHARE = 0.01  # ... and at most so much of a time budget
PATIENCE = 10  # times as long may it take where single steps take longer

LAYERS = 3  # of the deeper of the two models that a forecast is made from
TOKENS = 1024  # that it times at most on a CPU; a GPU has too little to do with less than a whole micro-batch
MEMORY = 4e9  # bytes that it may take on a CPU
SECONDS = 1.0  # after which it times nothing again

SHORT = 256  # tokens up to which the explicit attention may be faster than the fused one, on a CPU


class StepTime(NamedTuple):
    """Seconds of what a run is made of."""

    step: float
    """An optimizer step, its micro-batches as long as they are on average."""
    position: float
    """A token of a fixed batch that is evaluated, padding included."""
    token: float
    """A token of each sample."""


def step_times(config: Config, batches: Batches, world: World = ALONE) -> tuple[dict[Kernel, StepTime], bool]:
    """What was measured, not compiled, with each attention in question that fits into memory; and whether that is from
    memory of an earlier time.

    A process by itself remembers what it measured; several ranks, of which some might and some might not, do not.
    """
    path = memory_path(config)
    if world.size == 1:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            return _checked(json.loads(path.read_text(encoding="utf-8")), config), True
    times = measure_steps(config, batches, world)
    if world.size == 1:
        with suppress(OSError, PrimegptError):  # no room, no right to write: it is measured again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(path, {"of": _what_counts(config), "times": times})
    return times, False


def correct(config: Config, step: float) -> None:
    """A run of `config` has made its steps in `step` seconds each: that is what a later plan goes by.

    What was measured before the first step may be of a moment in which other programs had the machine, and would be
    believed ever after. All that was measured then is as much off: which kernel is the faster one stays as it was.
    """
    kernel = config.train.attention
    if kernel == "auto" or config.train.compile:
        return
    with suppress(OSError, PrimegptError, ValueError, KeyError, TypeError, AttributeError):
        path = memory_path(config)
        saved = json.loads(path.read_text(encoding="utf-8"))
        ratio = step / _checked(saved, config)[kernel].step
        times = {name: [ratio * seconds for seconds in each] for name, each in saved["times"].items()}
        write_json_atomic(path, saved | {"times": times})


def forget(config: Config) -> bool:
    """Remember nothing of `config` any more; whether there was anything."""
    with suppress(OSError):
        memory_path(config).unlink()
        return True
    return False


def _checked(saved: dict[str, Any], config: Config) -> dict[Kernel, StepTime]:
    """The times in a file. Raises one of several errors if it does not hold what was measured for `config`."""
    times = {kernel: StepTime(*saved["times"][kernel]) for kernel in candidates(config)}
    if saved["of"] != _what_counts(config) or not all(0 < float(s) < math.inf for t in times.values() for s in t):
        raise ValueError("of something else")
    return times


def candidates(config: Config) -> tuple[Kernel, ...]:
    """The implementations of attention that are in question. On a CPU the fused one has no dropout."""
    train = config.train
    if train.attention != "auto":
        return (train.attention,)
    fused_wins = train.device == "cuda" or (config.sequence_length > SHORT and not config.model.dropout)
    return ("sdpa",) if fused_wins else ("sdpa", "explicit")


def measure_steps(config: Config, batches: Batches, world: World = ALONE) -> dict[Kernel, StepTime]:
    """The same, measured now."""
    budget = config.train.minutes
    seconds = min(PROBE_SECONDS, PROBE_SHARE * 60 * budget) if budget else PROBE_SECONDS
    times = {
        kernel: measure_step(config.with_values(train={"attention": kernel}), batches, world, seconds)
        for kernel in candidates(config)
    }
    return {kernel: time for kernel, time in times.items() if time}


def _what_counts(config: Config) -> dict[str, object]:
    """All that the time of a step depends on."""
    train, device = config.train, config.train.device
    chip = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    settings = train.model_dump(
        include={
            "batch_size", "gradient_accumulation_steps", "sequence_length", "objective", "optimizer", "precision",
            "device", "threads", "activation_checkpointing",
        }
    )  # fmt: skip
    return {
        "machine": [platform.node(), platform.machine(), chip, torch.__version__, __version__],
        "model": config.model.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json", include={"isolate_documents", "template", "pack"}),
        "lora": config.lora.model_dump(mode="json"),
        "train": settings,
        "objective": type(objective_for(config)).__name__,
    }


def memory_path(config: Config) -> Path:
    from platformdirs import user_cache_path

    folder = Path(os.environ.get("PRIMEGPT_CACHE") or user_cache_path("primegpt")) / "timings"
    named = json.dumps(_what_counts(config), sort_keys=True).encode()
    return folder / f"{hashlib.sha256(named).hexdigest()[:32]}.json"


def measure_step(
    config: Config, batches: Batches, world: World = ALONE, seconds: float = PROBE_SECONDS
) -> StepTime | None:
    """Times of a throw-away model, on the slowest rank; None if a smaller micro-batch might fit into memory.

    Of a step's micro-batches the first two are timed, which hold as much memory as any, and then its update. The
    median of some steps counts, two warm-ups aside unless single steps take long, and the step that compiles in any
    case. Raises OutOfMemory if not even the model fits.
    """
    compiling = int(config.train.compile)
    try:
        rehearsal = Rehearsal(config, world)
        steps: list[float] = []
        positions: list[int] = []
        while not _suffices(steps[compiling:], seconds):
            micro_batches = batches.micro_batches(len(steps))
            positions.append(sum(batch.ids.numel() for batch in micro_batches))
            taken = rehearsal.step(micro_batches[:2], len(steps))
            if taken is None:
                return None
            computing, updating = taken
            steps.append(world.max(len(micro_batches) / len(micro_batches[:2]) * computing + updating))
        fixed = batches.micro_batches(0)[0].to(config.train.device)
        with as_written(config.train):
            evaluating = min(rehearsal.evaluation(fixed) for _ in range(2)) / fixed.ids.numel()
            writing = min(rehearsal.token(fixed.ids[:2, :1]) for _ in range(3))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "out of memory: the model, its gradients and the optimizer's state do not fit", "train a smaller model"
        ) from None
    steps, positions = steps[compiling:], positions[compiling:]
    warm = min(2, len(steps) - 1) if sum(steps) < PATIENCE * seconds else min(1, len(steps) - 1)
    pace = statistics.median(taken / n for taken, n in zip(steps[warm:], positions[warm:], strict=True))
    step = pace * _mean_positions(batches, positions)
    return StepTime(step, world.max(evaluating), world.max(writing))


def reference_seconds(config: Config, corpus: Corpus, times: StepTime) -> float:
    """Seconds before the first step for what the base says of all pairs, if that is not known yet."""
    if not has_reference(config.train):
        return 0.0
    return times.position * float(sum(row_lengths(shards).sum() for shards in (corpus.train, corpus.val)))


def _suffices(steps: Sequence[float], seconds: float) -> bool:
    """Whether enough steps were timed: some, or for long enough."""
    if sum(steps) > PATIENCE * seconds:
        return len(steps) > 1 or sum(steps) > 2 * PATIENCE * seconds
    return len(steps) >= 3 and (sum(steps[1:]) >= seconds or len(steps) >= 100)


def _mean_positions(batches: Batches, seen: Sequence[int]) -> float:
    """Tokens of a rank's step, padding included; where they vary, the mean of as many steps as are sorted together."""
    if len(set(seen)) == 1:
        return seen[0]
    return statistics.mean(sum(part.ids.numel() for part in batches.micro_batches(step)) for step in range(GROUP))


class Rehearsal:
    """A throw-away model that makes real steps, to be timed."""

    def __init__(self, config: Config, world: World = ALONE) -> None:
        self.config, self.world, self.objective = config, world, objective_for(config)
        self.model = assemble(config, world=world).train()
        self.precision = Precision(config.train.precision, config.train.device)
        self.optimizers = Optimizers(self.model, config.train, self.precision.dtype)

    def step(self, micro_batches: Sequence[Batch], step: int = 0) -> tuple[float, float] | None:
        """Seconds of the gradients of `micro_batches`, and of the update; None if memory ran out."""
        train, start = self.config.train, self.now()
        done = compute_gradients(
            self.model, micro_batches, self.precision, train.seed, step, world=self.world, objective=self.objective
        )
        if not done:
            return None
        middle = self.now()
        update(self.model, self.optimizers, self.precision, train.grad_clip)
        return middle - start, self.now() - middle

    def evaluation(self, batch: Batch) -> float:
        """Seconds of evaluating `batch`."""
        start, precision = self.now(), self.precision
        evaluate_loss(
            self.model, [batch], objective=self.objective, device=precision.device, autocast=precision.autocast
        )
        return self.now() - start

    @torch.inference_mode()
    def token(self, ids: Tensor) -> float:
        """Seconds of the token after `ids` (B, T)."""
        start = self.now()
        self.model(ids, logits_for="last").max().item()
        return self.now() - start

    def now(self) -> float:
        if self.precision.device != "cpu":
            getattr(torch, self.precision.device).synchronize()
        return time.perf_counter()


# ---- What a step would take, without a corpus ------------------------------------------------------------------------


def forecast_step(config: Config) -> float:
    """Seconds of one optimizer step of `config`, not compiled, measured on a few layers and a few rows of it.

    All blocks cost the same, and so do all rows of a micro-batch. Two models, of one block and of three, as wide as the
    real one and with its vocabulary, therefore tell what each block adds, and what everything outside of blocks costs.
    A model of which not even that fits into memory is nearly all matrix products, and taken to reach half of their
    rate. Expects device, precision and vocabulary to be resolved.
    """
    if config.train.attention == "auto":
        return min(forecast_step(config.with_values(train={"attention": kernel})) for kernel in candidates(config))
    depths = sorted({1, min(LAYERS, config.model.n_layer)})
    parts = [part_of(config, depth) for depth in depths]
    have = torch.cuda.mem_get_info()[0] if config.train.device == "cuda" else MEMORY
    turns = _turns(parts) if training_memory(parts[-1]).total <= have else None
    if turns is None:
        rate = matmul_rate(config.train.device, Precision(config.train.precision, config.train.device).dtype)
        return config.tokens_per_step * flops_per_token(config.model, config.sequence_length) / (0.5 * rate)
    share = config.tokens_per_step / parts[0].tokens_per_step
    best = [min(share * computing + updating for computing, updating in part) for part in zip(*turns, strict=True)]
    return extrapolated(depths, best, config.model.n_layer)


def _turns(parts: Sequence[Config]) -> list[list[tuple[float, float]]] | None:
    """Seconds of a step of each of `parts`, several times in turns, since the pace of a machine varies."""
    rehearsals = [(Rehearsal(part), random_rows(part)) for part in parts]
    started, turns = time.monotonic(), []
    while len(turns) < 2 or (len(turns) < 5 and time.monotonic() - started < SECONDS):
        times = [taken for rehearsal, rows in rehearsals if (taken := rehearsal.step([rows]))]
        if len(times) < len(parts):
            return None
        turns.append(times)
    return turns


def part_of(config: Config, layers: int) -> Config:
    """`config` with so many layers, and a step of few rows."""
    train, length = config.train, config.sequence_length
    rows = train.batch_size
    if train.device == "cpu":
        rows, length = max(1, min(rows, TOKENS // length)), min(length, TOKENS)
    step = {"batch_size": rows, "sequence_length": length, "gradient_accumulation_steps": 1, "compile": False}
    return config.with_values(model={"n_layer": layers}, train=step)


def random_rows(config: Config) -> Batch:
    """A micro-batch of random ids, or of pairs of them."""
    ids = torch.randint(config.model.vocab_size or 1, (config.train.batch_size, config.sequence_length))
    batch = Batch(ids, ids.roll(-1, 1), None, None, 0)
    return as_pairs(batch, ids, batch.targets) if config.train.objective in PREFERENCES else batch


def extrapolated(depths: Sequence[int], seconds: Sequence[float], layers: int) -> float:
    """Seconds of `layers` layers, on the line through the shallowest and the deepest that were measured."""
    block = (seconds[-1] - seconds[0]) / max(1, depths[-1] - depths[0])
    return seconds[0] + (layers - depths[0]) * block
