"""What goes on inside a model as values for JSON: vectors packed, tokens by id, shares and lengths rounded."""

import base64
from typing import Any

import numpy as np
import torch
from torch import Tensor

from primegpt.errors import NonFiniteError
from primegpt.model.gpt import GPT
from primegpt.serving.flow import constant, flow, guesses, inner, shares

CANDIDATES = 8  # tokens whose logits are taken apart
PUSHED = 4  # tokens that are named for each part


def flow_answer(model: GPT, ids: list[int], came: int | None = None) -> dict[str, Any]:
    """The guess that follows `ids`: [part][candidate] shares, [layer][candidate] probabilities, and what they end in.

    The candidates are the likeliest tokens, and `came`, the one that the text goes on with.
    """
    found = flow(model, ids)
    likeliest = found.logits.topk(min(CANDIDATES, len(found.logits))).indices.tolist()
    candidates = likeliest if came is None or came in likeliest else [*likeliest, came]
    which = torch.tensor(candidates, device=model.device)
    own, said = shares(model, found.parts, found.stream[-1], which), guesses(model, found.stream)
    best = said.topk(1)
    return {
        "vectors": {
            "token": packed(found.token),
            "position": None if found.position is None else packed(found.position),
            "embedding": packed(found.parts[0]),
            "normed": packed(found.normed),
        },
        "lengths": rounded(found.parts.norm(dim=-1)),
        "candidates": candidates,
        "logits": rounded(found.logits[which]),
        "probabilities": rounded(found.logits.softmax(dim=-1)[which]),
        "softcap": model.config.logit_softcap,
        "shares": None if own is None else rounded(own),
        "constant": rounded(constant(model, which)),
        "guesses": {
            "ids": best.indices[:, 0].tolist(),
            "probabilities": rounded(best.values[:, 0]),
            "candidates": rounded(said[:, which]),
            "ranks": [(row > row[which, None]).sum(dim=-1).tolist() for row in said],
        },
    }


def block_answer(model: GPT, ids: list[int], layer: int) -> dict[str, Any]:
    """What each head and the MLP of a block do after `ids`; null for what a part of an extension does not tell."""
    one = inner(model, ids, layer)
    heads = torch.empty(0, model.config.n_embd, device=model.device) if one.heads is None else one.heads
    parts = torch.cat((heads, one.attention[None], one.mlp[None]))  # (H + 2, C)
    every = shares(model, parts, one.final)
    pushed = [None] * len(parts) if every is None else [pushes(row) for row in every]
    *head_facts, attention, mlp = [
        {"length": rounded(part.norm()), "pushes": up} for part, up in zip(parts, pushed, strict=True)
    ]
    return {
        "vectors": {
            "before": packed(one.before),
            "attention": packed(one.attention),
            "mlp": packed(one.mlp),
            "after": packed(one.before + one.attention + one.mlp),
        },
        "weights": None if one.weights is None else packed(one.weights),
        "neurons": None if one.neurons is None else packed(one.neurons),
        "heads": head_facts,
        "attention": attention,
        "mlp": mlp,
    }


def pushes(shares: Tensor) -> dict[str, Any]:
    """The tokens whose logits a part raises most, and by how much more than those of all tokens on average.

    What is added to all logits alike changes no probability.
    """
    most = (shares - shares.mean()).topk(min(PUSHED, len(shares)))
    return {"ids": most.indices.tolist(), "by": rounded(most.values)}


def packed(values: Tensor) -> str:
    """fp32, little-endian, in base64: half the size of decimals, and exactly the numbers of the model."""
    return base64.b64encode(values.float().cpu().numpy().astype(np.dtype("<f4")).tobytes()).decode()


def rounded(values: Tensor) -> Any:
    """Nested lists with as many digits as anyone reads. Raises NonFiniteError, since JSON has no NaN."""
    if not values.isfinite().all():
        raise NonFiniteError("the model's numbers are not finite", "look at an earlier checkpoint")
    return values.double().cpu().numpy().round(5).tolist()
