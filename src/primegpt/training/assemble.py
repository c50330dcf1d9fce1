"""The model as it is trained: adapters, device, attention, activation checkpointing and compilation, from outside."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from primegpt.config import Config
from primegpt.model.gpt import GPT
from primegpt.model.lora import add_lora


def assemble(config: Config, weights: Mapping[str, Tensor] | None = None) -> GPT:
    """The model of `config`, ready to train: with `weights` to start from, or initialised by the seed.

    Names of parameters do not depend on any of the settings. Compilation happens at the first use.
    """
    train = config.train
    assert train.attention != "auto", "the plan resolves attention"
    model = GPT(config.model, train.seed)
    if weights is not None:
        model.load_weights(weights)
    if config.lora.rank:
        add_lora(model, config.lora, train.seed)
    model.to(train.device).use_attention(train.attention)
    for block in model.h:
        if train.activation_checkpointing:
            recompute_in_backward(block)
        if train.compile:
            block.compile()  # all blocks share one graph, so this takes a fraction of compiling the whole model
    return model


def recompute_in_backward(block: torch.nn.Module) -> None:
    """Keep only the input of `block` for the backward pass, which runs it again (Chen et al. 2016, arXiv:1604.06174).

    The generator is put back for the second time, so that dropout is the same. Nothing changes without gradients.
    """
    block.forward = partial(_checkpointed, block.forward)


def _checkpointed(forward, *inputs):
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False)


def without_compilation():
    """A context in which compiled models run as they were written: for shapes that change all the time."""
    return torch.compiler.set_stance("force_eager")
