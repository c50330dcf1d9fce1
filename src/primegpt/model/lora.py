"""Low-rank adaptation: train two thin matrices beside each frozen one (Hu et al. 2021, arXiv:2106.09685).

    add_lora(model, LoRAConfig(rank=8))      # only the thin matrices learn now; the function is as it was
    ...                                 # train
    merge_lora(model)                   # the same function as a plain model again

A linear layer W becomes W + (alpha / rank) B A, with A (rank, in) random and B (out, rank) zero at the start.
attn.c_attn is query, key and value in one: they share A, and each has its rows of B.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from primegpt.config import LoRAConfig
from primegpt.errors import MismatchError
from primegpt.model.gpt import GPT, Linear
from primegpt.seeds import derive_seed


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank change beside it; it takes over the weight, name and memory included."""

    def __init__(self, base: nn.Linear, lora: LoRAConfig, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.dropout, self.training = lora.scale, lora.dropout, base.training
        a = torch.empty(lora.rank, self.in_features).uniform_(-1, 1, generator=generator) * self.in_features**-0.5
        self.lora_a = nn.Parameter(a.to(base.weight))  # (rank, in)
        self.lora_b = nn.Parameter(base.weight.new_zeros(self.out_features, lora.rank))  # (out, rank)

    def forward(self, input: Tensor) -> Tensor:
        thin = F.linear(F.dropout(input, self.dropout, self.training), self.lora_a)  # (..., rank)
        return super().forward(input) + self.scale * F.linear(thin, self.lora_b)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight of the one linear layer that computes the same, (out, in), fp32 inside."""
        change = self.scale * (self.lora_b.float() @ self.lora_a.float())
        return (self.weight.float() + change).to(self.weight.dtype)


def add_lora(model: GPT, lora: LoRAConfig, seed: int = 0) -> GPT:
    """Put adapters into `model`, in place, and freeze all else. The same seed gives the same A on every device.

    Load weights before, not after: the adapters count as weights of the model from now on. Parts of an extension get
    none.
    """
    assert not any(True for _ in adapters(model)), "the model has adapters already"
    generator = torch.Generator().manual_seed(derive_seed(seed, "lora"))
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        wanted = _target(name) in lora.targets and not model.config.own_kind(name)
        if wanted and isinstance(module, nn.Linear):
            _replace(model, name, LoRALinear(module, lora, generator))
    return model


def adapters(model: GPT) -> Iterator[tuple[str, LoRALinear]]:
    """The adapted layers by name (`h.0.attn.c_attn`), in order."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


@contextmanager
def without_adapters(model: GPT) -> Generator[GPT]:
    """The function that `model` had before it got adapters, inside: the frozen weights alone."""
    layers = [layer for _, layer in adapters(model)]
    scales = [layer.scale for layer in layers]
    try:
        for layer in layers:
            layer.scale = 0.0
        yield model
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scale = scale


def merged_weights(model: GPT) -> dict[str, Tensor]:
    """As `GPT.weights`, of the plain model that computes the same; `model` stays as it is."""
    weights = {name: weight for name, weight in model.weights().items() if not _is_adapter(name)}
    return weights | {f"{name}.weight": layer.merged() for name, layer in adapters(model)}


def adapter_weights(model: GPT) -> dict[str, Tensor]:
    """The adapters alone: `h.0.attn.c_attn.lora_a` and so on, detached; nothing for a plain model."""
    return {name: weight for name, weight in model.weights().items() if _is_adapter(name)}


@torch.no_grad()
def load_adapters(model: GPT, weights: Mapping[str, Tensor]) -> GPT:
    """Copy what `adapter_weights` returned into the adapters of `model`. Raises MismatchError for others."""
    own = adapter_weights(model)
    if {name: w.shape for name, w in own.items()} != {name: w.shape for name, w in weights.items()}:
        raise MismatchError("the saved adapters are not those of this model", "use the [lora] section they had")
    for name, tensor in own.items():
        tensor.copy_(weights[name])
    return model


def merge_lora(model: GPT) -> GPT:
    """Turn the adapters into ordinary weights, in place: a plain model again, every weight of it trainable."""
    for name, layer in list(adapters(model)):
        with torch.device("meta"):
            plain = Linear(layer.in_features, layer.out_features, layer.bias is not None)
        with torch.no_grad():
            layer.weight.copy_(layer.merged())
        plain.weight, plain.bias = layer.weight, layer.bias
        _replace(model, name, plain.train(layer.training))
    return model.requires_grad_(True)


def trainable_share(model: nn.Module) -> float:
    """Which part of the parameters learns, 0 to 1."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, learns in sizes if learns) / sum(size for size, _ in sizes)


def _is_adapter(name: str) -> bool:
    return name.endswith((".lora_a", ".lora_b"))


def _target(name: str) -> str:
    """`h.0.attn.c_attn` -> `attn.c_attn`."""
    return ".".join(name.split(".")[2:])


def _replace(model: GPT, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
