"""The tokenizer in a GGUF file's metadata: ours, one with GPT-2's split, which is one of ours too, or another's.

Beside llama.cpp's keys our own files have one more, OURS, which holds what their tokenizer's primegpt.json does: what
was exported comes back as it was.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from primegpt.config import MAX_VOCAB
from primegpt.errors import MismatchError, TokenizerError, quoted
from primegpt.interop.tokenizer_files import OTHERWISE
from primegpt.tokenizers import foreign, store
from primegpt.tokenizers.base import SYSTEM, Tokenizer, special_kinds
from primegpt.tokenizers.bpe import ByteLevelBPE, parse_merges, to_letters
from primegpt.tokenizers.gguf_vocabulary import PREFIX, TEMPLATE, files_from
from primegpt.tokenizers.imported import Imported
from primegpt.tokenizers.sentencepiece import SentencePieceBPE
from primegpt.tokenizers.sentencepiece_files import UNUSED
from primegpt.tokenizers.sentencepiece_model import BYTE_PIECES

OURS = "primegpt.tokenizer"


def described(tokenizer: Tokenizer) -> str:
    """What OURS says of `tokenizer`."""
    return store.files_of(tokenizer)[store.META].decode()


def spellings(tokenizer: Tokenizer) -> list[str]:
    """What each id is called in a GGUF file."""
    names = {id: name for name, id in tokenizer.special_tokens.items()}
    if isinstance(tokenizer, SentencePieceBPE):
        return [*(names[id] for id in sorted(names)), *BYTE_PIECES, *tokenizer.pieces]
    return [names[i] if i in names else to_letters(tokenizer.decode_bytes([i])) for i in range(tokenizer.vocab_size)]


def read_tokenizer(metadata: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer of a GGUF file; `where` names it in errors.

    Raises TokenizerError, saying what in it we do not have, or MismatchError for one that was altered.
    """
    try:
        tokens = _strings(metadata, "tokens")
        if len(tokens) > MAX_VOCAB:
            raise ValueError(f"the vocabulary is larger than {MAX_VOCAB:,}")
        if OURS in metadata:
            return _read_ours(metadata, tokens, where)
        try:
            return _read_gpt2s(metadata, tokens)
        except store.DAMAGE:
            return Imported(files_from(metadata))
    except store.DAMAGE as error:
        raise TokenizerError(f"{where}: its tokenizer cannot be used ({store.reason(error)})", OTHERWISE) from error


def _read_ours(metadata: Mapping[str, Any], tokens: list[str], where: str) -> Tokenizer:
    saved = json.loads(metadata[OURS])
    kind = store.class_of(saved["kind"])
    own = {name: names for name, names in saved["special_kinds"].items() if name != SYSTEM}
    if issubclass(kind, ByteLevelBPE):
        tokenizer: Tokenizer = kind(_merges(metadata), own)
    elif issubclass(kind, SentencePieceBPE):
        others = 256 + sum(map(len, special_kinds(kind.system_tokens, own).values()))
        tokenizer = kind(tokens[others:], own)
    else:
        raise ValueError(f"no GGUF file holds one of the kind {saved['kind']!r}")
    if tokenizer.fingerprint != saved["fingerprint"] or spellings(tokenizer) != tokens:
        what = f"the tokenizer in {where} was saved as {saved['fingerprint']}, and is {tokenizer.fingerprint} now"
        raise MismatchError(what, "export it again")
    return tokenizer


def _read_gpt2s(metadata: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    model, split = (metadata.get(f"{PREFIX}{key}") for key in ("model", "pre"))
    if (model, split) != ("gpt2", "gpt-2"):
        raise ValueError(f"{PREFIX}model = {quoted(model)} with {PREFIX}pre = {quoted(split)} is not GPT-2's scheme")
    if any(metadata.get(f"{PREFIX}{key}") for key in ("add_bos_token", "add_eos_token")) or TEMPLATE in metadata:
        raise ValueError("a kind of ours would lose what it says of conversations, or of the beginning of a text")
    kinds = metadata.get(f"{PREFIX}token_type", [])
    used = tokens[: next((len(kinds) - i for i, kind in enumerate(reversed(kinds)) if kind != UNUSED), len(tokens))]
    ids = {token: id for id, token in enumerate(used)}
    merges = "".join(f"{merge}\n" for merge in _strings(metadata, "merges"))
    return foreign.read({"vocab.json": json.dumps(ids).encode(), "merges.txt": merges.encode()})


def _merges(metadata: Mapping[str, Any]) -> Sequence[tuple[bytes, bytes]]:
    merges = _strings(metadata, "merges", needed=False)
    return parse_merges("\n".join(merges).encode()) if merges else []


def _strings(metadata: Mapping[str, Any], name: str, needed: bool = True) -> list[str]:
    found = metadata.get(f"{PREFIX}{name}", None if needed else [])
    if not isinstance(found, list):
        raise ValueError(f"{PREFIX}{name} is no list of strings")
    return found
