"""What benchmarks run in processes of their own, so that memory and time are those of one thing.

python -m primegpt.bench.process step '{"model": {...}, "train": {...}}'     seconds and bytes, as JSON
python -m primegpt.bench.process data SOURCE CACHE                           the same
python -m primegpt.bench.process steps '{"model": {...}, "train": {...}}' N  a line a step, as nanoGPT's train.py has it
python -m primegpt.bench.process transformers '{"n_layer": 4, ...}'           likewise, Transformers' model
"""

import json
import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from primegpt.config import Config, DataConfig, TokenizerConfig, resolve
from primegpt.device import resident_memory
from primegpt.errors import OutOfMemory

if TYPE_CHECKING:  # where text is prepared there is no torch, whose memory would be measured too
    from primegpt.data.batching.batches import Batch

MEASURED = 0.5  # seconds of steps, at least two


def random_batch(config: Config) -> "Batch":
    """A micro-batch for every step: what is in it does not matter."""
    import torch

    from primegpt.data.batching.batches import Batch

    shape = config.train.batch_size, config.sequence_length + 1
    windows = torch.randint(config.model.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    return Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), None, None, 0)


def measure_training(config: Config) -> tuple[float, int | None]:
    """Seconds of an optimizer step of `config`, and how far resident memory grows from before there was a model."""

    from primegpt.data.batching.batches import Batch, Batches, Integers
    from primegpt.planning.plan import prepare_device
    from primegpt.planning.timing import measure_step

    class Same:
        """The rows of one micro-batch, for every step."""

        examples_per_epoch = 1

        def __init__(self, config: Config) -> None:
            self.targets_per_example, self.batch = float(config.sequence_length), random_batch(config)

        def assemble(self, examples: Integers) -> Batch:
            return self.batch

    def step_of(config: Config, seconds: float) -> float:
        rows = config.train.batch_size
        taken = measure_step(config, Batches(Same(config), rows, rows), seconds=seconds)
        if taken is None:
            raise OutOfMemory("out of memory", "measure smaller steps")
        return taken.step

    config = prepare_device(config)
    smallest = {"n_layer": 1, "n_head": 1, "n_embd": 32, "block_size": 16}
    step_of(config.with_values(model=smallest, train={"batch_size": 1}), 0.0)  # loads what is loaded at first use
    before = resident_memory("VmRSS")
    seconds = step_of(config, MEASURED)
    peak = resident_memory("VmHWM")
    return seconds, peak - before if peak and before else None


def measure_preparing(source: str, cache: Path) -> tuple[float, int | None]:
    """Seconds of `primegpt data prepare SOURCE --tokenizer.kind char`, and the peak memory of the whole process."""
    from primegpt.data.preparing.prepare import prepare

    start = time.perf_counter()
    prepare(DataConfig(sources=(source,)), TokenizerConfig(kind="char"), cache=cache).close()
    return time.perf_counter() - start, resident_memory("VmHWM")


def train_aloud(config: Config, steps: int) -> None:
    """Train for so many steps; each ends when its loss is known, and says so."""
    from primegpt.planning.plan import prepare_device
    from primegpt.training.assemble import assemble
    from primegpt.training.optimizers import Optimizers
    from primegpt.training.step import Precision, compute_gradients, update

    config = prepare_device(config)
    model = assemble(config).train()
    precision = Precision(config.train.precision, config.train.device)
    optimizers = Optimizers(model, config.train, precision.dtype)
    batch = random_batch(config)
    for step in range(steps):
        started = time.perf_counter()
        done = compute_gradients(model, [batch], precision, 0, step)
        assert done, "out of memory"
        reached = done[0] / done[1]
        update(model, optimizers, precision, config.train.grad_clip)
        print(f"iter {step}: loss {reached:.4f}, time {1000 * (time.perf_counter() - started):.2f}ms", flush=True)


def train_transformers(given: SimpleNamespace) -> None:
    """Transformers' GPT-2 in the loop that one writes by hand: `given.steps` steps on the characters of `given.text`.

    It prints the same lines as nanoGPT's train.py.
    """
    import torch
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1337)
    text = Path(given.text).read_text(encoding="utf-8")
    ids = {character: id for id, character in enumerate(sorted(set(text)))}
    data = torch.tensor([ids[character] for character in text[: int(0.9 * len(text))]])
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), given.dropout)
    sizes = {name: getattr(given, name) for name in ("n_layer", "n_head", "n_embd")}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(ids), n_positions=given.block_size, **sizes, **dropout)).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), given.learning_rate, (0.9, given.beta2), weight_decay=given.weight_decay
    )

    def factor(step: int) -> float:
        floor = given.min_lr / given.learning_rate
        return floor + 0.5 * (1 + math.cos(math.pi * step / given.lr_decay_iters)) * (1 - floor)

    schedule = LambdaLR(optimizer, factor)
    positions = torch.arange(given.block_size + 1)
    autocast = torch.autocast("cpu", torch.bfloat16) if given.precision == "bf16" else nullcontext()
    started = time.perf_counter()
    for step in range(given.steps):
        starts = torch.randint(len(data) - given.block_size, (given.batch_size, 1))
        windows = data[starts + positions]  # (B, T + 1)
        with autocast:
            logits = model(windows[:, :-1]).logits  # (B, T, V)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), given.grad_clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        reached, ended = loss.item(), time.perf_counter()
        print(f"iter {step}: loss {reached:.4f}, time {1000 * (ended - started):.2f}ms", flush=True)
        started = ended


def main(what: str, given: str, more: str = "") -> None:
    if what == "transformers":
        train_transformers(SimpleNamespace(**json.loads(given)))
    elif what == "steps":
        train_aloud(resolve(json.loads(given)), int(more))
    else:
        found = measure_preparing(given, Path(more)) if what == "data" else measure_training(resolve(json.loads(given)))
        print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
