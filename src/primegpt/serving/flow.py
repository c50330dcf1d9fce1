"""How the guess at one place comes about: what each part of the network adds to the residual stream, and to a logit.

The stream is a sum, and with the length by which the final norm divides held as it came out, norm and head are linear:
so each part has a share in each logit, and the shares add up to it. This is the direct logit attribution of Elhage et
al. 2021, "A Mathematical Framework for Transformer Circuits". As in lens.py, plain functions of a model and ids.

Letters in shapes are those of model/gpt.py; L is the number of blocks. All is of the last token of the text, seen
through the same window as when the text is written on.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from primegpt.inference.context import Row, inference
from primegpt.model.gpt import GPT, MLP, Attention, Block, RMSNorm
from primegpt.model.kernels import View, attention_weights


@dataclass(frozen=True)
class Flow:
    """One forward pass at the last place."""

    token: Tensor  # (C,), its row of the embedding table
    position: Tensor | None  # (C,), the row of its place, where places have rows
    parts: Tensor  # (2L + 1, C): the embedding, then what attention and MLP of each block add
    stream: Tensor  # (L + 1, C): their sum so far, after the embedding and after each block
    normed: Tensor  # (C,), the last of it as the head sees it
    logits: Tensor  # (V,)


def flow(model: GPT, ids: list[int]) -> Flow:
    """The parts of the residual stream, and what they end in."""
    window = Row(ids, model.config.block_size).window
    with inference(model):
        x, view = start(model, window)
        parts, stream = [x[0, -1]], [x[0, -1]]
        for block in blocks(model):
            read = block.attn(block.ln_1(x), view)
            x = x + read
            known = block.mlp(block.ln_2(x))
            x = x + known
            parts += [read[0, -1], known[0, -1]]
            stream.append(x[0, -1])
        normed = model.ln_f(x)[0, -1]  # norms of an extension take (B, T, C)
        row = None if model.wpe is None else model.wpe.weight[len(window) - 1].detach().float()
        token, logits = model.wte.weight[window[-1]].detach().float(), model.logits(normed).float()
    return Flow(token, row, torch.stack(parts).float(), torch.stack(stream).float(), normed.float(), logits)


def shares(model: GPT, parts: Tensor, final: Tensor, ids: Tensor | None = None) -> Tensor | None:
    """What `parts` (P, C) of the stream `final` (C,) add to the logits of `ids`, or of all: (P, V), before a softcap.

    None where the final norm is of an extension, which need not be linear.
    """
    if "norm" in model.config.own:
        return None
    with inference(model):
        norm, centred = cast(nn.LayerNorm | RMSNorm, model.ln_f), final
        if isinstance(norm, nn.LayerNorm):
            centred = final - final.mean()
            parts = parts - parts.mean(dim=-1, keepdim=True)
        parts = parts * torch.rsqrt(centred.square().mean() + model.config.norm_eps)
        return (parts if norm.weight is None else parts * norm.weight.float()) @ head(model, ids).T


def constant(model: GPT, ids: Tensor) -> Tensor:
    """What the final norm's bias adds to the logits of `ids`, whatever was read."""
    with inference(model):
        bias = getattr(model.ln_f, "bias", None)
        return head(model, ids) @ bias.float() if isinstance(bias, Tensor) else torch.zeros_like(ids).float()


def head(model: GPT, ids: Tensor | None) -> Tensor:
    """The vectors with which the stream is compared: those of `ids`, or of the whole vocabulary, (V, C)."""
    weight = model.wte.weight if model.lm_head is None else model.lm_head.weight
    assert isinstance(weight, Tensor)
    return (weight[: model.config.vocab_size] if ids is None else weight[ids]).float()


def guesses(model: GPT, stream: Tensor) -> Tensor:
    """What would be said at each point of `stream` (L + 1, C) if the network ended there: probabilities (L + 1, V)."""
    with inference(model):
        return model.logits(model.ln_f(stream.to(model.wte.weight.dtype)[None]))[0].float().softmax(dim=-1)


@dataclass(frozen=True)
class Inner:
    """One block at the last place. Of parts of an extension only what they add is known."""

    before: Tensor  # (C,), the stream that it reads
    final: Tensor  # (C,), what the stream ends as, by which shares in logits are measured
    attention: Tensor  # (C,), what attention adds
    mlp: Tensor  # (C,), what the MLP adds
    weights: Tensor | None  # (H, T): how much each head takes from each token
    heads: Tensor | None  # (H, C): what each head adds
    bias: Tensor | None  # (C,), what attention adds whatever is read: heads and bias add up to `attention`
    neurons: Tensor | None  # (intermediate_size,), what each neuron of the MLP says


def inner(model: GPT, ids: list[int], layer: int) -> Inner:
    """What goes on in block `layer`."""
    with inference(model):
        x, view = start(model, Row(ids, model.config.block_size).window)
        for earlier in blocks(model)[:layer]:
            x = earlier(x, view)
        block, own, before = blocks(model)[layer], model.config.own, x[0, -1].float()
        reading = block.ln_1(x)
        read = block.attn(reading, view)
        told = (None, None, None) if "attention" in own else by_head(cast(Attention, block.attn), reading, view)
        reading = block.ln_2(x + read)
        neurons = None if "mlp" in own else cast(MLP, block.mlp).activations(reading[0, -1]).float()
        known = block.mlp(reading)
        x = x + read + known
        for later in blocks(model)[layer + 1 :]:
            x = later(x, view)
        return Inner(before, x[0, -1].float(), read[0, -1].float(), known[0, -1].float(), *told, neurons)


def by_head(attn: Attention, x: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
    """What each head of the last place reads (H, T), what it adds (H, C), and what is added without any (C,).

    As `Attention.forward`, for one query, and with the output matrix applied to each head by itself.
    """
    (_, T, _), H, K, D = x.shape, attn.n_head, attn.n_kv_head, attn.head_dim
    qk, v = attn.c_attn(x).view(1, T, H + 2 * K, D).split((H + K, K), dim=2)
    q, k = view.turn(attn.normalise_heads(qk)).split((H, K), dim=2)
    q, k, v = q[:, -1:].transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    k, v = (t.repeat_interleave(H // K, dim=1) for t in (k, v))  # (1, H, T, D)
    weights = attention_weights(q, k, None)[0]  # (H, 1, T)
    taken = weights @ v[0]  # (H, 1, D)
    apart = torch.block_diag(*taken)  # (H, H D): each head's, with nothing from the others
    bias = attn.c_proj(torch.zeros_like(apart[:1]))
    return weights[:, 0].float(), (attn.c_proj(apart) - bias).float(), bias[0].float()


def start(model: GPT, window: list[int]) -> tuple[Tensor, View]:
    """The stream at its source (1, T, C), and what every block needs to know of the places."""
    batch = torch.tensor([window], dtype=torch.long, device=model.device)
    return model.embed(batch), model.view(batch, None, None)


def blocks(model: GPT) -> list[Block]:
    return [cast(Block, block) for block in model.h]
