"""Training steps of GPT-2's 124M on one GPU: tokens per second, and their share of what its matrix products allow."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from primegpt.bench.compare import PYTHON, Absent, Comparison, compare, output_of
from primegpt.bench.train import parse_iterations
from primegpt.config import resolve
from primegpt.device import matmul_rate
from primegpt.errors import UsageError
from primegpt.model.size import flops_per_token
from primegpt.terminal import Say, silent

GPT2 = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50_257}  # padded to 50,304
ITERATION = re.compile(r"time per iteration: ([\d.]+)ms")


def bench_gpu(
    *,
    nanogpt: Path | None = None,
    batch_size: int = 12,
    steps: int = 40,
    turns: int = 3,
    compile: bool = True,
    sizes: Mapping[str, int] = GPT2,
    device: str = "cuda",
    say: Say = silent,
) -> Comparison:
    """Tokens per second of one process on one GPU, in bf16, with random tokens.

    The limit is what all FLOPs of a step would take at the measured rate of large bf16 products, so the share of it is
    the model FLOPs utilisation.

    nanoGPT takes part by its own `bench.py`, with the same batch. Raises UsageError where there is no GPU.
    """
    if nanogpt and not (nanogpt / "bench.py").is_file():
        raise UsageError(f"--nanogpt {nanogpt}: no bench.py is there", "name a checkout of nanoGPT")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA GPU is here", "`primegpt bench train` measures on the CPU")
    if batch_size < 1 or steps < 8:
        raise UsageError("--batch-size: at least 1, --steps: at least 8")
    tokens = batch_size * sizes["block_size"]
    contestants: dict[str, Callable[[], float] | str] = {
        "primegpt": our_rate(sizes, batch_size, steps, compile, device, tokens),
        "nanoGPT": nanogpt_rate(nanogpt, sizes, batch_size, compile, device, tokens)
        if nanogpt
        else "no checkout given (--nanogpt)",
    }
    name = torch.cuda.get_device_name() if device == "cuda" else device
    title = f"Training GPT-2's shape on {name}, batch {batch_size} x {sizes['block_size']}, bf16"
    found = compare(f"{title}{', compiled' if compile else ''}", "tok/s", contestants, turns=turns, say=say)
    model = resolve({"model": {"preset": "gpt2", "bias": False, **sizes}}).model
    limit = matmul_rate(device, torch.bfloat16) / flops_per_token(model, sizes["block_size"])
    return found.with_limits(dict.fromkeys(contestants, limit))


def our_rate(
    sizes: Mapping[str, int], batch_size: int, steps: int, compile: bool, device: str, tokens: int
) -> Callable[[], float]:
    """The step of `primegpt train`: fused attention, fused AdamW, bf16."""
    train = {"batch_size": batch_size, "device": device, "precision": "bf16", "attention": "sdpa", "compile": compile}
    given = {"model": {"preset": "gpt2", "bias": False, **sizes}, "train": train}
    command = [PYTHON, "-m", "primegpt.bench.process", "steps", json.dumps(given), str(steps)]
    return lambda: 1000 * tokens / parse_iterations(output_of(command)).milliseconds


def nanogpt_rate(
    checkout: Path, sizes: Mapping[str, int], batch_size: int, compile: bool, device: str, tokens: int
) -> Callable[[], float]:
    """Its own benchmark, whose network is GPT-2's 124M."""
    flags = {
        "real_data": False,
        "batch_size": batch_size,
        "block_size": sizes["block_size"],
        "dtype": "bfloat16",
        "device": device,
        "compile": compile,
    }
    command = [PYTHON, "bench.py", *(f"--{name}={value}" for name, value in flags.items())]

    def run() -> float:
        if not (said := ITERATION.findall(output_of(command, folder=checkout))):
            raise Absent("its bench.py printed no time per iteration")
        return 1000 * tokens / float(said[-1])

    return run
