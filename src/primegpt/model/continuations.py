"""Log-probabilities of rows that begin alike: what they share is read once, and what nobody asks for not at all.

    rows, their targets asked for where they stand             prompts        what goes on from them
    a b c x y    . . x y ■                                     a b            c x y
    a b c z      . . z ■ .                                     d              c z
    d e w        . w ■ . .                                                    e w

A prompt is what stands before the token at which the first target is asked for. Its keys and values serve all the rows
that begin with it, as a cache does in decoding; but here gradients find their way back through them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from primegpt.model.cache import Past
from primegpt.model.gpt import GPT
from primegpt.model.kernels import triangle
from primegpt.model.loss import IGNORED, token_log_probabilities

FEW = 8  # lengths between a power of two and the next: for each there is, kernels are kept


def rounded_up(n: int) -> int:
    """`n` tokens or a few more: one of not many lengths."""
    apart = max(FEW, 2 ** (n.bit_length() - 1) // FEW)
    return -(-n // apart) * apart


class Continuations(NamedTuple):
    """The B rows of which something is asked, cut at the end of their prompts, and the P prompts."""

    prompts: Tensor
    """(P, S), filled up on the right."""
    sizes: Tensor
    """Tokens of each row's prompt, (B,)."""
    prompt_of: Tensor
    """Which prompt each row goes on from, (B,)."""
    ids: Tensor
    """(B, L), from the last token before the first target on."""
    targets: Tensor
    """(B, L)."""
    rows: Tensor
    """Where these rows stood, (B, 1)."""
    columns: Tensor
    """Where these tokens stood in them, (B, L); of what fills a row up any."""

    @property
    def mask(self) -> Tensor:
        """What each token sees of its prompt and of its row, (B, 1, L, S + L)."""
        (B, L), S, device = self.ids.shape, self.prompts.size(1), self.ids.device
        before = torch.arange(S, device=device) < self.sizes[:, None]  # (B, S)
        parts = before[:, None].expand(B, L, S), triangle(L, device).expand(B, L, L)
        return torch.cat(parts, dim=2).unsqueeze(1)


def continuations(ids: Tensor, targets: Tensor) -> Continuations:
    """Rows (N, T) cut so; of at least one of them something is asked."""
    asked, T = targets != IGNORED, ids.size(1)
    rows = asked.any(dim=1).nonzero()  # (B, 1)
    asked = asked[rows.squeeze(1)]
    sizes = asked.int().argmax(dim=1)
    ends = T - asked.flip(1).int().argmax(dim=1)
    known = ids[rows.squeeze(1)].tolist()
    prompts = [tuple(row[:size]) for row, size in zip(known, sizes.tolist(), strict=True)]
    number = {prompt: n for n, prompt in enumerate(dict.fromkeys(prompts))}
    S = min(rounded_up(longest), T) if (longest := max(map(len, number))) else 0
    filled = [[*prompt, *[0] * (S - len(prompt))] for prompt in number]
    L = min(rounded_up(int((ends - sizes).max())), T)
    places = sizes[:, None] + torch.arange(L, device=ids.device)
    columns = places.clamp(max=T - 1)
    return Continuations(
        torch.tensor(filled, device=ids.device).view(len(number), S),
        sizes,
        torch.tensor([number[prompt] for prompt in prompts], device=ids.device),
        ids[rows, columns],
        targets[rows, columns].masked_fill(places >= ends[:, None], IGNORED),
        rows,
        columns,
    )


class Kept:
    """The keys and values of prompts in one layer, (P, K, S, D) each."""

    k: Tensor
    v: Tensor

    def take_in(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.k, self.v = k, v
        return k, v

    def before(self, prompt_of: Tensor) -> Past:
        """What attention sees in the rows (B, …) that go on from them."""
        return lambda k, v: (
            torch.cat((self.k.index_select(0, prompt_of), k), dim=2),
            torch.cat((self.v.index_select(0, prompt_of), v), dim=2),
        )


def log_probabilities(
    model: GPT, ids: Tensor, targets: Tensor, rule: Callable[[Tensor], Tensor] = lambda logits: logits
) -> Tensor:
    """log p of each target, (N, T) in fp32, 0 where it is ignored: `model(ids, targets=…, logprobs=True, rule=…)`.

    An attention of an extension has rows as they stand.
    """
    if "attention" in model.config.own or not (targets != IGNORED).any():
        found = model(ids, targets=targets, logprobs=True, rule=rule)
        assert isinstance(found, Tensor)
        return found
    cut = continuations(ids, targets)
    layers = [Kept() for _ in model.h]
    pasts: Sequence[Past | None] = [None] * len(layers)
    if cut.prompts.size(1):
        run(model, cut.prompts, None, [layer.take_in for layer in layers])
        pasts = [layer.before(cut.prompt_of) for layer in layers]
    hidden = model.ln_f(run(model, cut.ids, cut, pasts))  # (B, L, C)
    logprobs = token_log_probabilities(
        hidden, cut.targets, lambda rows: rule(model.logits(rows)), model.config.padded_vocab_size
    )
    inside = cut.targets != IGNORED
    places = cut.rows.expand_as(cut.columns)[inside], cut.columns[inside]
    return logprobs.new_zeros(targets.shape).index_put(places, logprobs[inside])


def run(model: GPT, ids: Tensor, cut: Continuations | None, pasts: Sequence[Past | None]) -> Tensor:
    """What the blocks make of prompts (P, S), or of the rows (B, L) that go on from them, with these before each."""
    positions, view = None, model.view(ids, None, None)
    if cut:
        places = cut.sizes[:, None] + torch.arange(ids.size(1), device=ids.device)
        positions = places.clamp(max=model.config.block_size - 1)  # past the end of a row nobody looks
        view = replace(model.view(ids, positions, None), mask=cut.mask, causal=False)
    x = model.embed(ids, positions)
    for block, past in zip(model.h, pasts, strict=True):
        x = block(x, view, past)
    return x
