"""The vocabulary in a GGUF file, as the files that Transformers has for the same tokenizer.

Byte-level BPE and Gemma's become a tokenizer.json, whose split is the one that `tokenizer.ggml.pre` names; Llama's
SentencePiece becomes a tokenizer.model. Which token ends a text and the chat template go into tokenizer_config.json.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primegpt.errors import nearest, quoted
from primegpt.tokenizers.gguf_metadata import GGUFHeader
from primegpt.tokenizers.sentencepiece_files import UNUSED, USER_DEFINED, Model, Piece
from primegpt.tokenizers.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN
from primegpt.tokenizers.splits import BY_NAME, GEMMA, IGNORE_MERGES, split
from primegpt.tokenizers.tokenizer_json import SPACE, added_token, refuse_too_many

PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
MAX_TOKENS = 1_000_000  # four times as many as any model has; each is held several times while files are made of them
PADDING = re.compile(r"\[PAD\d+\]")  # how llama.cpp's converter fills a table that is longer than the vocabulary
ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
READ = (  # the keys, of those that begin with PREFIX
    *("model", "pre", "tokens", "token_type", "merges", "scores", "add_bos_token", "add_space_prefix"),
    *("remove_extra_whitespaces", *(f"{role}_token_id" for role in ROLES.values())),
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def read_gguf(path: Path) -> dict[str, bytes]:
    """File name -> content. Raises UsageError for what is no whole GGUF file, ValueError for an unusable vocabulary."""
    with GGUFHeader.opened(path) as header:
        return files_from(header.metadata)


def files_from(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """`read_gguf` of what the file says before its tensors."""
    found = {key: _plain(metadata[PREFIX + key]) for key in READ if PREFIX + key in metadata}
    tokens, kind = found.get("tokens"), found.get("model")
    if not isinstance(tokens, list) or not 0 < len(tokens) <= MAX_TOKENS:
        raise ValueError("it has no vocabulary (tokenizer.ggml.tokens), or one that is too large")
    types = [int(kind) for kind in found.get("token_type") or [NORMAL] * len(tokens)]
    if len(types) != len(tokens):
        raise ValueError(f"it has {len(tokens)} tokens and {len(types)} types of them")
    refuse_too_many(sum(kind in (UNKNOWN, CONTROL, USER_DEFINED) for kind in types))
    if kind == "llama":
        files = {"tokenizer.model": _sentencepiece(found, tokens, types)}
    elif kind == "gpt2":
        files = {"tokenizer.json": _dumped(_byte_level(found, tokens, types))}
    elif kind == "gemma4":
        files = {"tokenizer.json": _dumped(_gemma(found, tokens, types))}
    else:
        raise ValueError(f"its tokenizer.ggml.model is {quoted(kind)}; gpt2, llama and gemma4 can be used")
    config = _config(found, tokens, metadata.get(TEMPLATE))
    return {**files, "tokenizer_config.json": _dumped(config, indent=2)}


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _dumped(values: Mapping[str, Any], indent: int | None = None) -> bytes:
    return json.dumps(values, ensure_ascii=False, indent=indent).encode()


def _byte_level(found: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    name = found.get("pre")
    if name not in BY_NAME:
        if name in (None, "default"):
            raise ValueError("it does not say how text is split (tokenizer.ggml.pre)")
        raise ValueError(f"its split {quoted(name)} (tokenizer.ggml.pre) is not known; {nearest(name, BY_NAME)}")
    steps = {"type": "Sequence", "pretokenizers": [*BY_NAME[name], BYTE_LEVEL]}
    document = _document(found, tokens, types, ignore_merges=name in IGNORE_MERGES)
    return {**document, "pre_tokenizer": steps, "decoder": {**BYTE_LEVEL, "use_regex": True}}


def _gemma(found: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    if found.get("add_space_prefix"):
        raise ValueError("it puts a space before a text (tokenizer.ggml.add_space_prefix), as Gemma's does not")
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    document = _document(found, tokens, types, ignore_merges=False)
    document["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": tokens[found["unknown_token_id"]]}
    decoder = {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return {**document, "normalizer": replace, "pre_tokenizer": split(GEMMA), "decoder": decoder}


def _document(
    found: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], *, ignore_merges: bool
) -> dict[str, Any]:
    if len(set(tokens)) < len(tokens):
        raise ValueError("one of its tokens is there twice")
    merges = [_cut(merge) for merge in found.get("merges") or ()]
    added = [
        added_token({"content": token}, id, special=kind != USER_DEFINED)
        for id, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED) and not PADDING.fullmatch(token)
    ]
    nothing = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    no = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges}
    vocabulary = {token: id for id, token in enumerate(tokens)}
    model = {"type": "BPE", **nothing, **no, "vocab": vocabulary, "merges": merges}
    start = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None}
    return {**start, "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model}


def _cut(merge: str) -> list[str]:
    """The two parts of a merge, with a space between them; either may begin with one itself."""
    at = merge.find(" ", 1)
    if at < 0:
        raise ValueError(f"{quoted(merge)} is not a merge of two pieces")
    return [merge[:at], merge[at + 1 :]]


def _sentencepiece(found: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> bytes:
    scores = found.get("scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError("its scores (tokenizer.ggml.scores) are not as many as its tokens")
    scores = [float(score) for score in scores]
    if not all(map(math.isfinite, scores)):
        raise ValueError("one of its scores is no number")
    kinds = [UNUSED if PADDING.fullmatch(token) else kind for token, kind in zip(tokens, types, strict=True)]
    unknown = found.get("unknown_token_id", 0)
    if UNKNOWN not in kinds and type(unknown) is int and 0 <= unknown < len(kinds):
        kinds[unknown] = UNKNOWN
    pieces = [Piece(*each) for each in zip(tokens, scores, kinds, strict=True)]
    ids = {role: found.get(f"{name}_token_id", -1) for role, name in ROLES.items()}
    model = Model(
        pieces,
        byte_fallback=BYTE in kinds,
        add_dummy_prefix=bool(found.get("add_space_prefix", True)),
        remove_extra_whitespaces=bool(found.get("remove_extra_whitespaces", False)),
        unk=kinds.index(UNKNOWN),
        bos=ids["bos_token"],
        eos=ids["eos_token"],
        pad=ids["pad_token"],
    )
    return model.content()


def _config(found: Mapping[str, Any], tokens: Sequence[str], template: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for role, name in ROLES.items():
        id = found.get(f"{name}_token_id")
        if id is not None:
            if type(id) is not int or not 0 <= id < len(tokens):
                raise ValueError(f"its {role} has the id {quoted(id)}, of {len(tokens)}")
            settings[role] = tokens[id]
    if isinstance(found.get("add_bos_token"), bool):
        settings["add_bos_token"] = found["add_bos_token"]
    if isinstance(template, str):
        settings["chat_template"] = template
    return settings
