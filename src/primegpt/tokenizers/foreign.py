"""Byte-level BPE in the files of others: GPT-2's own pair, Hugging Face's pair, or a tokenizer.json.

What is read is refused unless our own tokenizer, built from its merges, has exactly its ids.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from primegpt.tokenizers.base import MAX_VOCAB, SpecialTokens
from primegpt.tokenizers.bpe import ByteLevelBPE, Merge, parse_merges, to_bytes
from primegpt.tokenizers.gpt2 import GPT2, are_gpt2s

PAIRS = (("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json"))  # merges, and the id of each piece
DOCUMENT = "tokenizer.json"
FILE_NAMES = (DOCUMENT, *(name for pair in PAIRS for name in pair))

ADDED = "added"  # the kind of special tokens that the files have beside <|endoftext|>

# GPT-2's split as it stands in the files of those who spell it out.
PUBLISHED_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def read(files: Mapping[str, bytes], special_tokens: SpecialTokens | None = None) -> ByteLevelBPE:
    """The tokenizer in `files` (name -> content) with `special_tokens` after its own: GPT2 if its merges are GPT-2's.

    Raises ValueError with the reason why it cannot be used.
    """
    if DOCUMENT in files:
        merges, ids = _read_document(json.loads(files[DOCUMENT]))
    else:
        merges_file, ids_file = next(pair for pair in PAIRS if any(name in files for name in pair))
        for missing in {merges_file, ids_file} - set(files):
            raise ValueError(f"{missing} is missing")
        merges, ids = parse_merges(files[merges_file]), json.loads(files[ids_file])
    if len(ids) > MAX_VOCAB:
        raise ValueError(f"the vocabulary is larger than {MAX_VOCAB:,}")
    return _build(merges, ids, special_tokens or {})


def _build(merges: Sequence[Merge], ids: Mapping[str, int], special_tokens: SpecialTokens) -> ByteLevelBPE:
    beyond = sorted((id, name) for name, id in ids.items() if id >= 256 + len(merges))
    added = [name for _, name in beyond[1:]]  # the first is <|endoftext|>, or the comparison fails
    kind = GPT2 if are_gpt2s(merges) else ByteLevelBPE
    tokenizer = kind(merges, {ADDED: added, **special_tokens} if added else special_tokens)
    own = {name: tokenizer.special_tokens[name] for name in (tokenizer.eot_token, *added)}
    if tokenizer.letter_ids | own != ids:
        raise ValueError(f"its ids are not those of GPT-2's scheme: 256 bytes, merges in order, {tokenizer.eot_token}")
    return tokenizer


def _read_document(document: Mapping[str, Any]) -> tuple[list[Merge], dict[str, int]]:
    """Merges, and the id of each piece, of a tokenizer.json that splits and merges as GPT-2 does."""
    model = document["model"]
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise ValueError(f"its model is {model.get('type')!r}, where byte-level BPE is needed")
    if document.get("normalizer") is not None:
        raise ValueError("it has a normalizer, which would change the text")
    if not _splits_like_gpt2(document.get("pre_tokenizer") or {}):
        raise ValueError("it does not split text by GPT-2's regular expression")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "byte_fallback"):
        if model.get(name):
            raise ValueError(f"its model has {name} = {model[name]!r}, which GPT-2's has not")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    added = {token["content"]: token["id"] for token in document.get("added_tokens") or ()}
    return [(to_bytes(left), to_bytes(right)) for left, right in pairs], {**model["vocab"], **added}


def _splits_like_gpt2(pre_tokenizer: Mapping[str, Any]) -> bool:
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    *before, last = steps or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return False
    if not before:
        return last.get("use_regex", True)
    split = {"type": "Split", "pattern": {"Regex": PUBLISHED_SPLIT}, "behavior": "Isolated", "invert": False}
    return before == [split] and not last.get("use_regex", True)
