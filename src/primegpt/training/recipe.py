"""The zero-config layer: what to train on a text of some size, in some time, on some machine.

Fitted to measured runs: docs/experiments.md, "From the budget to the network".
"""

from typing import Any

DEFAULT_MINUTES = 3.0
RECORD = 256  # tokens that a record with an answer may need


def recipe(
    text_bytes: int | None, device: str, minutes: float | None, preset: str = "prime", *, records: bool = False
) -> dict[str, Any]:
    """The zero-config layer: what to train on `text_bytes` of text in `minutes` on `device`, nothing else known.

    Records with an answer have to fit into a context, so they get a longer one and longer pieces of text.

    Small text: characters, since a few MB hold too few examples of each longer piece. The network grows with the
    time there is, not with the text: on a CPU, minutes are what is scarce. Measured in docs/experiments.md.
    """
    size = _network(device, minutes or DEFAULT_MINUTES)
    if records and (short := RECORD // size["model"]["block_size"]) > 1:
        size["model"]["block_size"] = RECORD
        size["train"]["batch_size"] //= short
    return {
        "model": {"preset": preset, **size["model"]},
        "tokenizer": {"kind": "bpe", "vocab_size": 2048} if records else tokenizer_for(text_bytes),
        "train": size["train"],
    }


def tokenizer_for(text_bytes: int | None) -> dict[str, Any]:
    """The tokenizer of the zero-config layer. The size of a stream is not known; it is taken to be small."""
    text_bytes = text_bytes or 1_000_000
    if text_bytes < 3_000_000:
        return {"kind": "char"}
    vocab_size = 2048 if text_bytes < 20_000_000 else 8192 if text_bytes < 500_000_000 else 16384
    return {"kind": "bpe", "vocab_size": vocab_size}


def _network(device: str, minutes: float) -> dict[str, dict[str, Any]]:
    """Width, depth, context and batch by the compute there is."""
    if device == "cuda":
        return {
            "model": {"n_layer": 12, "n_head": 6, "n_embd": 768, "block_size": 512},
            "train": {"batch_size": 64},
        }
    if minutes < 1:
        return {
            "model": {"n_layer": 4, "n_head": 2, "n_embd": 128, "block_size": 64},
            "train": {"batch_size": 32},
        }
    if minutes < 8:
        return {
            "model": {"n_layer": 4, "n_head": 3, "n_embd": 192, "block_size": 128},
            "train": {"batch_size": 16},
        }
    return {
        "model": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256},
        "train": {"batch_size": 16},
    }
