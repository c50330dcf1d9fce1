"""primegpt: train your own GPT from scratch on your own text, understand why it works, and ship it.

run = primegpt.train("my.txt", minutes=2)
print(run.generate("Once upon a time"))
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Where each public name lives. They are imported on first use, so that `import primegpt` does not import torch.
_HOMES = {
    "train": "primegpt.api",
    "finetune": "primegpt.api",
    "reinforce": "primegpt.api",
    "resume": "primegpt.api",
    "load": "primegpt.api",
    "runs": "primegpt.jobs.listing",
    "Run": "primegpt.api",
    "GPT": "primegpt.model.gpt",
    "ModelConfig": "primegpt.config",
    "Config": "primegpt.config",
}
__all__ = [
    "GPT",
    "Config",
    "ModelConfig",
    "Run",
    "extend",
    "finetune",
    "load",
    "reinforce",
    "resume",
    "runs",
    "tokenizers",
    "train",
]
_MODULES = ("extend", "tokenizers")

if TYPE_CHECKING:
    from primegpt import extend, tokenizers
    from primegpt.api import Run, finetune, load, reinforce, resume, train
    from primegpt.config import Config, ModelConfig
    from primegpt.jobs.listing import runs
    from primegpt.model.gpt import GPT


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"primegpt.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'primegpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
