"""The zero-config layer: what to train on a text of some size, in some time, on some machine.

Fitted to measured runs: docs/experiments.md, "From the budget to the network".
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from primegpt.config import Config
from primegpt.data.layout import fitting_context

DEFAULT_MINUTES = 3.0
RECORD = 256  # the context of records with an answer, at least
LONGEST = {"cpu": 2048, "cuda": 4096}  # that a context of records becomes by itself


class Network(NamedTuple):
    """Width, depth, context and batch."""

    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    batch_size: int

    def parameters(self, vocab_size: int) -> int:
        """About as many as `prime` has, whose head is not tied; there are hardly any outside of matrices."""
        return 12 * self.n_layer * self.n_embd**2 + 2 * vocab_size * self.n_embd


NETWORKS = {  # by the minutes up to which each is the best on two cores: up to 5 as measured, then as compute ** 0.5
    0.5: Network(n_layer=2, n_embd=64, n_head=1, block_size=64, batch_size=32),
    1.0: Network(n_layer=3, n_embd=96, n_head=2, block_size=64, batch_size=32),
    5.0: Network(n_layer=3, n_embd=128, n_head=2, block_size=128, batch_size=16),
    30.0: Network(n_layer=4, n_embd=192, n_head=3, block_size=256, batch_size=16),
    120.0: Network(n_layer=5, n_embd=256, n_head=4, block_size=256, batch_size=16),
    math.inf: Network(n_layer=6, n_embd=384, n_head=6, block_size=256, batch_size=16),
}
ON_CUDA = Network(n_layer=12, n_embd=768, n_head=6, block_size=512, batch_size=64)


def zero_config(
    text_bytes: int | None,
    device: str,
    minutes: float | None,
    preset: str = "prime",
    *,
    records: Sequence[int] | None = None,
    width: int | None = None,
    fits: Callable[[Network], bool] = lambda network: True,
) -> dict[str, Any]:
    """What to train on `text_bytes` of text in `minutes` on `device`; with a network of `width` if that was asked for.

    `fits` says whether a network is small enough for the text: none is larger, unless all are. `records` are the
    lengths in tokens of some records with an answer, as far as they are known; None for plain text.
    They have to fit into a context, so they get one that is long enough, and longer pieces of text.

    Small text: characters, since a few MB hold too few examples of each longer piece. The network grows with the
    time there is, which on a CPU is what is scarce, as far as the text suffices for it.
    """
    network = network_for(minutes or DEFAULT_MINUTES, device, fits)
    if width:
        network = network._replace(n_embd=width, n_head=heads(width))
    if records is not None:
        tokens, least = network.block_size * network.batch_size, max(RECORD, network.block_size)
        context, rows = context_and_rows(records, tokens, least, device)
        network = network._replace(block_size=context, batch_size=rows)
    model = network._asdict()
    train = {"batch_size": model.pop("batch_size")}
    return {
        "model": {"preset": preset, **model},
        "tokenizer": {"kind": "bpe", "vocab_size": 2048} if records is not None else tokenizer_for(text_bytes),
        "train": train,
    }


def network_for(minutes: float, device: str, fits: Callable[[Network], bool]) -> Network:
    """The network for the time there is, or the largest smaller one that `fits`; the smallest, where none does."""
    smaller = [network for limit, network in NETWORKS.items() if device == "cuda" or limit <= minutes]
    best = ON_CUDA if device == "cuda" else list(NETWORKS.values())[len(smaller)]
    return next((each for each in (best, *reversed(smaller)) if fits(each)), next(iter(NETWORKS.values())))


def context_and_rows(lengths: Sequence[int], tokens: int, least: int, device: str) -> tuple[int, int]:
    """The context that records of such `lengths` need (`fitting_context`), no shorter than `least`, and the rows of a
    batch.

    Rows are as long as their records, and there are so many that the batch holds about `tokens`.
    """
    if not lengths:
        return least, max(1, tokens // least)
    context = max(least, min(fitting_context(lengths), LONGEST.get(device, LONGEST["cpu"])))
    typical = sum(min(length, context) for length in lengths) // len(lengths)
    return context, max(1, tokens // max(least, typical))


def heads(width: int) -> int:
    """The number of heads of 64 or more, and of an even width, that a width can be divided into."""
    return next((n for n in range(width // 64, 1, -1) if width % (2 * n) == 0), 1)


def tokenizer_for(text_bytes: int | None) -> dict[str, Any]:
    """The tokenizer of the zero-config layer. The size of a stream is not known; it is taken to be small."""
    text_bytes = text_bytes or 1_000_000
    if text_bytes < 3_000_000:
        return {"kind": "char"}
    vocab_size = 2048 if text_bytes < 20_000_000 else 8192 if text_bytes < 500_000_000 else 16384
    return {"kind": "bpe", "vocab_size": vocab_size}


def tuned(config: Config) -> dict[str, Any]:
    """What `prime` learns best with on a CPU.

    Narrow networks bear a higher rate beside Muon. In runs of a thousand steps, which wider ones get, a head of 65
    characters wants a lower one than the embeddings; in shorter ones, or with 2,048 pieces, it does not.
    """
    width = config.model.n_embd
    slow_head = config.tokenizer.facts.unit == "character" and not config.model.tie_embeddings and width >= 128
    return {"train": {"learning_rate": 1.28 / width, **({"head_learning_rate": 0.5 / width} if slow_head else {})}}
