"""The zero-config layer: what to train on a text of some size, in some time, on some machine.

The network is the one that `planning.law` expects most of; the rest is measured on runs: docs/experiments.md, "From the
budget to the network".
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from primegpt.config import Config, TokenizerConfig
from primegpt.data.audit import GUARDED
from primegpt.data.layout import fitting_context
from primegpt.planning import passes
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
ON_CUDA, ROWS_ON_CUDA = 512, 64  # context and rows: a GPU has too little to do with fewer tokens ...
ENOUGH_STEPS = 500  # ... but a text that is small needs steps above all
UNKNOWN = 1_000_000  # bytes that a text is taken to have where that is not known


class TextFacts(NamedTuple):
    """What of a text decides the network: a guess by its size, or what is known once its tokens are."""

    vocab_size: int
    distinct: float
    """Tokens, without what is a copy."""
    tokens_per_parameter: float = GUARDED
    """That a network needs at least: above that none was better, or (`data.audit`) it learns the text by heart."""

    def suffices_for(self, network: Network) -> bool:
        return network.parameters(self.vocab_size) * self.tokens_per_parameter <= self.distinct


def guessed(text_bytes: int | None, tokenizer: TokenizerConfig, tokens_per_parameter: float = GUARDED) -> TextFacts:
    """What `text_bytes` of text are in tokens of `tokenizer`, if nothing in them is a copy.

    The longer a piece, the more there are: 2.9 bytes are one of 2,048, 4.1 one of 16,384.
    """
    vocab_size, of_a_token = tokenizer.learnt_vocab_size or tokenizer.facts.assumed, 1.0
    if tokenizer.facts.unit == "token":
        of_a_token = max(1.0, 2.9 + 0.4 * math.log2(vocab_size / 2048))
    return TextFacts(vocab_size, (text_bytes or UNKNOWN) / of_a_token, tokens_per_parameter)


def zero_config(
    facts: TextFacts,
    tokenizer: Mapping[str, Any],
    device: str,
    minutes: float | None,
    preset: str = "prime",
    *,
    records: Sequence[int] | None = None,
    width: int | None = None,
    context: int | None = None,
    rate: float = STATED_RATES["cpu"],
) -> dict[str, Any]:
    """What to train on a text of such `facts` in `minutes` on a `device` that multiplies matrices at `rate` FLOP/s.

    With a network of `width`, and rows as long as `context`, if these were asked for. `records` are the lengths in
    tokens of some records with an answer, as far as they are known; None for plain text. They have to fit into a
    context, so they get one that is long enough.
    """
    network = network_for(facts, 60 * (minutes or DEFAULT_MINUTES), rate, device)
    tokens = network.block_size * network.batch_size
    if width:
        network = network._replace(n_embd=width, n_head=heads(width))
    if records is not None:
        least = max(RECORD, network.block_size)
        chosen, rows = context_and_rows(records, tokens, least, device)
        network = network._replace(block_size=chosen, batch_size=rows)
    elif context:
        network = network._replace(batch_size=max(1, tokens // context))
    model = network._asdict()
    train = {"batch_size": model.pop("batch_size")}
    return {"model": {"preset": preset, **model}, "tokenizer": tokenizer, "train": train}


def network_for(facts: TextFacts, seconds: float, rate: float, device: str) -> Network:
    """The best network by the law, of those that the text suffices for; the smallest, where it does for none."""
    fitting = [network for network in NETWORKS if facts.suffices_for(network)] or NETWORKS[:1]
    if device == "cuda":
        rows = int(passes.MOST * facts.distinct / (ENOUGH_STEPS * ON_CUDA))
        rows = max(4, min(ROWS_ON_CUDA, rows))
        fitting = [network._replace(block_size=ON_CUDA, batch_size=rows) for network in fitting]
    return best(fitting, seconds, rate, device, facts.vocab_size, facts.distinct)


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


def tokenizer_for(text_bytes: int | None, *, records: bool = False) -> dict[str, Any]:
    """The tokenizer of the zero-config layer: characters for a few MB, which hold too few examples of longer pieces.

    The size of a stream is not known; it is taken to be small.
    """
    if records:
        return {"kind": "bpe", "vocab_size": 2048}
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
