"""How fast this machine trains, by the measure of the law of plans: before there is a network, or a batch."""

from functools import lru_cache

import torch

from primegpt.config import resolve
from primegpt.data.batching.batches import Batch
from primegpt.device import SHARING, available_cores, product_rate
from primegpt.planning.law import Network, tokens_in
from primegpt.planning.timing import Rehearsal
from primegpt.training.step import DTYPES

STEP = Network(n_layer=2, n_embd=128, n_head=2, block_size=128, batch_size=16)
CHARACTERS = 64
REPEATS = 4  # half a second
TOGETHER = 0.8  # of what as many threads would do one by one: two are 1.6 times as fast as one
WORTH = 1.0  # minutes from which a plan is worth so long a look


def training_rate(device: str, precision: str, threads: int | None = None, minutes: float | None = None) -> float:
    """FLOP/s of matrix products of a machine that trains as fast as this one, by the law.

    What steps cost beside products is known of one machine. With AMX products are three to nine times as fast as in
    fp32, and nothing else is: there a real step shows a lower rate. Elsewhere products decide.
    """
    products = product_rate(device, DTYPES[precision], threads)
    if device != "cpu" or (minutes is not None and minutes < WORTH):
        return products
    cores = available_cores()
    return min(products, TOGETHER * rate_of_a_step(precision) * min(threads or cores, cores, SHARING))


@lru_cache  # a command plans twice, before its text was read and after
def rate_of_a_step(precision: str) -> float:
    """The same for one thread, which other programs slow down least; the fastest of some steps."""
    sizes = STEP._asdict()
    rows = sizes.pop("batch_size")
    kind = {"batch_size": rows, "device": "cpu", "precision": precision, "attention": "explicit", "threads": 1}
    config = resolve({"model": {"preset": "prime", "vocab_size": CHARACTERS, **sizes}, "train": kind})
    ids = torch.arange(rows * STEP.block_size).remainder(CHARACTERS).view(rows, STEP.block_size)
    batch, before = Batch(ids, ids, None, None, 0), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rehearsal = Rehearsal(config)
        taken = [rehearsal.step([batch], number) for number in range(REPEATS)]
    finally:
        torch.set_num_threads(before)
    seconds = min((computing for computing, _ in filter(None, taken)), default=1.0)  # none where memory is full
    return ids.numel() / seconds / tokens_in(STEP, 1.0, 1.0, "cpu", CHARACTERS)
