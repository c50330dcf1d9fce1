"""Steps of one token as compiled code: each matrix is then read once, at the pace of the memory.

The compiler turns a sum of products into a loop over the rows of a matrix, which reads memory faster than the
libraries' products with one row do, and merges what stands between two matrices. Longer passes (the prompt) run as
they were written. Compiling takes seconds, and needs a C++ compiler on the machine.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT
from primegpt.model.quantize import Precision, SummedLinear, for_decoding

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


def compiled_for_decoding(model: GPT, precision: Precision, say: Callable[[str], None]) -> GPT:
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
    if model.wte.weight.device.type != "cpu":
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
