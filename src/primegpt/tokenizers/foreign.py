"""Byte-level BPE in the files of others: GPT-2's own pair, Hugging Face's pair, or a tokenizer.json.

What is read is refused unless our own tokenizer, built from its merges, has exactly its ids.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from primegpt.config import MAX_VOCAB
from primegpt.errors import quoted
from primegpt.tokenizers.base import SpecialTokens, Tokenizer
from primegpt.tokenizers.bpe import ByteLevelBPE, Merge, parse_merges, to_bytes
from primegpt.tokenizers.gpt2 import GPT2, are_gpt2s

PAIRS = (("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json"))  # merges, and the id of each piece
DOCUMENT = "tokenizer.json"
FILE_NAMES = (DOCUMENT, *(name for pair in PAIRS for name in pair))
COMPANIONS = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")  # which may add further tokens

BYTE_LEVEL = {"type": "ByteLevel"}
# Keys of a tokenizer_config.json that Transformers encodes by, whatever tokenizer.json says.
CHANGING_SETTINGS = ("add_prefix_space", "add_bos_token", "add_eos_token", "do_lower_case")
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
        merges_file, ids_file = next((pair for pair in PAIRS if any(name in files for name in pair)), PAIRS[0])
        for missing in {merges_file, ids_file} - set(files):
            raise ValueError(f"{missing} is missing")
        merges, ids = parse_merges(files[merges_file]), json.loads(files[ids_file])
    if len(ids) > MAX_VOCAB:
        raise ValueError(f"the vocabulary is larger than {MAX_VOCAB:,}")
    return _build(merges, ids, special_tokens or {})


def refuse_additions(tokenizer: Tokenizer, companions: Mapping[str, bytes]) -> None:
    """Raise ValueError for what Transformers would read in `companions` (of COMPANIONS) and encode by, and we do not.

    That is a token which the tokenizer has not, or under another id, or that is matched in ordinary text; and a setting
    that puts something before or after every text.
    """
    for name, content in companions.items():
        found = json.loads(content)
        if not isinstance(found, dict):
            raise ValueError(f"{name} does not hold a JSON object")
        tokens = found if name == COMPANIONS[0] else _named_tokens(found)
        for token, id in tokens.items():
            if token not in tokenizer.special_tokens:
                raise ValueError(f"{name} adds the token {quoted(token)}, which is not among its special tokens")
            if id is not None and id != tokenizer.special_tokens[token]:
                has = tokenizer.special_tokens[token]
                raise ValueError(f"{name} gives the token {quoted(token)} the id {quoted(id)}, where it has {has}")
        for key in CHANGING_SETTINGS:
            if found.get(key):
                raise ValueError(f"{name} has {key} = {quoted(found[key])}, which changes the ids of every text")


def _named_tokens(found: Mapping[str, Any]) -> dict[str, int | None]:
    """The tokens that a tokenizer_config.json or special_tokens_map.json names; their ids where it says them."""
    listed = [found.get(key) or () for key in ("additional_special_tokens", "extra_special_tokens")]
    named = [
        *(value for key, value in found.items() if key.endswith("_token") and not key.startswith("add_")),
        *(entry for entries in listed for entry in (entries.values() if isinstance(entries, dict) else entries)),
    ]
    tokens: dict[str, int | None] = {_content(entry): None for entry in named if entry is not None}
    for id, entry in (found.get("added_tokens_decoder") or {}).items():
        _refuse_ordinary(entry)
        tokens[_content(entry)] = int(id)
    return tokens


def _content(entry: Any) -> str:
    content = entry["content"] if isinstance(entry, dict) else entry
    if not isinstance(content, str):
        raise ValueError(f"{quoted(entry)} is no token")
    return content


def _refuse_ordinary(token: Mapping[str, Any]) -> None:
    """An added token that is not special is matched in every text, before it is split: ids would differ, unsaid."""
    if token.get("special") is not True:
        raise ValueError(
            f"its added token {quoted(token['content'])} is not special: text that spells it has other ids"
        )


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
        raise ValueError(f"its model is {quoted(model.get('type'))}, where byte-level BPE is needed")
    if document.get("normalizer") is not None:
        raise ValueError("it has a normalizer, which would change the text")
    if not _splits_like_gpt2(document.get("pre_tokenizer") or {}):
        raise ValueError("it does not split text by GPT-2's regular expression")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "byte_fallback"):
        if model.get(name):
            raise ValueError(f"its model has {name} = {quoted(model[name])}, which GPT-2's does not have")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    if (document.get("post_processor") or BYTE_LEVEL)["type"] != BYTE_LEVEL["type"]:
        raise ValueError(f"its post-processor is {quoted(document['post_processor']['type'])}, which may add tokens")
    if (document.get("decoder") or BYTE_LEVEL)["type"] != BYTE_LEVEL["type"]:
        raise ValueError(f"its decoder is {quoted(document['decoder']['type'])}, where a byte-level one is needed")
    for token in document.get("added_tokens") or ():
        _refuse_ordinary(token)
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
