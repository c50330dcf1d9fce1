"""vocab.json and merges.txt, which some of Transformers' tokenizers have, as the tokenizer.json they stand for."""

import json

from primegpt.errors import quoted
from primegpt.tokenizers.splits import GPT2, QWEN2, split
from primegpt.tokenizers.tokenizer_json import Document

# Classes of Transformers that read vocab.json and merges.txt: what they normalize, and by what they split.
PAIRS = {"GPT2Tokenizer": (None, GPT2), "Qwen2Tokenizer": ({"type": "NFC"}, QWEN2)}
DEFAULT = "GPT2Tokenizer"


def class_of(kind: str | None) -> str:
    """The class of PAIRS for Transformers' class `kind`. Raises ValueError where its split is not known."""
    name = (kind or DEFAULT).removesuffix("Fast")
    if name not in PAIRS:
        raise ValueError(f"how {quoted(kind)} splits text is not known; a tokenizer.json would say it")
    return name


def document_of_pair(vocabulary: bytes, merges: bytes, kind: str | None) -> Document:
    """The tokenizer.json that vocab.json and merges.txt stand for, `kind` being the class that Transformers has for it.

    Raises ValueError for a class whose split is not known.
    """
    form, pattern = PAIRS[class_of(kind)]
    lines = [line for line in merges.decode().split("\n") if line and not line.startswith("#version")]
    if wrong := next((line for line in lines if line.count(" ") != 1), None):
        raise ValueError(f"{quoted(wrong)} is not a merge of two pieces")
    nothing = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    model = {"type": "BPE", **nothing, "vocab": json.loads(vocabulary), "merges": [line.split(" ") for line in lines]}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    steps = {"type": "Sequence", "pretokenizers": [split(pattern), level]}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": form,
        "pre_tokenizer": steps,
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": model,
    }
