"""Weights for decoding: in fp32, bf16, int8 or int4, laid out so that a product with one row reads them fastest.

Writing one token reads every weight once and does next to nothing with it, so the time is that of reading memory:
half the bytes, half the time. The libraries' ordinary products with a single row use about a quarter of what a CPU
can read; those below were the fastest that need no compiler (docs/experiments.md).

The compiler, where there is one, turns a sum of products into a loop over the rows of a matrix, which reads memory
faster still, and merges what stands between two matrices. Longer passes (the prompt) run as they were written.
Compiling takes seconds.

    fast = for_decoding(model, "int8")      # a GPT like any other; `model` stays as it is
"""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from primegpt.errors import ConfigError
from primegpt.hugepages import use_huge_pages
from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT
from primegpt.terminal import Say

Precision = Literal["fp32", "bf16", "int8", "int4"]


@torch.no_grad()
def for_decoding(model: GPT, precision: Precision = "fp32", *, summed: bool = False) -> GPT:
    """A copy of `model` for inference, on its device. Weights that stay as they are share their storage.

    int8 and int4 keep embeddings and norms in fp32 and quantise the matrices (int4: those that it fits; int8 the
    others). `summed` lays the weights out for compiled steps. Raises ConfigError for
    int8 or int4 elsewhere than on a CPU.
    """
    on_cpu = model.device.type == "cpu"
    if precision in ("int8", "int4") and not on_cpu:
        raise ConfigError(f"generate.precision = {precision!r} works on CPUs alone", "use bf16")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    shared: dict[int, object] = {
        id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters()
    }
    shared[id(model.rotary)] = model.rotary
    twin: GPT = copy.deepcopy(model, shared).eval()
    if not on_cpu:
        return twin  # there the ordinary product reads memory as fast as it goes
    layer = _layer_for(precision, summed)
    if twin.lm_head is None:
        twin.lm_head = layer(twin.wte.weight, None)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, layer(child.weight, child.bias))
    held = {p.data_ptr() for p in model.parameters()}
    use_huge_pages(p for p in twin.parameters() if p.data_ptr() not in held)
    return twin


def _layer_for(precision: Precision, summed: bool) -> Callable[[Tensor, Tensor | None], nn.Module]:
    """What makes a layer of a matrix and its bias."""
    if precision == "int4":
        eight = _layer_for("int8", summed)
        return lambda weight, bias: (Int4Linear if Int4Linear.fits(weight) else eight)(weight, bias)
    if summed:
        return partial(SummedLinear, int8=precision == "int8")
    return Int8Linear if precision == "int8" else PackedLinear


class PackedLinear(nn.Module):
    """fp32 or bf16 in oneDNN's own layout, made once instead of for every product: a second copy of the weights.

    Plain where this torch has no oneDNN, and for matrices so small that calling it takes longer than the product.
    """

    WORTH = 1 << 16  # weights

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias, self.plain, self.packed = bias, weight, None  # one of the two
        if weight.numel() < self.WORTH:
            return
        try:  # private operators of torch, hence with a way back
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows_of_layout(weight.dtype))
            self.plain = None
            self(weight.new_zeros(1, weight.size(1)))
        except (RuntimeError, AttributeError, NotImplementedError):
            self.plain, self.packed = weight, None

    def forward(self, x: Tensor) -> Tensor:
        if self.plain is not None:
            return F.linear(x, self.plain, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def rows_of_layout(dtype: torch.dtype) -> int:
    """How many rows a matrix is laid out for; it multiplies any number.

    For one, which reads memory fastest. With AMX, whose registers are tiles, the layout for many serves one as well.
    """
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)  # private to torch
    return 128 if dtype == torch.bfloat16 and has_amx() else 1


