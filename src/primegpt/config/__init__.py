"""A run's configuration: its sections, and the layers that it is made of."""

from primegpt.config.layers import Config, Layer, explain, preset_name, read_saved, read_toml, resolve, write_toml
from primegpt.config.sections import (
    BUDGETS,
    LEARNT,
    LORA_TARGETS,
    DataConfig,
    GenerateConfig,
    LoRAConfig,
    ModelConfig,
    Section,
    TokenizerConfig,
    TrainConfig,
)

__all__ = [
    "BUDGETS",
    "LEARNT",
    "LORA_TARGETS",
    "Config",
    "DataConfig",
    "GenerateConfig",
    "Layer",
    "LoRAConfig",
    "ModelConfig",
    "Section",
    "TokenizerConfig",
    "TrainConfig",
    "explain",
    "preset_name",
    "read_saved",
    "read_toml",
    "resolve",
    "write_toml",
]
