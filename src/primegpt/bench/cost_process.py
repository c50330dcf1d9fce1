"""What `bench cost` runs in a process of its own: one measurement, as seconds and bytes on standard output.

python -m primegpt.bench.cost_process step '{"model": {...}, "train": {...}}'
python -m primegpt.bench.cost_process data SOURCE CACHE
"""

import json
import sys
import time
from pathlib import Path
from typing import cast

from primegpt.config import Config, DataConfig, TokenizerConfig, resolve


def resident_memory(key: str) -> int | None:
    """Bytes of this process by a line of /proc/self/status, VmRSS or (at its peak) VmHWM; None where there is none.

    The peak that getrusage tells may be that of the process which started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
    except (OSError, StopIteration):
        return None


def measure_training(config: Config) -> tuple[float, int | None]:
    """Seconds of an optimizer step of `config`, and how far resident memory grows from before there was a model."""
    import torch

    from primegpt.data.batches import Batch
    from primegpt.data.feed import Batches
    from primegpt.training.plan import prepare_device
    from primegpt.training.timing import measure_step

    class RandomIds:
        """The same micro-batch for every step: what is in it does not matter."""

        def __init__(self, config: Config) -> None:
            shape = (config.train.batch_size, config.sequence_length)
            ids = torch.randint(config.model.vocab_size or 1, shape)  # (B, T)
            self.batch = Batch(ids, ids.roll(-1, 1), None, None, 0)

        def micro_batches(self, step: int) -> list[Batch]:
            return [self.batch]

    def steps(config: Config, seconds: float) -> float:
        return measure_step(config, cast(Batches, RandomIds(config)), seconds=seconds)

    config = prepare_device(config)
    smallest = {"n_layer": 1, "n_head": 1, "n_embd": 32, "block_size": 16}
    steps(config.with_values(model=smallest, train={"batch_size": 1}), 0.0)  # loads what is loaded at first use
    before = resident_memory("VmRSS")
    seconds = steps(config, MEASURED)
    peak = resident_memory("VmHWM")
    return seconds, peak - before if peak and before else None


MEASURED = 0.5  # seconds of steps, at least two


def measure_preparing(source: str, cache: Path) -> tuple[float, int | None]:
    """Seconds of `primegpt data prepare SOURCE --tokenizer.kind char`, and the peak memory of the whole process."""
    from primegpt.data.prepare import prepare

    start = time.perf_counter()
    prepare(DataConfig(sources=(source,)), TokenizerConfig(kind="char"), cache=cache).close()
    return time.perf_counter() - start, resident_memory("VmHWM")


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "step":
        found = measure_training(resolve(json.loads(arguments[0])))
    else:
        found = measure_preparing(arguments[0], Path(arguments[1]))
    print(json.dumps(found))
