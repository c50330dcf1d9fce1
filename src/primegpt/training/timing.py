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
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from primegpt.config import Config
from primegpt.data.feed import Batches
from primegpt.errors import PrimegptError
from primegpt.run.atomic import write_json_atomic
from primegpt.training.assemble import assemble
from primegpt.training.optimizers import Optimizers
from primegpt.training.precision import Precision
from primegpt.training.step import compute_gradients, is_out_of_memory, update
from primegpt.training.world import ALONE, World

PROBE_SECONDS = 0.4  # of steps timed for each candidate ...
PROBE_SHARE = 0.01  # ... and at most so much of a time budget

Kernel = Literal["sdpa", "explicit"]


def step_times(config: Config, batches: Batches, world: World = ALONE) -> tuple[dict[Kernel, float], bool]:
    """Seconds of one optimizer step, not compiled, for each attention in question; and whether that is from memory.

    A process by itself remembers what it measured; several ranks, of which some might and some might not, do not.
    """
    path = _memory(config)
    if world.size == 1:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            return _checked(json.loads(path.read_text(encoding="utf-8")), config), True
    times = measure_steps(config, batches, world)
    if world.size == 1:
        with suppress(OSError, PrimegptError):  # no room, no right to write: it is measured again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(path, {"of": _what_counts(config), "seconds": times})
    return times, False


def _checked(saved: dict[str, Any], config: Config) -> dict[Kernel, float]:
    """The seconds in a file. Raises one of several errors if it does not hold what was measured for `config`."""
    seconds = {kernel: saved["seconds"][kernel] for kernel in candidates(config)}
    if saved["of"] != _what_counts(config) or not all(0 < float(s) < math.inf for s in seconds.values()):
        raise ValueError("of something else")
    return seconds


def candidates(config: Config) -> tuple[Kernel, ...]:
    """The implementations of attention that are in question."""
    wanted = config.train.attention
    if wanted != "auto":
        return (wanted,)
    return ("sdpa",) if config.train.device == "cuda" else ("sdpa", "explicit")


def measure_steps(config: Config, batches: Batches, world: World = ALONE) -> dict[Kernel, float]:
    """The same, measured now."""
    budget = config.train.minutes
    seconds = min(PROBE_SECONDS, PROBE_SHARE * 60 * budget) if budget else PROBE_SECONDS
    return {
        kernel: measure_step(config.with_values(train={"attention": kernel}), batches, world, seconds)
        for kernel in candidates(config)
    }


def _what_counts(config: Config) -> dict[str, Any]:
    """All that the time of a step depends on."""
    train, device = config.train, config.train.device
    chip = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    settings = train.model_dump(
        include={
            "batch_size", "gradient_accumulation_steps", "sequence_length", "optimizer", "precision", "device",
            "threads", "activation_checkpointing", "attention",
        }
    )  # fmt: skip
    return {
        "machine": [platform.node(), platform.machine(), chip, torch.__version__, version("primegpt")],
        "model": config.model.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json", include={"isolate_documents", "template"}),
        "lora": config.lora.model_dump(mode="json"),
        "train": settings,
    }


def _memory(config: Config) -> Path:
    from platformdirs import user_cache_path

    folder = Path(os.environ.get("PRIMEGPT_CACHE") or user_cache_path("primegpt")) / "timings"
    named = json.dumps(_what_counts(config), sort_keys=True).encode()
    return folder / f"{hashlib.sha256(named).hexdigest()[:32]}.json"


def compiled_step_seconds(config: Config, batches: Batches, world: World = ALONE) -> float | str:
    """Seconds of one compiled step; or, in one line, why there is none. Takes as long as compiling does."""
    try:
        return measure_step(config, batches, world)
    except Exception as error:  # whatever a compiler, or the lack of one, may raise
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def measure_step(config: Config, batches: Batches, world: World = ALONE, seconds: float = PROBE_SECONDS) -> float:
    """Median seconds of one optimizer step of a throw-away model, two warm-ups aside; of the slowest rank."""
    model = assemble(config, world=world).train()
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
