"""How fast this machine reads memory: what bounds the speed of writing, where every token reads every weight."""

import time


def read_bandwidth(megabytes: int = 512, repeats: int = 5) -> float:
    """Bytes per second at which torch reads a buffer that no cache holds, on the threads it is set to; the best."""
    import torch

    buffer = torch.ones(megabytes * 2**18)  # fp32; written, so that it is really there
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - start)
    return 4 * buffer.numel() / best
