"""Vocabularies as tiktoken has them: `*.tiktoken` (OpenAI, Llama 3) and Mistral's `tekken.json`, encoded by tiktoken.

A *.tiktoken file holds ranks alone. How text is split, and which ids are special, is known of those that are published,
by how many ranks they have.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from primegpt.config import MAX_VOCAB
from primegpt.errors import quoted
from primegpt.tokenizers.base import SECTION, sure_sections
from primegpt.tokenizers.ranks import RankEncoding
from primegpt.tokenizers.splits import CL100K, LLAMA3, O200K, TEKKEN
from primegpt.tokenizers.tokenizer_json import BORDERS


class Published(NamedTuple):
    """What a *.tiktoken file does not say."""

    split: str
    special_tokens: Mapping[str, int]


_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_LLAMA3 = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"),
    *("<|eot_id|>", "<|python_tag|>", *(f"<|reserved_special_token_{n}|>" for n in range(2, 247))),
)
PUBLISHED = {
    100_256: Published(
        CL100K,
        {"<|endoftext|>": 100_257, **{n: 100_258 + i for i, n in enumerate(_FIM)}, "<|endofprompt|>": 100_276},
    ),
    199_998: Published(O200K, {"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018}),
    128_000: Published(LLAMA3, {name: 128_000 + i for i, name in enumerate(_LLAMA3)}),
}
# The first special tokens of a tekken.json that does not list them; the others have no name.
_TEKKEN = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    *("[PREFIX]", "[MIDDLE]", "[SUFFIX]"),
)

Read = tuple[str, dict[bytes, int], int, dict[str, int]]  # split, ranks, the id of rank 0, special tokens


class TiktokenVocabulary:
    """What ranks make of a text. Attributes as of `JsonVocabulary`."""

    prefix, once, prefix_anywhere, adds_bos, unknown = "", False, False, False, None
    added: Sequence[Mapping[str, Any]] = ()
    strips: Mapping[str, tuple[bool, bool]] = {}

    def __init__(self, split: str, ranks: dict[bytes, int], first: int, special_tokens: dict[str, int]) -> None:
        if sorted(ranks.values()) != list(range(len(ranks))) or not all(bytes([b]) in ranks for b in range(256)):
            raise ValueError("its ranks leave a gap, or one of the 256 bytes is not among them")
        size = max(first + len(ranks), *(id + 1 for id in special_tokens.values()))
        names = {id: name for name, id in special_tokens.items()}
        spelt = {first + rank: piece for piece, rank in ranks.items()}
        if names.keys() & spelt.keys():
            raise ValueError("a special token has the id of a piece")
        names |= {id: f"[unused {id}]" for id in range(size) if id not in names and id not in spelt}
        self.special_tokens = {name: id for id, name in names.items()}
        self.named = {"bos_token": next((n for n in ("<|begin_of_text|>", "<s>") if n in self.special_tokens), None)}
        self.pieces = [spelt.get(id) or names[id].encode() for id in range(size)]
        self.encoding = RankEncoding(split, ranks, {rank: first + rank for rank in range(len(ranks))})

    def encode(self, text: str) -> NDArray[np.unsignedinteger]:
        ids = self.encoding.encode(text)
        assert ids is not None  # every byte has a piece
        return ids

    def encode_all(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        return self.encoding.encode_all(texts) or [self.encode(text) for text in texts]

    def sections(self, text: str) -> list[str]:
        return sure_sections(text, BORDERS[0]) if len(text) > SECTION else [text]


def read_ranks(content: bytes) -> Read:
    """A *.tiktoken file: a piece in base 64 and its rank a line. Raises ValueError for one that is not published."""
    lines = content.split(b"\n", MAX_VOCAB)
    ranks = {}
    for line in lines:
        if line:
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
    if len(ranks) not in PUBLISHED:
        raise ValueError(f"it has {len(ranks):,} ranks, as none of the published vocabularies has")
    known = PUBLISHED[len(ranks)]
    return known.split, ranks, 0, dict(known.special_tokens)


def read_tekken(content: bytes) -> Read:
    """Mistral's tekken.json. Raises ValueError for what is none."""
    found: dict[str, Any] = json.loads(content)
    config = found["config"]
    if config["pattern"] != TEKKEN:
        raise ValueError(f"its expression {quoted(config['pattern'])} is not the one of the published files")
    reserved, size = config["default_num_special_tokens"], config["default_vocab_size"]
    if not 0 < reserved < size <= MAX_VOCAB or len(found["vocab"]) > MAX_VOCAB:
        raise ValueError(f"it claims {quoted(size)} ids, {quoted(reserved)} of them special")
    ranks = {base64.b64decode(entry["token_bytes"], validate=True): entry["rank"] for entry in found["vocab"]}
    ranks = {piece: rank for piece, rank in ranks.items() if rank < size - reserved}  # more stand there than are used
    listed = found.get("special_tokens") or [{"rank": i, "token_str": name} for i, name in enumerate(_TEKKEN)]
    names = {entry["token_str"]: entry["rank"] for entry in listed}
    if not all(type(id) is int and 0 <= id < reserved for id in names.values()):
        raise ValueError("one of its special tokens has an id that is not theirs")
    names |= {f"<SPECIAL_{id}>": id for id in range(reserved) if id not in set(names.values())}
    return config["pattern"], ranks, reserved, names
