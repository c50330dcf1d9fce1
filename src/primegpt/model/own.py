"""Parts of the network that are of an extension: made, checked, and drawn from a stream of their own."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from primegpt.config import ModelConfig
from primegpt.extend import ExtensionError, find, place_of, told
from primegpt.seeds import derive_seed


def made(kind: str, config: ModelConfig, ours: Callable[[ModelConfig], nn.Module] | None = None) -> nn.Module:
    """The part of that kind: `ours`, or that of the extension if the configuration names one."""
    if kind not in config.own and ours:
        return ours(config)
    name, place = config.own[kind], place_of(kind, config.own[kind], config.extension)
    with told(place=place):
        part = find(kind, name, config.extension)(config)
    if not isinstance(part, nn.Module):
        raise ExtensionError(f"{place} made a {type(part).__name__}", "give a torch.nn.Module")
    learnt = dict(part.named_parameters())
    if any(map(is_lazy, learnt.values())):
        raise ExtensionError(f"{place} has parameters without a size", "config.n_embd and others tell the sizes")
    for buffer in part.state_dict().keys() - learnt.keys():
        what = f"{place} has the buffer {buffer!r}, and checkpoints keep parameters alone"
        raise ExtensionError(what, "make it a parameter, or register a constant with persistent=False")
    return part


def numbers(config: ModelConfig) -> dict[str, int]:
    """How many numbers one part of each kind learns, of those that are of an extension."""
    parts = {kind: made(kind, config) for kind in config.own}
    return {kind: sum(p.numel() for p in part.parameters()) for kind, part in parts.items()}


@contextmanager
def stream(seed: int) -> Generator[None, None, None]:
    """What is drawn inside is of the seed alone, and shifts nothing that is drawn elsewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "init", "extension"))
        yield
