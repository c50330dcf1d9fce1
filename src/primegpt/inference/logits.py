"""The rules between a model's logits and the chosen token: small pure functions on logits (B, V).

A token that a rule removes has the logit -inf. `filtered` is the one place that fixes the order of the rules; each
keeps the same tokens as the processor of that name in Transformers.
"""

import torch
from torch import Tensor

from primegpt.config import GenerateConfig


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the tokens `seen` (B, L) less likely: their logits are divided by `penalty` or, if negative, multiplied.

    Keskar et al. 2019 (CTRL), arXiv:1909.05858. A row of `seen` may name a token more than once.
    """
    known = logits.gather(-1, seen)
    return logits.scatter(-1, seen, torch.where(known < 0, known * penalty, known / penalty))


def ban(logits: Tensor, ids: Tensor) -> Tensor:
    """Remove the tokens `ids` (N,) from every row."""
    return logits.index_fill(-1, ids, float("-inf"))


def greedy(logits: Tensor) -> Tensor:
    """Keep the likeliest token alone, the first among equals."""
    best = logits.argmax(dim=-1, keepdim=True)
    return torch.full_like(logits, float("-inf")).scatter(-1, best, 0.0)


def apply_temperature(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Divide by `temperature` > 0, one or one a row (B, 1): below 1 sharpens, above 1 flattens.

    The largest logit is moved to 0 first, so that a minute temperature sends the others to -inf, not itself to inf.
    """
    below = logits - logits.amax(dim=-1, keepdim=True)
    lowest = torch.finfo(logits.dtype).tiny
    return below / (temperature.clamp(min=lowest) if isinstance(temperature, Tensor) else max(temperature, lowest))


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens, and those equal to the last of them."""
    return logits.masked_fill(logits < kth_largest(logits, k), float("-inf"))


def kth_largest(logits: Tensor, k: int) -> Tensor:
    """The k-th largest logit of each row, (B, 1); the smallest where there are fewer."""
    return logits.topk(min(k, logits.size(-1)), dim=-1).values[:, -1:]


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities reach p: those with less than p before them; at least one.

    Nucleus sampling, Holtzman et al. 2019, arXiv:1904.09751.
    """
    ranked, order = logits.sort(dim=-1)  # ascending: what is summed first is small, so little is lost to rounding
    mass = ranked.softmax(dim=-1).cumsum(dim=-1)  # of a token and all less likely ones: 1 - the mass before it
    remove = mass <= 1 - p
    remove[:, -1] = False
    return logits.masked_fill(remove.scatter(-1, order, remove), float("-inf"))


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens that are at least p times as likely as the likeliest. Nguyen et al. 2024, arXiv:2407.01082."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), float("-inf"))


def penalised(logits: Tensor, settings: GenerateConfig, banned: Tensor | None, seen: Tensor | None) -> Tensor:
    """The rules that hold for greedy decoding too: repetition penalty, bans. Returns fp32 logits (B, V)."""
    logits = logits.float()
    if seen is not None and settings.repetition_penalty != 1:
        logits = penalise_repetition(logits, seen, settings.repetition_penalty)
    return logits if banned is None else ban(logits, banned)


def narrowed(logits: Tensor, settings: GenerateConfig, temperature: Tensor | None) -> Tensor:
    """The rules after top-k, on any selection of tokens: temperature, top-p, min-p."""
    logits = apply_temperature(logits, settings.temperature if temperature is None else temperature)
    if settings.top_p < 1:
        logits = top_p(logits, settings.top_p)
    return min_p(logits, settings.min_p) if settings.min_p > 0 else logits


def filtered(
    logits: Tensor,
    settings: GenerateConfig,
    banned: Tensor | None = None,
    seen: Tensor | None = None,
    temperature: Tensor | None = None,
) -> Tensor:
    """All rules in their order: repetition penalty, bans, temperature (0 is greedy), top-k, top-p, min-p.

    Returns fp32 logits (B, V). `banned` (N,) are ids, `seen` (B, L) the text so far, and `temperature` (B, 1) takes
    the place of the settings' where it has decayed. Top-k is applied before the division by the temperature, which
    keeps the same tokens, because a division by one number leaves their order as it is.
    """
    logits = penalised(logits, settings, banned, seen)
    if settings.temperature == 0:
        return greedy(logits)
    if settings.top_k:
        logits = top_k(logits, settings.top_k)
    return narrowed(logits, settings, temperature)


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


def choose(
    logits: Tensor,
    settings: GenerateConfig,
    uniforms: Tensor,
    banned: Tensor | None = None,
    seen: Tensor | None = None,
    temperature: Tensor | None = None,
) -> Tensor:
    """The next token of each row, (B,): the likeliest at temperature 0, else drawn with `uniforms` (B,) in [0, 1).

    Drawn from `filtered`, but with the rules after top-k on the k tokens alone, which is most of the vocabulary's
    cost saved: sorting 50,000 logits takes longer than a small model.
    """
    logits = penalised(logits, settings, banned, seen)
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    candidates = likeliest(logits, settings.top_k) if settings.top_k else None
    if candidates is None:
        if settings.top_k:
            logits = top_k(logits, settings.top_k)
        return draw(narrowed(logits, settings, temperature).softmax(dim=-1), uniforms)
    kept = narrowed(logits.gather(-1, candidates), settings, temperature)
    picked = draw(kept.softmax(dim=-1), uniforms).unsqueeze(-1)
    return candidates.to(picked.device).gather(-1, picked).squeeze(-1)


def likeliest(logits: Tensor, k: int) -> Tensor | None:
    """The ids (B, n) that top-k keeps, in rising order; None when rows keep different numbers of them (ties)."""
    keep = logits >= kth_largest(logits, k)
    counts = keep.sum(dim=-1)
    if (counts != counts[0]).any():
        return None
    return keep.nonzero()[:, 1].view(len(logits), -1)
