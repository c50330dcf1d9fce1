"""Tokenizers as Transformers folders hold them: ours written for AutoTokenizer, theirs read where it is one of ours.

Beside Transformers' files stands our own `primegpt.json`, so that what was exported comes back as it was.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from primegpt.errors import ConfigError, TokenizerError, UsageError
from primegpt.interop.weight_files import inside, read_json
from primegpt.tokenizers import store
from primegpt.tokenizers.base import MAX_VOCAB, JsonTokenizer, Tokenizer
from primegpt.tokenizers.bpe import ByteLevelBPE, Merge, to_bytes

TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
GPT2_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
IMPORTED = "imported"  # the kind of special tokens whose folder does not say what they are for
MAX_MERGES_BYTES = 2**26
OTHERWISE = "name another with --tokenizer, or train your own model with primegpt"


# Out


def tokenizer_files(tokenizer: Tokenizer, block_size: int) -> dict[str, bytes]:
    """File name -> content of the tokenizer's part of a Transformers folder.

    Raises UsageError for a kind that Hugging Face's `tokenizers` cannot express.
    """
    if not isinstance(tokenizer, JsonTokenizer):
        what = f"tokenizers of the kind {tokenizer.kind!r} cannot be written as {TOKENIZER_JSON}"
        raise UsageError(what, "use char or bpe to export to Transformers")
    names = {
        "bos_token": tokenizer.bos_token or tokenizer.eot_token,
        "eos_token": tokenizer.eot_token,
        "pad_token": tokenizer.pad_token or tokenizer.eot_token,
        "unk_token": tokenizer.unk_token,
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,  # else "it 's" comes back as "it's"
        **{key: name for key, name in names.items() if name},
        "additional_special_tokens": [name for name in tokenizer.special_tokens if name not in names.values()],
    }
    content = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
    return {**store.files_of(tokenizer), TOKENIZER_CONFIG: content.encode("utf-8")}


# In


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a Transformers folder, if it is one of ours or byte-level BPE with GPT-2's split.

    Raises TokenizerError, saying which part of it we do not have.
    """
    if (folder / TOKENIZER_CONFIG).exists() and read_json(folder, TOKENIZER_CONFIG).get("auto_map"):
        raise UsageError(f"{folder / TOKENIZER_CONFIG} has auto_map: it asks for code of its own to be run", OTHERWISE)
    if (folder / store.META).exists():
        return store.load(folder)
    if (folder / TOKENIZER_JSON).exists():
        return _from_tokenizer_json(folder)
    for vocabulary, merges in GPT2_FILES:
        if (folder / vocabulary).exists() and (folder / merges).exists():
            return _from_gpt2_files(folder, vocabulary, merges)
    raise TokenizerError(f"{folder} has no tokenizer: no tokenizer.json, and no vocab.json with merges.txt", OTHERWISE)


def _from_gpt2_files(folder: Path, vocabulary: str, merges: str) -> ByteLevelBPE:
    ids = read_json(folder, vocabulary, store.MAX_BYTES)
    path = inside(folder, merges)
    if path.stat().st_size > MAX_MERGES_BYTES:
        raise TokenizerError(f"{path} is larger than {MAX_MERGES_BYTES >> 20} MB", "no list of merges is")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}", OTHERWISE) from error
    pairs = [line for line in lines if line and not line.startswith("#version")]
    return _byte_level(path, pairs, ids, [])


def _from_tokenizer_json(folder: Path) -> ByteLevelBPE:
    path, found = folder / TOKENIZER_JSON, read_json(folder, TOKENIZER_JSON, store.MAX_BYTES)
    model = found.get("model")
    if not isinstance(model, Mapping) or model.get("type") not in ("BPE", None) or "merges" not in model:
        kind = model.get("type") if isinstance(model, Mapping) else model
        raise TokenizerError(f"{path} holds a {kind} model, not byte-level BPE", OTHERWISE)
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "unk_token", "byte_fallback"):
        if model.get(key):
            raise TokenizerError(f"{path} sets {key}, which our byte-level BPE does not have", OTHERWISE)
    if found.get("normalizer"):
        raise TokenizerError(f"{path} changes the text before encoding it (normalizer)", OTHERWISE)
    split = found.get("pre_tokenizer")
    split = split if isinstance(split, Mapping) else {}
    if split.get("type") != "ByteLevel" or split.get("add_prefix_space") or not split.get("use_regex", True):
        raise TokenizerError(f"{path} does not split text as GPT-2 does (pre_tokenizer)", OTHERWISE)
    end = found.get("post_processor")
    if end and (not isinstance(end, Mapping) or end.get("type") != "ByteLevel"):
        raise TokenizerError(f"{path} adds tokens of its own to a text (post_processor)", OTHERWISE)
    added = found.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, Mapping) for token in added):
        raise TokenizerError(f"{path}: added_tokens is not a list of tokens", OTHERWISE)
    return _byte_level(path, model["merges"], model.get("vocab"), added)


def _byte_level(path: Path, merges: Any, vocabulary: Any, added: Iterable[Mapping[str, Any]]) -> ByteLevelBPE:
    """Our tokenizer of these merges, if it gives the ids of `vocabulary` and `added` and no others."""
    if not isinstance(merges, list) or not isinstance(vocabulary, Mapping) or len(vocabulary) > MAX_VOCAB:
        raise TokenizerError(f"{path} is damaged: its vocabulary or its merges are not what they should be", OTHERWISE)
    try:
        theirs: dict[str, int] = {**vocabulary, **{token["content"]: token["id"] for token in added}}
        pairs = [_merge(pair) for pair in merges]
        ordinary = 256 + len(pairs)
        specials = sorted((id, name) for name, id in theirs.items() if id >= ordinary)
        names = [name for _, name in specials if name not in ByteLevelBPE.system_tokens]
        tokenizer = ByteLevelBPE(pairs, {IMPORTED: names} if names else None)
    except (ConfigError, ValueError, KeyError, TypeError) as error:
        raise TokenizerError(f"{path} is not byte-level BPE as GPT-2 has it ({error})", OTHERWISE) from error
    ours = {**tokenizer._vocabulary, **tokenizer.special_tokens}
    if ours != theirs:
        name = next(iter(sorted(map(str, {key for key, _ in ours.items() ^ theirs.items()}))))
        what = f"{path} gives {name!r} the id {theirs.get(name)}, where GPT-2's order of ids gives {ours.get(name)}"
        raise TokenizerError(what, OTHERWISE)
    return tokenizer


def _merge(pair: Any) -> Merge:
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    return to_bytes(left), to_bytes(right)
