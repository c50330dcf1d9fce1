"""Attention and the loss by themselves, forward and backward: each way that there is to compute them, on one device.

Both are a large part of a step on a GPU, and which way is the fastest depends on the GPU. The first contestant is what
a training takes; a way that this device or this torch does not have is absent.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from primegpt.bench.compare import Absent, Comparison, Measure, Runs, compare_measures
from primegpt.model.apart import apart
from primegpt.model.kernels import Kernel, View, attention, triangle
from primegpt.model.loss import summed_cross_entropy
from primegpt.terminal import Say, silent

REPEATS = 10  # of which a turn is the median
BACKENDS = {
    "torch's flash attention": SDPBackend.FLASH_ATTENTION,
    "torch's memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN's": SDPBackend.CUDNN_ATTENTION,
}

Work = Callable[[], Tensor]  # the forward pass


def bench_attention(
    sizes: Mapping[str, int],
    batch_size: int,
    device: str,
    *,
    turns: int,
    repeats: int = REPEATS,
    say: Say = silent,
    **on: Any,
) -> list[Comparison]:
    """Milliseconds, and on a GPU megabytes, of causal attention in bf16 over `batch_size` rows of the context.

    Beside whole rows: rows of four documents each, by a mask and taken apart.
    """
    B, H, T = batch_size, sizes["n_head"], sizes["block_size"]
    q, k, v = (drawn(B, H, T, sizes["n_embd"] // H, device=device) for _ in range(3))
    segments = (torch.arange(T, device=device) * 4 // T).expand(B, T)
    masked = (triangle(T, q.device) & (segments.unsqueeze(-1) == segments.unsqueeze(-2))).unsqueeze(1)
    whole, in_mask = View(None, None, causal=True), View(None, masked, causal=False)
    in_parts = View(None, None, causal=True, apart=apart(segments))

    def attend(view: View, kernel: Kernel = "sdpa", backend: SDPBackend | None = None) -> Work:
        def work() -> Tensor:
            with sdpa_kernel(backend) if backend else nullcontext():
                return attention(q, k, v, view, kernel)

        return work

    works = {"torch's choice": attend(whole)}
    works |= {name: attend(whole, backend=backend) for name, backend in BACKENDS.items()}
    works |= {"as the formula reads": attend(whole, "explicit")}
    works |= {"4 documents a row, a mask": attend(in_mask), "4 documents a row, taken apart": attend(in_parts)}
    return in_turns(f"Attention, {B} × {H} heads × {T} tokens", works, [q, k, v], turns, repeats, say, on)


def bench_loss(
    sizes: Mapping[str, int],
    batch_size: int,
    device: str,
    *,
    turns: int,
    compile: bool = True,
    repeats: int = REPEATS,
    say: Say = silent,
    **on: Any,
) -> list[Comparison]:
    """The same of the cross-entropy of hidden states in bf16, products with the head included."""
    B, T, V = batch_size, sizes["block_size"], 64 * -(-sizes["vocab_size"] // 64)
    hidden, head = drawn(B, T, sizes["n_embd"], device=device), drawn(V, sizes["n_embd"], device=device)
    targets = torch.randint(sizes["vocab_size"], (B, T), device=device)

    def sliced() -> Tensor:
        return summed_cross_entropy(hidden, targets, lambda rows: F.linear(rows, head), V)[0]

    def at_once() -> Tensor:
        logits = F.linear(hidden, head).flatten(0, 1).float()
        return F.cross_entropy(logits, targets.flatten(), reduction="sum")

    def fused() -> Tensor:
        return F.linear_cross_entropy(hidden.flatten(0, 1), head, targets.flatten(), reduction="sum")

    works: dict[str, Work | str] = {"as trained: in slices where there are many": sliced, "all logits at once": at_once}
    works["torch's linear_cross_entropy"] = fused if hasattr(F, "linear_cross_entropy") else "this torch has none"
    if compile:
        works |= {"as trained, compiled": torch.compile(sliced), "all at once, compiled": torch.compile(at_once)}
    return in_turns(f"The loss, {B} × {T} tokens, {V:,} logits each", works, [hidden, head], turns, repeats, say, on)


def drawn(*shape: int, device: str) -> Tensor:
    return torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_()


def in_turns(
    task: str,
    works: Mapping[str, Work | str],
    inputs: list[Tensor],
    turns: int,
    repeats: int,
    say: Say,
    on: Mapping[str, Any],
) -> list[Comparison]:
    """Let each take turns; a backward pass to `inputs` counts too."""
    on_gpu = inputs[0].is_cuda
    measures = [Measure(f"{task}, forward and backward, bf16", "ms", less_is_better=True)]
    if on_gpu:
        measures.append(Measure(f"{task}: memory beyond the inputs", "MB", less_is_better=True))

    def runs(work: Work) -> Runs:
        def turn() -> tuple[float, ...]:
            try:
                return timed(work, inputs, repeats) if on_gpu else timed(work, inputs, repeats)[:1]
            except Exception as error:  # whatever a kernel, a compiler, or a lack of memory may raise
                raise Absent(f"{type(error).__name__}: {error}".splitlines()[0][:200]) from None

        return turn

    contestants = {name: work if isinstance(work, str) else runs(work) for name, work in works.items()}
    return compare_measures(measures, contestants, turns=turns, say=say, **on)


def timed(work: Work, inputs: list[Tensor], repeats: int) -> tuple[float, float]:
    """Milliseconds of a forward and backward pass, the median; and megabytes at the peak, where a GPU tells."""
    on_gpu = inputs[0].is_cuda

    def once() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = work()
        torch.autograd.backward(result, torch.ones_like(result))
        if on_gpu:
            torch.cuda.synchronize()
        for tensor in inputs:
            tensor.grad = None
        return 1000 * (time.perf_counter() - start)

    once()  # what is compiled, chosen or allocated at first use
    held = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    milliseconds = statistics.median(once() for _ in range(repeats))
    return milliseconds, (torch.cuda.max_memory_allocated() - held) / 1e6 if on_gpu else 0.0
