"""The zero-config layer: what to train on a text of some size, in some time, on some machine.

The network is the one that `planning.law` expects most of; the rest is measured on runs: docs/experiments.md, "From the
budget to the network".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from primegpt.config import Config
from primegpt.data.audit import GUARDED
from primegpt.data.layout import fitting_context
from primegpt.planning.law import STATED_RATES, Network, best

DEFAULT_MINUTES = 3.0
RECORD = 256  # the context of records with an answer, at least
LONGEST = {"cpu": 2048, "cuda": 4096}  # that a context of records becomes by itself


NETWORKS = (
    Network(n_layer=2, n_embd=64, n_head=1, block_size=64, batch_size=32),
    Network(n_layer=3, n_embd=96, n_head=2, block_size=64, batch_size=32),
    Network(n_layer=3, n_embd=128, n_head=2, block_size=128, batch_size=16),
    Network(n_layer=4, n_embd=192, n_head=3, block_size=256, batch_size=8),
    Network(n_layer=5, n_embd=256, n_head=4, block_size=256, batch_size=8),
    Network(n_layer=6, n_embd=384, n_head=6, block_size=256, batch_size=16),
    Network(n_layer=8, n_embd=512, n_head=8, block_size=512, batch_size=16),
    Network(n_layer=12, n_embd=768, n_head=6, block_size=512, batch_size=64),
)
ON_CUDA = {"block_size": 512, "batch_size": 64}  # a GPU has too little to do with fewer tokens
BYTES = {"char": 1.0, 2048: 2.9, 8192: 3.7, 16384: 4.1}  # of a token, about
CHARACTERS = 100  # that a text has
UNKNOWN = 1_000_000  # bytes that a text is taken to have where that is not known


def zero_config(
    text_bytes: int | None,
    device: str,
    minutes: float | None,
    preset: str = "prime",
    *,
    records: Sequence[int] | None = None,
    width: int | None = None,
    rate: float = STATED_RATES["cpu"],
    fits: Callable[[Network], bool] = lambda network: True,
) -> dict[str, Any]:
    """What to train on `text_bytes` of text in `minutes` on a `device` that multiplies matrices at `rate` FLOP/s.

    With a network of `width` if that was asked for.

    `fits` says whether a network is small enough for the text: none is larger, unless all are. `records` are the
    lengths in tokens of some records with an answer, as far as they are known; None for plain text.
    They have to fit into a context, so they get one that is long enough, and longer pieces of text.

    Small text: characters, since a few MB hold too few examples of each longer piece. The network grows with the
    time there is, which on a CPU is what is scarce, as far as the text suffices for it.
    """
    tokenizer = {"kind": "bpe", "vocab_size": 2048} if records is not None else tokenizer_for(text_bytes)
    network = network_for(text_bytes, tokenizer, 60 * (minutes or DEFAULT_MINUTES), rate, device, fits)
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
        "tokenizer": tokenizer,
        "train": train,
    }


def network_for(
    text_bytes: int | None,
    tokenizer: Mapping[str, Any],
    seconds: float,
    rate: float,
    device: str,
    fits: Callable[[Network], bool] = lambda network: True,
) -> Network:
    """The network for a text and the time there is, of those that `fits`; the smallest, where none does."""
    vocab_size, distinct = tokenizer.get("vocab_size", CHARACTERS), distinct_tokens(text_bytes, tokenizer)
    most = distinct / GUARDED  # above that no network was better, and several texts' worth of time is saved
    networks = [each for each in NETWORKS if fits(each) and each.in_blocks <= most] or NETWORKS[:1]
    network = best(networks, seconds, rate, device, vocab_size, distinct)
    return network._replace(**ON_CUDA) if device == "cuda" else network


def distinct_tokens(text_bytes: int | None, tokenizer: Mapping[str, Any]) -> float:
    """About as many as a text is, if nothing in it is a copy."""
    return (text_bytes or UNKNOWN) / BYTES[tokenizer.get("vocab_size", "char")]


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
    text_bytes = text_bytes or UNKNOWN
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