class SummedLinear(nn.Module):
    """fp32, bf16 or int8 weights. One row times them is written as the sums that it is; not compiled it is slow.

    int8 is that of `Int8Linear`, which several rows go through. Otherwise activations stay in fp32, or in bf16 beside
    bf16 weights; sums are in fp32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, int8: bool = False) -> None:
        super().__init__()
        self.bias, self.scale, self.digits = bias, None, False
        self.several: PackedLinear | Int8Linear | None = None  # what multiplies several rows, once that was made
        if int8:
            weight, self.scale = rounded = in_bytes(weight.detach())
            self.several = Int8Linear(weight, bias, rounded)
            self.digits = self.several.packed is not None  # else activations stay as they are there, too
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == x.size(-1):
            # As a strided view `x` is computed once, and not anew for every row of the matrix.
            row = (in_14_bits(x.float()) if self.digits else x.float()).reshape(-1)
            row = row.as_strided((x.size(-1),), (1,))
            y = (self.weight.float() * row).sum(dim=-1)  # (N,)
            y = y if self.scale is None else y * self.scale
            return (y if self.bias is None else y + self.bias).to(x.dtype).view(*x.shape[:-1], -1)
        return F.linear(x, self.weight, self.bias) if self.several is None else self.several(x)

    def pack(self) -> None:
        """Make ready for a row of each of several texts: a second layout of the weights."""
        if self.several is None:
            self.several = PackedLinear(self.weight, self.bias)


class Int8Linear(nn.Module):
    """int8 weights with a scale for each output; activations in 14 bits, as two digits of which FBGEMM takes each.

    An activation is (coarse + fine / 128) times the largest of its row / 64, both whole numbers from -64 to 64. So
    each row of the input is two rows of whole numbers, one product serves them, and its sums are exact: a row has the
    same bits alone and among others. What 14 bits leave out is a fiftieth of what 8 bits leave out of the weights.
    With eight bits a digit, processors without VNNI would overflow.
    """

    AT_ONCE = 128  # rows whose digits stay in the cache
    INPUTS = (2**31 - 1) // (128 * 127)  # as many products fit into a sum of 32 bits

    def __init__(self, weight: Tensor, bias: Tensor | None, rounded: tuple[Tensor, Tensor] | None = None) -> None:
        """`rounded` is the weight in bytes, where that was made already."""
        super().__init__()
        self.bias, self.plain, self.packed = bias, None, None  # one of the two
        self.bases = torch.tensor([64.0, 8192.0]).view(2, 1, 1)
        levels, self.scale = rounded or in_bytes(weight.detach())
        try:  # private operators of torch, for x86 alone, hence with a way back
            self.packed = packed_bytes(levels, self.scale / 64)
            self(torch.zeros(1, weight.size(1)))
        except (RuntimeError, AttributeError, NotImplementedError):
            self.plain, self.packed = levels, None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.size(-1)).float()
        pieces = [self.product(piece) for piece in rows.split(self.AT_ONCE)]
        y = (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    def product(self, x: Tensor) -> Tensor:
        """x (M, K) times the weights, (M, N), in fp32."""
        if self.plain is not None:
            return torch._weight_int8pack_mm(x, self.plain, self.scale)
        size = largest(x)
        digits = (x / size).mul(self.bases).round_()  # (2, M, K)
        coarse, fine = digits.unbind()
        fine.sub_(coarse, alpha=128)
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        high, low = multiply(digits.view(-1, x.size(-1)), 1.0, 64, self.packed).view(2, len(x), -1).unbind()
        return torch.add(high, low, alpha=1 / 128).mul_(size)


def in_bytes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(levels, scale): a weight (N, K) is level * scale, with levels from -127 to 127 and a scale for each output."""
    scale = weight.float().abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127  # (N,)
    return (weight / scale.unsqueeze(1)).round_().to(torch.int8), scale


def packed_bytes(levels: Tensor, scale: Tensor) -> Any:
    """The weights in FBGEMM's own layout, a byte each. Raises RuntimeError where this torch or processor has none."""
    if levels.size(1) > Int8Linear.INPUTS:
        raise RuntimeError("sums of so many products do not fit into 32 bits")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch means to remove such tensors one day
        zeros = torch.zeros(len(levels), dtype=torch.long)
        weight = torch._make_per_channel_quantized_tensor(levels, scale.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(weight, None)


def largest(x: Tensor) -> Tensor:
    """The largest magnitude of each row, (..., 1)."""
    return x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-30)


def in_14_bits(x: Tensor) -> Tensor:
    """The numbers that the digits of `Int8Linear` say, in fp32."""
    size = largest(x)
    return (x / size).mul(8192.0).round().mul(size / 8192.0)


