"""One optimizer step: the gradient of a whole batch, its norm clipped, then the update."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from primegpt.data.batches import Batch
from primegpt.model.gpt import GPT
from primegpt.seeds import derive_seed
from primegpt.training.optimizers import Optimizers
from primegpt.training.precision import Precision
from primegpt.training.sharded import whole
from primegpt.training.world import ALONE, World


def compute_gradients(
    model: GPT,
    micro_batches: Sequence[Batch],
    precision: Precision,
    seed: int,
    step: int,
    poll: Callable[[], None] = lambda: None,
    world: World = ALONE,
) -> tuple[Tensor, int]:
    """Add the gradient of one optimizer step's loss to `.grad`; return the summed loss and the supervised targets.

    loss = Σ cross-entropy over supervised targets / number of supervised targets, both over all micro-batches of all
    ranks: the count is known before the first backward pass, so that how the batch is split changes nothing but
    rounding. The loss that is returned is this rank's.
    """
    supervised = int(world.sum(sum(batch.supervised for batch in micro_batches)))
    total = torch.zeros((), device=precision.device)
    for batch in micro_batches:
        poll()
        world.expect_last(model, batch is micro_batches[-1])
        seed_dropout(derive_seed(seed, "dropout", step, batch.first_example), precision.device)
        batch = batch.to(precision.device)
        with precision.autocast():
            loss, _ = model(batch.ids, positions=batch.positions, segments=batch.segments, targets=batch.targets)
        if supervised:
            precision.backward(loss / supervised)
        total += loss.detach()
    return total, supervised


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
        precision.scaler.unscale_(member)
    norm = whole(clip_grad_norm_(model.parameters(), grad_clip or math.inf, foreach=True)).item()
    if math.isfinite(norm):
        optimizers.step()
    if precision.scaler.is_enabled():
        precision.scaler.update()
    optimizers.zero_grad()
    return norm


def is_out_of_memory(error: Exception) -> bool:
    """CUDA has an exception of its own for it; the CPU allocator says so in words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
