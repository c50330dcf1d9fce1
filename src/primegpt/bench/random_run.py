"""A run with random weights and a made-up vocabulary: for measurements, what a model has learnt does not matter."""

from collections.abc import Mapping
from pathlib import Path

from primegpt.config import Config, resolve, write_toml
from primegpt.errors import UsageError
from primegpt.model.gpt import GPT
from primegpt.run.folder import RunFolder
from primegpt.run.saving import save_checkpoint
from primegpt.tokenizers import store
from primegpt.tokenizers.bpe import LETTERS, ByteLevelBPE

GPT2_124M = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50_257}


def made_up_tokenizer(vocab_size: int) -> ByteLevelBPE:
    """Byte-level BPE whose pieces are the bytes and as many pairs of bytes as it takes, in no order that means much.

    Of all kinds it is the one that exports everywhere, and it needs no text and no file.
    """
    count = vocab_size - len(LETTERS) - len(ByteLevelBPE.system_tokens)
    if not 0 <= count <= len(LETTERS) ** 2:
        raise UsageError(f"vocab_size = {vocab_size} cannot be made up", "take one from 257 to 65,793")
    pairs = ((bytes([left]), bytes([right])) for left in LETTERS for right in LETTERS)
    return ByteLevelBPE([pair for pair, _ in zip(pairs, range(count), strict=False)])


def save_random_run(path: Path, sizes: Mapping[str, int] | None = None) -> Path:
    """A run of a model as it is before training, GPT-2's 124M unless `sizes` say otherwise; weights only."""
    given = {**GPT2_124M, **(sizes or {})}
    tokenizer = made_up_tokenizer(given["vocab_size"])
    config: Config = resolve({"model": {"preset": "gpt2", **given}, "tokenizer": {"kind": tokenizer.kind}})
    folder = RunFolder.create(path)
    store.save(tokenizer, folder.tokenizer_dir)
    state = {"fingerprints": {"tokenizer": tokenizer.fingerprint}}
    save_checkpoint(folder.checkpoints_dir, 0, {"model": GPT(config.model).weights()}, state, resumable=False)
    folder.point("best", 0)
    folder.config_path.write_text(write_toml(config), encoding="utf-8")
    return folder.path
