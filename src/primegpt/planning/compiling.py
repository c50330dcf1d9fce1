"""Whether steps are compiled: where that was asked for, or the minutes repay it, and something can be compiled at all.

$PRIMEGPT_CACHE/timings/HASH-compiled-KERNEL.json   where the compiler's cache says that it holds a step's graph
"""

import json
import math
import os
from contextlib import suppress
from pathlib import Path

import torch

from primegpt.config import Config
from primegpt.data.batching.batches import Batches
from primegpt.errors import OutOfMemory, PrimegptError, is_out_of_memory
from primegpt.parallel.world import ALONE, World
from primegpt.planning import timing
from primegpt.run.atomic import write_json_atomic
from primegpt.terminal import Say

NOT_COMPILED = "not compiled: "
REPAID = {"cpu": 15.0, "cuda": 5.0}  # minutes that a first compilation is worth (docs/experiments.md; GPUs: assumed)
REPAID_AGAIN = 3.0  # where the compiler has it in its cache


def compiling_pays(config: Config, world: World = ALONE) -> bool:
    """Whether steps are to be compiled though nobody has asked for it, or said no: where the minutes repay it.

    Rows that differ in length would each be compiled anew, and what a run of counted steps learns should not depend on
    whether there is a compiler.
    """
    train, minutes = config.train, config.train.minutes or 0.0
    if "compile" in train.model_fields_set or world.size > 1 or config.own or config.lora.rank:
        return False
    if config.data.template != "text":
        return False
    return minutes >= (REPAID_AGAIN if _compiled_before(config) else REPAID.get(train.device, math.inf))


def compiled_step_time(config: Config, batches: Batches, world: World = ALONE) -> timing.StepTime | str | None:
    """What was measured of compiled steps; or, in one line, why there are none; None where memory does not suffice.

    Takes as long as compiling does.
    """
    try:
        return timing.measure_step(config, batches, world)
    except Exception as error:  # whatever a compiler, or the lack of one, may raise
        if isinstance(error, OutOfMemory) or is_out_of_memory(error):
            raise
        return _in_a_line(error)


def why_not_compiled(device: str) -> str | None:
    """Why nothing can be compiled here, in one line."""
    try:
        torch.compile(torch.sin)(torch.ones(2, requires_grad=True, device=device)).sum().backward()
    except Exception as error:  # whatever a compiler, or the lack of one, may raise
        return _in_a_line(error)
    return None


def compiled_if_possible(config: Config, world: World, say: Say) -> Config:
    """`config`, not compiled where some rank cannot: a run may have come from a machine with a compiler."""
    reason = why_not_compiled(config.train.device) if config.train.compile else None
    if world.max(reason is not None):
        say(f"{'warning':<10} {NOT_COMPILED}{reason or 'another rank cannot'}")
        return config.with_values(train={"compile": False})
    return config


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def remember_compiled(config: Config) -> None:
    """Steps of `config` were compiled, and are faster so: from now on the compiler finds them in its cache."""
    # A file in that cache goes when the cache does: systems empty /tmp at a start. Where it is torch says only now.
    with suppress(OSError, KeyError, PrimegptError):
        mark = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "primegpt" / _compiled(config).stem
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        _compiled(config).parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(_compiled(config), {"mark": str(mark)})


def _compiled_before(config: Config) -> bool:
    """Whether the compiler finds the graphs of `config` in its cache."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Path(json.loads(_compiled(config).read_text(encoding="utf-8"))["mark"]).exists()
    return False


def _compiled(config: Config) -> Path:
    path = timing.memory_path(config)
    return path.with_name(f"{path.stem}-compiled-{config.train.attention}.json")
