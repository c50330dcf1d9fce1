"""How fast this machine reads memory: what bounds the speed of writing, where every token reads every weight."""

import time


def read_bandwidth(megabytes: int = 512, repeats: int = 10) -> float:
    """Bytes per second at which torch reads a buffer that no cache holds, on the threads it is set to.

    The best of `repeats` by each of several reductions, since none is the fastest on every machine. Tighter code may
    read faster still, on a single core above all: a share of this may come out above 100%.
    """
    import torch

    from primegpt.model.pages import use_huge_pages

    held = torch.nn.Parameter(torch.ones(megabytes * 2**18), requires_grad=False)  # fp32; written, to be really there
    use_huge_pages([held])  # as weights are
    buffer = held.data
    left, right = buffer.chunk(2)
    best = float("inf")
    for _ in range(repeats):
        for read in (buffer.sum, buffer.amax, buffer.norm, lambda: torch.dot(left, right)):
            start = time.perf_counter()
            read()
            best = min(best, time.perf_counter() - start)
    return 4 * buffer.numel() / best
