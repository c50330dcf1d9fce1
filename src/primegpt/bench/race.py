"""From a text to a model of some quality: the whole commands, ours and nanoGPT's, with the clock on from their start.

Both models are judged by the same evaluator: every character of the last tenth of the text once, in windows of
nanoGPT's context side by side. Its checkpoint is a pickle, which its own process turns into plain tensors.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from safetensors.torch import load_file

from primegpt.bench.compare import (
    PRIMEGPT,
    PYTHON,
    Comparison,
    Measure,
    Runs,
    asked_threads,
    compare_measures,
    output_of,
)
from primegpt.bench.train import SHAPES, text_and_checkout
from primegpt.config import resolve
from primegpt.data.batching.batches import Batch
from primegpt.errors import UsageError
from primegpt.evaluation.perplexity import evaluate_loss, sliding_windows
from primegpt.model.gpt import GPT
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say, silent

SHAPE = SHAPES["small"]  # nanoGPT's README, "I only have a macbook"
AS_TENSORS = """
import torch
from safetensors.torch import save_file
weights = torch.load("out-shakespeare-char/ckpt.pt", map_location="cpu", weights_only=True)["model"]
own = {name.removeprefix("transformer."): w.contiguous() for name, w in weights.items() if name != "lm_head.weight"}
save_file(own, "weights.safetensors")
"""


def bench_race(
    source: str | None = None,
    *,
    nanogpt: Path | None = None,
    minutes: float = 0.2,
    iterations: int = 2000,
    turns: int = 1,
    threads: int | None = None,
    say: Say = silent,
) -> list[Comparison]:
    """Seconds of `primegpt train --minutes` and of `iterations` of nanoGPT's train.py, and the loss that each bought.

    Ours starts with an empty cache, so that it prepares the text and measures its steps; nanoGPT's `prepare.py` has run
    before. Raises UsageError for what is not there.
    """
    if minutes <= 0 or iterations < 1:
        raise UsageError("--minutes and --iterations: more than nothing is needed")
    threads = asked_threads(threads)
    with text_and_checkout(source, nanogpt, say) as (text, checkout):
        contestants: dict[str, Runs | str] = {
            f"primegpt train --minutes {minutes:g}": our_command(text, text.parent, minutes, threads),
            f"nanoGPT, {iterations:,} iterations": checkout
            if isinstance(checkout, str)
            else nanogpt_command(text, checkout, iterations, threads),
        }
        measures = [
            Measure("The whole command", "s", less_is_better=True),
            Measure("Loss on the last tenth of the text", "nats per character", less_is_better=True),
        ]
        return compare_measures(measures, contestants, turns=turns, say=say)


def our_command(text: Path, folder: Path, minutes: float, threads: int) -> Runs:
    """Nothing said but the time and the context, which is nanoGPT's."""
    out = folder / "ours"
    flags = ["--minutes", str(minutes), "--model.block_size", str(SHAPE.block_size), "--tokenizer.kind", "char"]
    flags += ["--train.threads", str(threads)]  # as many as the other has, throughout
    command = [*PRIMEGPT, "train", str(text), *flags, "--out", str(out), "--overwrite"]

    def turn() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as empty:
            start = time.perf_counter()
            output_of(command, threads=threads, variables={"PRIMEGPT_CACHE": empty})
            seconds = time.perf_counter() - start
        losses = [row["final/val/loss"] for row in RunFolder.open(out).read_metrics() if "final/val/loss" in row]
        return seconds, losses[-1]

    return turn


def nanogpt_command(text: Path, checkout: Path, iterations: int, threads: int) -> Runs:
    """Its README's command for CPUs."""
    settings = {
        **asdict(SHAPE),
        "device": "cpu",
        "compile": False,
        "eval_iters": 20,
        "log_interval": 1,
        "max_iters": iterations,
        "lr_decay_iters": iterations,
        "dropout": 0.0,
        "eval_interval": min(250, iterations),
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    command = [PYTHON, "train.py", "config/train_shakespeare_char.py", *flags]

    def turn() -> tuple[float, float]:
        start = time.perf_counter()
        output_of(command, threads=threads, folder=checkout)
        seconds = time.perf_counter() - start
        output_of([PYTHON, "-c", AS_TENSORS], folder=checkout)
        return seconds, nanogpt_loss(text.read_text(encoding="utf-8"), checkout / "weights.safetensors")

    return turn


def nanogpt_loss(text: str, weights: Path) -> float:
    """Nats per character of nanoGPT's `weights` on the last tenth of `text`, in our model of the same function."""
    characters = sorted(set(text))  # its vocabulary
    sizes = {name: size for name, size in asdict(SHAPE).items() if name != "batch_size"}
    config = resolve({"model": {"preset": "gpt2", "bias": False, "vocab_size": len(characters), **sizes}})
    model, given = GPT(config.model), load_file(weights)
    padding = model.config.padded_vocab_size - len(characters)  # rows that are never seen outside
    given["wte.weight"] = F.pad(given["wte.weight"], (0, 0, 0, padding))
    return evaluate_loss(model.load_weights(given), last_tenth(text, characters)).loss


def last_tenth(text: str, characters: list[str]) -> Iterator[Batch]:
    """The text that nanoGPT holds out, as ids, in windows side by side."""
    ids = {character: i for i, character in enumerate(characters)}
    held_out = np.array([ids[character] for character in text[int(0.9 * len(text)) :]])
    return sliding_windows([held_out], length=SHAPE.block_size, batch_size=64)
