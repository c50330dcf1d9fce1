"""Text to token ids and back: `load` a saved tokenizer, `train` a new one, both of them a `Tokenizer`."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from primegpt.tokenizers.base import Tokenizer
    from primegpt.tokenizers.store import load, save, train

__all__ = ["Tokenizer", "load", "save", "train"]

_HOME = {"Tokenizer": "base", "load": "store", "save": "store", "train": "store"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import primegpt` stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
