"""One optimizer step: the gradient of a whole batch in the run's number format, its norm clipped, then the update."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from primegpt.data.batching.batches import Batch
from primegpt.errors import is_out_of_memory
from primegpt.evaluation.perplexity import Figures, add_figures
from primegpt.model.gpt import GPT
from primegpt.parallel.world import ALONE, World, whole
from primegpt.seeds import derive_seed
from primegpt.training.objective import CROSS_ENTROPY, Objective
from primegpt.training.optimizers import Optimizers

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Precision:
    """The number format of one run: `autocast()` for the forward pass, `scaler` for fp16's gradients."""

    def __init__(self, name: str, device: str) -> None:
        assert name in DTYPES, "choose_precision resolves auto"
        self.name, self.device, self.dtype = name, device, DTYPES[name]
        # fp16 underflows below 6e-8: the loss is scaled up, the gradients down again before they are used.
        self.scaler = torch.amp.GradScaler(device, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """Matrix products in the 16-bit format, reductions in fp32; nothing for fp32."""
        return nullcontext() if self.name == "fp32" else torch.autocast(self.device, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Back-propagate the scaled loss."""
        self.scaler.scale(loss).backward()


def compute_gradients(
    model: GPT,
    micro_batches: Sequence[Batch],
    precision: Precision,
    seed: int,
    step: int,
    poll: Callable[[], None] = lambda: None,
    world: World = ALONE,
    objective: Objective = CROSS_ENTROPY,
) -> tuple[float, int, Figures] | None:
    """Add the gradient of one optimizer step's loss to `.grad`; return the summed loss, its count, and figures.

    loss = Σ objective / Σ count, both over all micro-batches of all ranks: the count is known before the first backward
    pass, so that how the batch is split changes nothing but rounding.

    None, on all ranks, where one was out of memory: then there are no gradients. Ranks that share weights compute in
    step, and one that has left cannot be made up for: there the error stands.
    """
    count = int(world.sum(sum(objective.count(batch) for batch in micro_batches)))
    total, figures, full = torch.zeros((), device=precision.device), Figures(), False
    try:
        for batch in micro_batches:
            poll()
            world.expect_last(model, batch is micro_batches[-1])
            seed_dropout(derive_seed(seed, "dropout", step, batch.first_example), precision.device)
            batch = batch.to(precision.device)
            with precision.autocast():
                loss, _, measured = objective(model, batch)
            if count:
                precision.backward(loss / count)
            total += loss.detach()
            add_figures(figures, measured)
    except Exception as error:
        if world.sharded or not is_out_of_memory(error):
            raise
        full = True
    if world.max(full):
        model.zero_grad()
        return None
    world.sum_gradients(model)
    return world.sum(total.item()), count, sum_over_ranks(figures, world)


def sum_over_ranks(figures: Figures, world: World) -> Figures:
    """The same as plain numbers, added up over the ranks, all of which have the same names."""
    return {name: (world.sum(float(value)), world.sum(count)) for name, (value, count) in figures.items()}


def seed_dropout(seed: int, device: str) -> None:
    """`torch.manual_seed` without the kinds of device that are absent, for each of which it keeps a traceback."""
    torch.default_generator.manual_seed(seed)
    if device != "cpu":
        getattr(torch, device).manual_seed(seed)


def update(model: GPT, optimizers: Optimizers, precision: Precision, grad_clip: float) -> float:
    """Clip the gradient to norm `grad_clip` and move the weights; return the norm before clipping.

    A norm that is not finite means that nothing was moved.
    """
    for member in optimizers.members:
        precision.scaler.unscale_(cast(torch.optim.Optimizer, member))  # which reads its param_groups alone
    norm = whole(clip_grad_norm_(model.parameters(), grad_clip or math.inf, foreach=True)).item()
    if math.isfinite(norm):
        optimizers.step()
    if precision.scaler.is_enabled():
        precision.scaler.update()
    optimizers.zero_grad()
    return norm
