"""What a run reports of itself: one flat object a line of metrics.jsonl, in the names that other tools expect."""

from dataclasses import dataclass
from typing import Any

from primegpt.evaluation.perplexity import LossResult


def train_line(
    *,
    step: int,
    tokens: int,
    seconds: float,
    loss: float,
    lr: float,
    grad_norm: float,
    speed: "Speed",
    memory_mb: float,
) -> dict[str, Any]:
    """The record of the steps since the last one. Loss in nats per token, rates in tokens per second."""
    return {
        "step": step,
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "train/loss": loss,
        "lr": lr,
        "grad_norm": grad_norm,
        "tokens_per_sec": round(speed.tokens_per_second, 1),
        "mfu": round(speed.mfu, 4),
        "memory_mb": round(memory_mb, 1),
    }


def evaluation_line(*, step: int, tokens: int, seconds: float, train: LossResult, val: LossResult) -> dict[str, Any]:
    """The record of one evaluation on the fixed sets."""
    return {
        "step": step,
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "train/eval_loss": train.loss,
        "val/loss": val.loss,
        "val/perplexity": val.perplexity,
        "val/bits_per_byte": val.bits_per_byte,
    }


# Values that depend on the clock or the machine, and may differ between a run and its exact resumption.
TIMING_KEYS = frozenset({"seconds", "tokens_per_sec", "mfu", "memory_mb"})


@dataclass
class Speed:
    """Throughput of the training steps alone (evaluation, samples and saving left out) since the last `reset`."""

    flops_per_token: float
    peak_flops: float
    tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds

    def reset(self) -> None:
        self.tokens, self.seconds = 0, 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def mfu(self) -> float:
        """Share of the machine's measured matrix-product rate that the model's own arithmetic reaches."""
        return self.tokens_per_second * self.flops_per_token / self.peak_flops if self.peak_flops else 0.0


def memory_mb(device: str) -> float:
    """Memory in use, in MB: allocated on the GPU, or the process's largest resident size so far on the CPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes on Linux, bytes on macOS
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
