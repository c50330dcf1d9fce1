"""What a network reaches on a text in some time, by a law fitted to runs, and so which network is the best there.

    loss = E + A (3e5 / N)^ALPHA + B (2e6 / T)^BETA     N: parameters of the blocks, T: what all tokens are worth
    T = U (1 + R (1 - exp((1 - P) / R)))                U distinct tokens, passed over P times, for P above 1

Hoffmann et al. (2022, arXiv:2203.15556), with the worth of further passes after Muennighoff et al. (2023,
arXiv:2305.16264). E, A and B belong to a text and are not known before it has been trained on. Of the best network
they decide little: E nothing, and A / B was alike on texts of every kind, so that one ratio serves for all. The fit,
its data and what it leaves over: docs/planning.md; `python docs/fit_law.py` makes it anew.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

PARAMETERS, TOKENS = 3e5, 2e6  # in the middle of the runs: A and B are what is missing there
ALPHA = 0.361
BETA = 0.912
WORTH = 3.76  # R: passes over a text that could be worth something, after the first
RATIO = 1.87  # A / B

# The share of a device's rate of products that steps of wide networks reach, and the width that reaches half of it.
WIDTHS = {"cpu": (1.0, 315.0), "cuda": (0.6, 500.0)}
STATED_RATES = {"cpu": 4e11, "cuda": 6e14}  # FLOP/s of the machine of the fit, and of an H100: where none is measured


class Network(NamedTuple):
    """Depth, width, context and the rows of a batch."""

    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    batch_size: int

    @property
    def in_blocks(self) -> int:
        """Parameters of the blocks; beside their matrices there are hardly any."""
        return 12 * self.n_layer * self.n_embd**2

    def parameters(self, vocab_size: int) -> int:
        """About as many as `prime` has, whose head is not tied."""
        return self.in_blocks + 2 * vocab_size * self.n_embd

    def flops(self, vocab_size: int) -> float:
        """Of training, a token (`model.size.flops_per_token`)."""
        attention = 12 * self.n_layer * self.n_embd * self.block_size
        return 6.0 * (self.in_blocks + vocab_size * self.n_embd) + attention


def worth(tokens: float, distinct: float, further: float = WORTH) -> float:
    """Distinct tokens that would teach as much as `tokens` of a text that has `distinct` ones.

    Passes after the first are worth no more than `further` of them.
    """
    passes = tokens / distinct
    return tokens if passes <= 1 else distinct * (1 + further * (1 - math.exp((1 - passes) / further)))


def missing(in_blocks: float, tokens: float, distinct: float) -> float:
    """How far the loss is above the least that the text allows, (loss - E) / B."""
    return RATIO * (PARAMETERS / in_blocks) ** ALPHA + (TOKENS / worth(tokens, distinct)) ** BETA


def tokens_in(network: Network, seconds: float, rate: float, device: str, vocab_size: int) -> float:
    """What `network` learns from in `seconds` on a device that multiplies matrices at `rate` FLOP/s."""
    wide, half = WIDTHS.get(device, WIDTHS["cuda"])
    share = wide * network.n_embd / (network.n_embd + half)
    return seconds * share * rate / network.flops(vocab_size)


def best(
    networks: Sequence[Network], seconds: float, rate: float, device: str, vocab_size: int, distinct: float
) -> Network:
    """The one of `networks` from which least is missing after `seconds`."""
    return min(
        networks,
        key=lambda each: missing(each.in_blocks, tokens_in(each, seconds, rate, device, vocab_size), distinct),
    )
