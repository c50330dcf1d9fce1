"""Weights for decoding: in fp32, bf16 or int8, laid out so that a product with one row reads them fastest.

Writing one token reads every weight once and does next to nothing with it, so the time is that of reading memory:
half the bytes, half the time. The libraries' ordinary products with a single row use about a quarter of what a CPU
can read; those below were the fastest on one machine, and fp32's is not on another (docs/experiments.md).

    fast = for_decoding(model, "int8")      # a GPT like any other; `model` stays as it is
"""

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from primegpt.errors import ConfigError
from primegpt.model.gpt import GPT

Precision = Literal["fp32", "bf16", "int8"]


@torch.no_grad()
def for_decoding(model: GPT, precision: Precision = "fp32") -> GPT:
    """A copy of `model` for inference, on its device. Weights that stay as they are share their storage.

    int8 keeps embeddings and norms in fp32 and quantises the matrices; activations are never quantised. Raises
    ConfigError for int8 elsewhere than on a CPU.
    """
    on_cpu = model.wte.weight.device.type == "cpu"
    if precision == "int8" and not on_cpu:
        raise ConfigError("generate.precision = 'int8' works on CPUs alone", "use bf16")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    shared = {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters()}
    twin: GPT = copy.deepcopy(model, shared).eval()
    layer = {"fp32": SplitLinear, "bf16": PackedLinear, "int8": Int8Linear}[precision]
    if not on_cpu:
        return twin  # there the ordinary product reads memory as fast as it goes
    if twin.lm_head is None:
        twin.lm_head = layer(twin.wte.weight, None)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, layer(child.weight, child.bias))
    return twin


class SplitLinear(nn.Module):
    """fp32. The library multiplies a matrix by one row on one core; a batch of parts of it is shared by all."""

    WORTH = 1 << 16  # weights below which handing work over takes longer than the work

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        parts = torch.get_num_threads()
        even = parts > 1 and weight.numel() >= self.WORTH and weight.size(0) % parts == 0
        self.parts = weight.view(parts, -1, weight.size(1)) if even else None  # (P, N / P, K)

    def forward(self, x: Tensor) -> Tensor:
        if self.parts is None or x.numel() != x.size(-1):
            return F.linear(x, self.weight, self.bias)
        row = x.reshape(1, -1, 1).expand(len(self.parts), -1, -1)  # (P, K, 1)
        y = torch.bmm(self.parts, row).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


class PackedLinear(nn.Module):
    """bf16. oneDNN's own layout, made once instead of for every product; plain where this torch has no oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias, self.plain, self.packed = bias, weight, None  # one of the two
        try:  # private operators of torch, hence with a way back
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 4)  # for few rows
            self.plain = None
            self(weight.new_zeros(1, weight.size(1)))
        except (RuntimeError, AttributeError, NotImplementedError):
            self.plain, self.packed = weight, None

    def forward(self, x: Tensor) -> Tensor:
        if self.plain is not None:
            return F.linear(x, self.plain, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class Int8Linear(nn.Module):
    """int8 weights, with a scale and an offset for some outputs of one input channel; activations as they are.

    The product of one row with a matrix is a weighted sum of the matrix's rows, which is what an embedding bag
    computes; torch's quantised bag reads 8-bit rows and sums in fp32.
    """

    CHUNKS = 16  # the outputs are cut into so many bags, which the cores share
    FEW = 32  # rows above which the weights are worth turning into a matrix again

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        (N, K), self.bias = weight.shape, bias
        chunks = next(c for c in range(self.CHUNKS, 0, -1) if N % c == 0)
        rows = weight.float().view(chunks, N // chunks, K).transpose(1, 2).reshape(chunks * K, N // chunks)
        self.weight = torch.ops.quantized.embedding_bag_byte_prepack(rows)
        self.indices, self.starts = torch.arange(chunks * K), torch.arange(chunks) * K
        self.shape = chunks, K, N

    def forward(self, x: Tensor) -> Tensor:
        chunks, K, N = self.shape
        rows = x.reshape(-1, K)
        if len(rows) > self.FEW:
            return F.linear(x, self.dense().to(x.dtype), self.bias)
        bag = torch.ops.quantized.embedding_bag_byte_rowwise_offsets
        sums = [bag(self.weight, self.indices, self.starts, per_sample_weights=row.repeat(chunks)) for row in rows]
        y = torch.stack(sums).view(*x.shape[:-1], N)
        return y if self.bias is None else y + self.bias

    def dense(self) -> Tensor:
        """The weights as an ordinary matrix, (N, K) in fp32."""
        chunks, K, N = self.shape
        rows = torch.ops.quantized.embedding_bag_byte_unpack(self.weight)  # (chunks * K, N / chunks)
        return rows.view(chunks, K, N // chunks).transpose(1, 2).reshape(N, K)
