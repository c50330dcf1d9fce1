"""The rules between a model's logits and the chosen token: small pure functions on logits (B, V).

A token that a rule removes has the logit -inf. `filtered` is the one place that fixes the order of the rules; each
keeps the same tokens as the processor of that name in Transformers.
"""

import torch
from torch import Tensor

from primegpt.config import GenerateConfig


def ban(logits: Tensor, ids: Tensor) -> Tensor:
    """Remove the tokens `ids` (N,) from every row."""
    return logits.index_fill(-1, ids, float("-inf"))


def greedy(logits: Tensor) -> Tensor:
    """Keep the likeliest token alone, the first among equals."""
    best = logits.argmax(dim=-1, keepdim=True)
    return torch.full_like(logits, float("-inf")).scatter(-1, best, 0.0)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by `temperature` > 0: below 1 sharpens, above 1 flattens.

    The largest logit is moved to 0 first, so that a minute temperature sends the others to -inf, not itself to inf.
    """
    below = logits - logits.amax(dim=-1, keepdim=True)
    return below / max(temperature, torch.finfo(logits.dtype).tiny)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens, and those equal to the last of them."""
    kth = logits.topk(min(k, logits.size(-1)), dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < kth, float("-inf"))


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities reach p: those with less than p before them; at least one.

    Nucleus sampling, Holtzman et al. 2019, arXiv:1904.09751.
    """
    ranked, order = logits.sort(dim=-1)  # ascending: what is summed first is small, so little is lost to rounding
    mass = ranked.softmax(dim=-1).cumsum(dim=-1)  # of a token and all less likely ones: 1 - the mass before it
    removed = mass <= 1 - p
    removed[:, -1] = False
    return logits.masked_fill(removed.scatter(-1, order, removed), float("-inf"))


def filtered(logits: Tensor, settings: GenerateConfig, banned: Tensor | None = None) -> Tensor:
    """All rules in their order: bans, temperature (0 is greedy), top-k, top-p. Returns fp32 logits (B, V)."""
    logits = logits.float()
    if banned is not None:
        logits = ban(logits, banned)
    if settings.temperature == 0:
        return greedy(logits)
    logits = apply_temperature(logits, settings.temperature)
    if settings.top_k is not None:
        logits = top_k(logits, settings.top_k)
    if settings.top_p < 1:
        logits = top_p(logits, settings.top_p)
    return logits


def probabilities(logits: Tensor, settings: GenerateConfig, banned: Tensor | None = None) -> Tensor:
    """What the next token is drawn from, (B, V) in fp32, after all rules."""
    return filtered(logits, settings, banned).softmax(dim=-1)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The token (B,) of each row at which the summed probability passes `uniforms` (B,), fp64 in [0, 1).

    One number a row decides, whatever the device and the rest of the batch; in fp64, because fp32 sums over a large
    vocabulary would give its last tokens another probability than they have.
    """
    if probabilities.device.type == "mps":  # has no fp64
        probabilities = probabilities.cpu()
    cdf = probabilities.double().cumsum(dim=-1)  # (B, V)
    point = uniforms.to(cdf.device).unsqueeze(-1) * cdf[:, -1:]  # of the sum, which rounding leaves a little off 1
    return torch.searchsorted(cdf, point, right=True).squeeze(-1)  # right: never a token of probability 0


def choose(logits: Tensor, settings: GenerateConfig, uniforms: Tensor, banned: Tensor | None = None) -> Tensor:
    """The next token of each row, (B,): the likeliest at temperature 0, else drawn with `uniforms` (B,) in [0, 1)."""
    if settings.temperature == 0:
        return filtered(logits, settings, banned).argmax(dim=-1)
    return draw(probabilities(logits, settings, banned), uniforms)
