"""What goes on inside a model for one text: how likely each token was, where heads look, what each layer would say.

Everything here is a plain function of a model and ids; nothing knows of browsers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from primegpt.errors import UsageError
from primegpt.inference.context import Row, inference
from primegpt.model.gpt import GPT


def next_logits(model: GPT, ids: list[int]) -> Tensor:
    """The logits (V,) of the token after `ids`, seen through the same window as when a text is written."""
    with inference(model):
        logits = model(as_batch(model, Row(ids, model.config.block_size).window), logits_for="last")
    assert isinstance(logits, Tensor)
    return logits[0, -1].float()


def token_logprobs(model: GPT, ids: list[int]) -> tuple[Tensor, Tensor]:
    """The log-probability and the rank (0 = likeliest) of each token but the first given those before it, (T - 1,).

    A text longer than the context is read in windows that overlap by half, so each token has half a context at least.
    """
    size, half = model.config.block_size, max(1, model.config.block_size // 2)
    logprobs, ranks = [torch.empty(0)], [torch.empty(0, dtype=torch.long)]
    done = 1  # the first token follows nothing
    for start in range(0, max(1, len(ids) - half), half):
        window = ids[start : start + size]
        with inference(model):
            logits = model(as_batch(model, window))
        assert isinstance(logits, Tensor)
        before = logits[0, done - start - 1 : len(window) - 1].float().log_softmax(dim=-1)  # (n, V)
        own = before.gather(-1, as_batch(model, ids[done : start + len(window)]).mT)  # (n, 1)
        logprobs.append(own.squeeze(-1).cpu())
        ranks.append((before > own).sum(dim=-1).cpu())
        done = start + len(window)
        if done == len(ids):
            break
    return torch.cat(logprobs), torch.cat(ranks)


def attention(model: GPT, ids: list[int], layer: int) -> Tensor:
    """Where each head of `layer` looks, (H, T, T): row t holds the weights that sum to 1 over the tokens up to t."""
    with inference(model):
        maps = model.trace(as_batch(model, ids)).maps
    if len(maps) != len(model.h):
        what = f"attention {model.config.attention!r} is of an extension and tells no maps"
        raise UsageError(what, "the logit lens needs none")
    return maps[layer][0].float()


def logit_lens(model: GPT, ids: list[int], count: int, places: int | None = None) -> tuple[Tensor, Tensor]:
    """What the model would say if it stopped after each layer: probabilities and ids, (n_layer + 1, T, count).

    Of the last `places` alone if that is given: of 256 places with a vocabulary of 150,000 it would take a minute. Each
    hidden state goes through the final norm and the head, as the last one does: nostalgebraist 2020, "interpreting GPT:
    the logit lens". Row 0 is the embedding, the last row the model's own prediction.
    """
    with inference(model):
        hidden = model.trace(as_batch(model, ids)).hidden
        last = slice(-places if places else None, None)
        rows = [model.logits(model.ln_f(state[:, last]))[0].float().softmax(dim=-1).topk(count) for state in hidden]
    return torch.stack([row.values for row in rows]), torch.stack([row.indices for row in rows])


def near_tokens(model: GPT, id: int, count: int) -> tuple[Tensor, Tensor]:
    """The `count` tokens whose embeddings point most nearly the same way as that of `id`: cosines and ids."""
    with inference(model):
        table = model.wte.weight[: model.config.vocab_size].float()
        cosines = F.cosine_similarity(table, table[id : id + 1], dim=-1)
        cosines[id] = -2.0  # itself
        nearest = cosines.topk(min(count, len(cosines) - 1))
    return nearest.values, nearest.indices


def near_positions(model: GPT, position: int) -> Tensor:
    """How alike a position is to every position, (block_size,): the cosine of their embeddings.

    Rotary positions have none: there it is the cosine that is left of two equal vectors, with the same weight in each
    pair of dimensions, when they are turned as the two positions turn them.
    """
    if model.wpe is None:
        assert model.rotary is not None
        distances = (torch.arange(model.config.block_size) - position).abs()
        return model.rotary[0].float().cpu().mean(dim=-1)[distances]
    with inference(model):
        table = model.wpe.weight.float()
        return F.cosine_similarity(table, table[position : position + 1], dim=-1)


def as_batch(model: GPT, ids: list[int]) -> Tensor:
    return torch.tensor([ids], dtype=torch.long, device=model.device)
