"""The model as it is trained: adapters, device, attention, recomputation, ranks and compilation, from outside."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from primegpt.config import Config, TrainConfig
from primegpt.model.cache import Past
from primegpt.model.gpt import GPT, Block
from primegpt.model.kernels import View
from primegpt.model.lora import add_lora
from primegpt.parallel.world import ALONE, World


def assemble(config: Config, weights: Mapping[str, Tensor] | None = None, world: World = ALONE) -> GPT:
    """The model of `config`, ready to train: with `weights` to start from, or initialised by the seed.

    Of several ranks each gets its part. Names of parameters do not depend on any of the settings. Compilation happens
    at the first use.
    """
    train = config.train
    assert train.attention != "auto", "the plan resolves attention"
    model = GPT(config.model, train.seed)
    if weights is not None:
        model.load_weights(weights)
    if config.lora.rank:
        add_lora(model, config.lora, train.seed)
    model.to(train.device).use_attention(train.attention)
    if train.activation_checkpointing:
        for block in model.h:
            block.__class__ = RecomputedBlock  # its `forward` alone would be compiled anew for each model
    model = world.shard(model)
    if train.compile:
        # Blocks share a small graph where weights are gathered between them, and where the longest record gives the
        # length: each number of slices that the loss is taken in would be another graph of the whole model.
        apart = world.sharded or config.data.template != "text"
        for module in model.h if apart else [model]:
            module.compile()
    return model


class RecomputedBlock(Block):
    """A block that keeps only its input for the backward pass, which runs it again (Chen et al., arXiv:1604.06174).

    The generator is put back for the second time, so that dropout is the same. Nothing changes without gradients.
    """

    def forward(self, x: Tensor, view: View, past: Past | None = None) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x, view, past)
        return checkpoint(super().forward, x, view, past, use_reentrant=False)


def as_written(train: TrainConfig) -> AbstractContextManager[object]:
    """A context in which a compiled model runs as it was written: for shapes too rare to compile for."""
    return torch.compiler.set_stance("force_eager") if train.compile else nullcontext()
