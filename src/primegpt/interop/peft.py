"""LoRA adapters in PEFT's files, to be put onto the exported base model.

model = AutoModelForCausalLM.from_pretrained(EXPORTED)
model = PeftModel.from_pretrained(model, ADAPTER)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primegpt.config import LoRAConfig, ModelConfig
from primegpt.interop.families import HUGGINGFACE, exchange_halves, family_of, linears
from primegpt.run import atomic
from primegpt.run.tensors import serialize

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write_adapter(
    folder: Path,
    config: ModelConfig,
    lora: LoRAConfig,
    layers: "Mapping[str, tuple[Tensor, Tensor]]",
    *,
    base: str = "",
    owner: str = "this model",
) -> None:
    """Write an adapter into `folder`: `layers` maps a layer (`h.0.attn.c_attn`) to its A (rank, in) and B (out, rank).

    `base` is the name of the model that it belongs to, for readers. Where Transformers keeps query, key and value
    apart, each gets the common A and its own rows of B: the same change exactly. Raises UsageError if the model (named
    `owner` in messages) cannot be exported.
    """
    family = family_of(config, owner)
    layout, tensors, targets = HUGGINGFACE[family.name], {}, set()
    for name, (a, b) in layers.items():
        _, layer, module = name.split(".", 2)
        theirs, (rows, _) = layout.modules[module], linears(config)[module]
        pieces = b.detach().split(rows if len(theirs) > 1 else len(b))
        for their_name, piece in zip(theirs, pieces, strict=True):
            full = f"base_model.model.{layout.block.format(layer)}{their_name}"
            tensors[f"{full}.lora_A.weight"] = a.detach().clone()  # a file holds each tensor for itself
            swapped = their_name in layout.swapped
            tensors[f"{full}.lora_B.weight"] = exchange_halves(piece, config.head_size) if swapped else piece.clone()
            targets.add(their_name)
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(targets),
        "fan_in_fan_out": layout.transposed,
        "bias": "none",
    }
    with atomic.io_errors(f"write {folder}"):
        atomic.make_folder(folder)
    # The weights last: with them the adapter is complete.
    atomic.write_bytes_atomic(folder / CONFIG, atomic.canonical_json(settings))
    atomic.write_bytes_atomic(folder / WEIGHTS, b"".join(serialize(tensors)))
