"""A contestant of `bench gpu`: our training steps on random tokens, as a program.

    python -m primegpt.bench.gpu_steps '{"model": {...}, "train": {...}, "steps": 40}'

It prints the same lines as nanoGPT's train.py.
"""

import json
import sys
import time
from typing import Any

import torch

from primegpt.config import resolve
from primegpt.data.batches import Batch
from primegpt.training.assemble import assemble
from primegpt.training.optimizers import Optimizers
from primegpt.training.plan import prepare_device
from primegpt.training.precision import Precision
from primegpt.training.step import compute_gradients, update


def main(given: dict[str, Any]) -> None:
    """Train for `given["steps"]` steps; each ends when its loss is known."""
    config = prepare_device(resolve({"model": given["model"], "train": given["train"]}))
    model = assemble(config).train()
    precision = Precision(config.train.precision, config.train.device)
    optimizers = Optimizers(model, config.train, precision.dtype)
    shape = config.train.batch_size, config.sequence_length + 1
    windows = torch.randint(config.model.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), None, None, 0)
    for step in range(given["steps"]):
        started = time.perf_counter()
        loss, targets = compute_gradients(model, [batch], precision, 0, step)
        reached = loss.item() / targets
        update(model, optimizers, precision, config.train.grad_clip)
        print(f"iter {step}: loss {reached:.4f}, time {1000 * (time.perf_counter() - started):.2f}ms", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
