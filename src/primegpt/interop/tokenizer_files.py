"""Tokenizers as Transformers folders hold them: ours written for AutoTokenizer, theirs read.

Beside Transformers' files stand our own, so that what was exported comes back as it was.
"""

import json
from pathlib import Path
from typing import Any

from primegpt.errors import TokenizerError, UsageError
from primegpt.interop.weight_files import inside, read_json
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer
from primegpt.tokenizers.imported import Imported
from primegpt.tokenizers.sentencepiece import SPACE, SentencePieceBPE
from primegpt.tokenizers.sentencepiece_model import BYTE_PIECES

TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
OTHERWISE = "name another with --tokenizer, or train your own model with primegpt"


def tokenizer_files(tokenizer: Tokenizer, block_size: int) -> dict[str, bytes]:
    """File name -> content of the tokenizer's part of a Transformers folder.

    Another's goes out in its own files. Raises UsageError for a kind that Hugging Face's `tokenizers` cannot express.
    """
    files = store.files_of(tokenizer)
    if isinstance(tokenizer, Imported):
        return files
    if isinstance(tokenizer, SentencePieceBPE):
        files[TOKENIZER_JSON] = json.dumps(sentencepiece_document(tokenizer), ensure_ascii=False).encode("utf-8")
    if TOKENIZER_JSON not in files:
        what = f"tokenizers of the kind {tokenizer.kind!r} cannot be written as {TOKENIZER_JSON}"
        raise UsageError(what, "use char, bpe or sentencepiece to export to Transformers")
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
    return {**files, TOKENIZER_CONFIG: content.encode("utf-8")}


def sentencepiece_document(tokenizer: SentencePieceBPE) -> dict[str, Any]:
    """The tokenizer.json that gives the ids of `tokenizer`.

    Pieces are spelt with a space where SentencePiece has ▁: so a ▁ of the text's own is no piece, and goes through its
    bytes as it does here. SentencePiece merges whichever two neighbours make the piece learnt first, of equals the
    leftmost; here every pair has a rank of its own. So pieces that can be cut in two ways and overlap might differ, but
    in 20,000 random texts none did, and the order among the pairs of one piece (longest left part first) had no effect.
    """
    specials = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    pieces = [piece.replace(SPACE, " ") for piece in tokenizer.pieces]
    spelt = [*(name for name, _ in specials), *BYTE_PIECES, *pieces]
    known = set(pieces)
    cuts = ((piece[:at], piece[at:]) for piece in pieces for at in range(len(piece) - 1, 0, -1))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": name, **flags} for name, id in specials],
        "normalizer": None,
        "pre_tokenizer": {  # changes nothing, since no piece goes on after a space; short parts are encoded faster
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithNext",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokenizer.unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: id for id, piece in enumerate(spelt)},
            "merges": [list(cut) for cut in cuts if known.issuperset(cut)],
        },
    }


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a Transformers folder: one of ours, or another's, which stays as it is (tokenizers/imported.py).

    Raises TokenizerError, saying what in it we do not have.
    """
    if (folder / TOKENIZER_CONFIG).exists() and read_json(folder, TOKENIZER_CONFIG).get("auto_map"):
        raise UsageError(f"{folder / TOKENIZER_CONFIG} has auto_map: it asks for code of its own to be run", OTHERWISE)
    for path in folder.iterdir():
        if path.name == store.META or store.companions.is_file_of(path.name):
            inside(folder, path.name)
    try:
        return store.load(folder)
    except TokenizerError as error:
        raise TokenizerError(error.what, OTHERWISE) from error
