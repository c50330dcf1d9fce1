"""Two steps of a small model with the parts of an extension, before a run begins: what is wrong with them shows now.

What is asked of each part is what training, resuming and generation rely on; each failure is one line that names it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from primegpt.config import Config
from primegpt.config.sections import PART_OF
from primegpt.data.batching.batches import Batch
from primegpt.data.batching.pairs import as_pairs
from primegpt.extend import ExtensionError, ExtensionFailure, place_of, told
from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT
from primegpt.model.own import stream
from primegpt.training.objective import objective_for
from primegpt.training.optimizers import Optimizers
from primegpt.training.schedule import shape_of_extension

VOCABULARY, CONTEXT, ROWS = 64, 8, 2
# How far rounding may set apart what should be equal, as a share of the largest number; GPUs may multiply in TF32.
CLOSE, CLOSE_ON_GPUS = 1e-3, 1e-2


def try_parts(config: Config) -> None:
    """Raise ExtensionError where a part of an extension does not do in small what it will be asked for."""
    if not config.own:
        return
    model = small_model(config)
    ids = torch.randint(VOCABULARY, (ROWS, min(CONTEXT, model.config.block_size)), generator=torch.Generator())
    ids = ids.to(model.device)
    with told():
        if config.model.own:
            try_network(model, ids)
        try_steps(config, ids)
        if schedule := config.own.get("train.schedule"):
            try_schedule(schedule, config.model.extension)


def small_model(config: Config) -> GPT:
    """One block as wide as the real ones, without dropout. What starts at zero gets some value: zeros hide faults."""
    sizes = {"n_layer": 1, "vocab_size": VOCABULARY, "block_size": min(config.model.block_size, 64), "dropout": 0.0}
    model = GPT(config.model.model_copy(update=sizes), config.train.seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(0.0, 0.02, generator=generator)
    return model.to(config.train.device)


# ---- The network


@dataclass
class Seen:
    """What went through one part: (B, T, C) in, and out."""

    place: str
    x: Tensor
    y: Tensor


def own_parts(model: GPT) -> Iterator[tuple[str, nn.Module]]:
    """The parts of the extension, and how messages name each."""
    config = model.config
    for name, module in model.named_modules():
        kind = PART_OF.get(name.rpartition(".")[2])
        if kind in config.own and name.count(".") in (0, 2):
            yield place_of(kind, config.own[kind], config.extension), module


def watched(model: GPT, ids: Tensor, cache: KVCache | None = None) -> list[Seen]:
    """A forward pass, and what its own parts made of what they got; raises ExtensionError for a shape or NaN."""
    seen: list[Seen] = []

    def watch(place: str, x: Tensor, y: object) -> None:
        if not isinstance(y, Tensor) or y.shape != x.shape:
            shown = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ExtensionError(f"{place} gave {shown} for {list(x.shape)}", "give a tensor of the shape that came in")
        if not y.isfinite().all():
            raise ExtensionError(f"{place} gave NaN or infinite numbers", "look for a division or a logarithm of 0")
        seen.append(Seen(place, x, y))

    hooks = [
        part.register_forward_hook(lambda _, inputs, y, place=place: watch(place, inputs[0], y))
        for place, part in own_parts(model)
    ]
    try:
        with torch.no_grad():
            model.eval()(ids, cache=cache)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def try_network(model: GPT, ids: Tensor) -> None:
    """Shapes, finite numbers, no look at later tokens, and the same numbers a token at a time as all at once."""
    whole = watched(model, ids)
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % VOCABULARY
    for before, after in zip(whole, watched(model, other), strict=True):
        if alike(before.x[:, :-1], after.x[:, :-1]) and not alike(before.y[:, :-1], after.y[:, :-1]):
            raise ExtensionError(
                f"{before.place} sees later tokens: they change what comes of earlier ones",
                "a position may depend on those up to it alone",
            )
    cache = KVCache(model.config, ROWS, ids.size(1), device=model.device)
    watched(model, ids[:, :-1], cache)
    for all_at_once, alone in zip(whole, watched(model, ids[:, -1:], cache), strict=True):
        if alike(all_at_once.x[:, -1:], alone.x) and not alike(all_at_once.y[:, -1:], alone.y):
            raise ExtensionError(
                f"{all_at_once.place} gives other numbers for a token by itself than for the text at once",
                "in generation only `past` holds what came before",
            )


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    close = CLOSE if a.is_cpu else CLOSE_ON_GPUS
    return bool((a - b).abs().amax() <= close * max(1e-6, a.abs().amax().item()))


# ---- Training


def try_schedule(name: str, sha256: str) -> None:
    """A share of the peak rate wherever a run may stand."""
    try:
        for percent in range(101):
            shape_of_extension(name, percent / 100, sha256)
    except ExtensionFailure as failure:
        raise ExtensionError(failure.what, failure.remedy) from failure


def try_steps(config: Config, ids: Tensor) -> None:
    """Two steps, then the second one again from what a checkpoint keeps of the first: it has to be the same one."""
    targets = ids.roll(-1, dims=1)
    batch = as_pairs(Batch(ids, targets, None, None, 0), ids.flip(0), targets.flip(0))
    model = small_model(config)
    optimizers = Optimizers(model, config.train)
    step(config, model, optimizers, batch)
    weights = {name: weight.clone() for name, weight in model.weights().items()}
    state = {name: tensor.clone() for name, tensor in optimizers.state().items()}
    step(config, model, optimizers, batch)

    twin = small_model(config).load_weights(weights)
    resumed = Optimizers(twin, config.train)
    resumed.load_state(state)
    step(config, twin, resumed, batch)
    again = twin.weights()
    if not all(torch.equal(weight, again[name]) for name, weight in model.weights().items()):
        raise ExtensionError(
            f"{places(config)}: a step after a resume is not the one that would have been made",
            "all that changes has to be a parameter, or a tensor in the optimizer's self.state[parameter]",
        )


def step(config: Config, model: GPT, optimizers: Optimizers, batch: Batch) -> None:
    """One optimizer step, each of its numbers looked at."""
    objective = objective_for(config)
    with torch.inference_mode():
        objective(model.eval(), batch)  # as evaluations ask it
    with stream(0):
        loss, _, _ = objective(model.train(), batch)
    if not math.isfinite(loss.item()):
        raise ExtensionError(f"{places(config, 'train.objective')} gave a loss of {loss.item()}", "look for a log of 0")
    (loss / objective.count(batch)).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            what = f"{places(config)}: the gradient of {name} is NaN or infinite"
            raise ExtensionError(what, "look for a root or a division at 0, whose slope has no end")
    optimizers.set_learning_rate(1.0)
    optimizers.step()
    optimizers.zero_grad()
    for name, weight in model.weights().items():
        if not weight.isfinite().all():
            what = f"{places(config, 'train.optimizer')} made {name} NaN or infinite"
            raise ExtensionError(what, "look for a division by 0: a moment may be 0")


def places(config: Config, key: str = "") -> str:
    """The part that was chosen under `key`, or all that could be at fault where it is not one."""
    own = {key: config.own[key]} if key in config.own else config.own
    extension = config.model.extension
    kinds = [f"{name.partition('.')[2]} {part!r}" for name, part in own.items()]
    first, *_ = [place_of(name.partition(".")[2], part, extension) for name, part in own.items()]
    return ", ".join([first, *kinds[1:]])
