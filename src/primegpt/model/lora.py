"""Low-rank adaptation: train two thin matrices beside each frozen one (Hu et al. 2021, arXiv:2106.09685).

    add_lora(model, LoRA(rank=8))       # only the thin matrices learn now; the function is as it was
    ...                                 # train
    merge_lora(model)                   # the same function as a plain model again

A linear layer W becomes W + (alpha / rank) B A, with A (rank, in) random and B (out, rank) zero at the start.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from primegpt.errors import ConfigError, nearest
from primegpt.model.gpt import GPT
from primegpt.seeds import derive_seed

# The linear layers of a block. attn.c_attn is query, key and value in one: they share A, and each has its rows of B.
TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_gate", "mlp.c_proj")


@dataclass(frozen=True)
class LoRA:
    """What is adapted, and how much can change.

    Attributes:
        rank: rank of each change.
        alpha: the change is scaled by alpha / rank, so that a learning rate fits every rank.
        dropout: dropout probability of what goes into A.
        targets: linear layers that are adapted; those that a model does not have (mlp.c_gate in GPT-2) are passed over.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        """Raises ConfigError for a value that makes no sense."""
        if self.rank < 1:
            raise ConfigError(f"LoRA rank = {self.rank}", "use 1 or more")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"LoRA dropout = {self.dropout}", "use a probability below 1")
        for target in self.targets:
            if target not in TARGETS:
                raise ConfigError(f"LoRA target {target!r} is no linear layer of a block", nearest(target, TARGETS))
        if not self.targets:
            raise ConfigError("LoRA has no targets", f"name some of {', '.join(TARGETS)}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank change beside it; it takes over the weight, name and memory included."""

    def __init__(self, base: nn.Linear, lora: LoRA, generator: torch.Generator) -> None:
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


def add_lora(model: GPT, lora: LoRA, seed: int = 0) -> GPT:
    """Put adapters into `model`, in place, and freeze all else. The same seed gives the same A on every device.

    Load weights before, not after: the adapters count as weights of the model from now on.
    """
    assert not any(True for _ in adapters(model)), "the model has adapters already"
    generator = torch.Generator().manual_seed(derive_seed(seed, "lora"))
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and _target(name) in lora.targets:
            _replace(model, name, LoRALinear(module, lora, generator))
    return model


def adapters(model: GPT) -> Iterator[tuple[str, LoRALinear]]:
    """The adapted layers by name (`h.0.attn.c_attn`), in order."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def merged_weights(model: GPT) -> dict[str, Tensor]:
    """As `GPT.weights`, of the plain model that computes the same; `model` stays as it is."""
    weights = {name: w for name, w in model.weights().items() if not name.endswith((".lora_a", ".lora_b"))}
    return weights | {f"{name}.weight": layer.merged() for name, layer in adapters(model)}


def merge_lora(model: GPT) -> GPT:
    """Turn the adapters into ordinary weights, in place: a plain model again, every weight of it trainable."""
    for name, layer in list(adapters(model)):
        with torch.device("meta"):
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        with torch.no_grad():
            layer.weight.copy_(layer.merged())
        plain.weight, plain.bias = layer.weight, layer.bias
        _replace(model, name, plain.train(layer.training))
    return model.requires_grad_(True)


def trainable_share(model: nn.Module) -> float:
    """Which part of the parameters learns, 0 to 1."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, learns in sizes if learns) / sum(size for size, _ in sizes)


def _target(name: str) -> str:
    """`h.0.attn.c_attn` -> `attn.c_attn`."""
    return ".".join(name.split(".")[2:])


def _replace(model: GPT, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