class Int4Linear(nn.Module):
    """int4 weights, with a scale and an offset in bf16 for every 32 weights of an output; activations in bf16.

    The product is torch's own (`tinygemm`), which sums in fp32, each row by itself and in one order: a text is the same
    bit for bit beside others and alone, read at once and a token at a time. Of its kernels only that for activations in
    bf16 is fast. Many rows go through it too: it computes as much in a second as products in fp32 do.
    """

    GROUP = 32  # weights that share a scale: of 32, 64, 128 and 256 the finest that there is
    OUTPUTS = 16  # the kernel wants a multiple

    @classmethod
    def fits(cls, weight: Tensor) -> bool:
        return weight.size(1) % cls.GROUP == 0 and weight.size(0) % cls.OUTPUTS == 0

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias = bias
        at_once = (
            max(1, (1 << 18) // weight.size(1) // 64) * 64
        )  # outputs; the kernel's blocks are of 64 of them or less
        parts = [in_groups(rows, self.GROUP) for rows in weight.detach().float().split(at_once)]
        pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        self.weight = torch.cat([pack(levels, 2) for levels, _ in parts])
        self.scales = torch.cat([scales for _, scales in parts], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.size(-1)).bfloat16()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, self.GROUP, self.scales)
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def in_groups(weight: Tensor, group: int, rounds: int = 3) -> tuple[Tensor, Tensor]:
    """(levels, scales): a weight is (level - 8) * scale + offset, with 16 levels.

    `levels` are int32, (N, K); `scales` bf16, (K / group, N, 2), scale and offset. At first the levels reach from the
    least weight of a group to the greatest. Then scale and offset become those of the straight line through (level,
    weight) with the least squares, and each weight takes the nearest level anew (Lloyd 1982, with levels that stay
    evenly spaced); a round cannot increase the squared error, three take off a seventh of it.
    """
    N, K = weight.shape
    weight = weight.view(N, K // group, group)
    least, greatest = weight.aminmax(dim=-1, keepdim=True)
    scale = (greatest - least) / 15
    offset, mean = least + 8 * scale, weight.mean(dim=-1, keepdim=True)
    for _ in range(rounds):
        levels = _nearest(weight, scale, offset).sub_(8)
        middle = levels.mean(dim=-1, keepdim=True)
        spread = levels.square().sum(dim=-1, keepdim=True) - group * middle.square()
        along = (levels * weight).sum(dim=-1, keepdim=True) - group * middle * mean
        scale = along / spread.clamp(min=0.5)  # at least 31 / 32, or 0 where all weights of the group are equal
        offset = mean - scale * middle
    scale, offset = scale.bfloat16(), offset.bfloat16()
    levels = _nearest(weight, scale.float(), offset.float()).int().view(N, K)
    return levels, torch.cat([scale, offset], dim=-1).transpose(0, 1).contiguous()


def _nearest(weight: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """The level of each weight."""
    inverse = 1 / scale.clamp(min=torch.finfo(torch.float32).tiny)
    return (weight - offset).mul_(inverse).add_(8).round_().clamp_(0, 15)


# Blocks of all models share the code that is counted; releases of torch before the argument allow 8 graphs in all.
LIMIT: Any = {"recompile_limit": 64} if "recompile_limit" in signature(torch.compile).parameters else {}


class CompiledStep(nn.Module):
    """A module whose passes of one token of one text, (1, 1, C), are compiled when they are first made.

    Steps of several texts run as they were written, with the products that are fastest for a few rows at once: the
    compiler knows nothing of oneDNN's packed layout.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.single = module, True
        self.step = torch.compile(module.forward, fullgraph=True, dynamic=True, **LIMIT)

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        if x.shape[:2] == (1, 1):
            return self.step(x, *rest)
        if x.size(1) == 1 and self.single:
            self.single = False
            for module in self.modules():
                if isinstance(module, SummedLinear):
                    module.pack()
        return self.module(x, *rest)


def compiled_for_decoding(model: GPT, precision: Precision, say: Say) -> GPT:
    """`for_decoding` with compiled steps; without, and a line to `say`, where they cannot be had."""
    twin = for_decoding(model, precision, summed=True).use_attention("sums")
    twin.h = nn.ModuleList(CompiledStep(block) for block in twin.h)  # they share one graph
    twin.lm_head = CompiledStep(twin.lm_head) if twin.lm_head else None
    if reason := why_not_compiled(twin):
        say(f"not compiled: {reason}")
        return for_decoding(model, precision)
    return twin


def why_not_compiled(model: GPT) -> str | None:
    """Why compiled steps cannot run here, in one line; None if they can. Takes as long as compiling does."""
    if model.device.type != "cpu":
        return "compiled steps are for CPUs"
    try:
        cache = KVCache(model.config, 1, 37, model.wte.weight.dtype)
        prompt = min(22, model.config.block_size - 2)  # lengths that are no size of the model, or taken for one
        with torch.inference_mode():
            for length in (prompt, 1, 1):
                model(torch.zeros(1, length, dtype=torch.long), cache=cache)
    except Exception as error:  # whatever a compiler, or the lack of one, may raise
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return None
