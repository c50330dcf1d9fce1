"""Byte-level BPE through tiktoken: several times as fast as by the library of tokenizer.json, where ids are the same.

tiktoken knows ranks of pieces, not merges: of all neighbours that make a piece it joins those whose piece has the
lowest rank, the leftmost first. `ranks_for` makes ranks of merges only where that is the same for every text.

What makes that certain: both join step by step, and let them have joined the same so far. Say that tiktoken now joins
the neighbours x and y, to a piece of the lowest rank. Nothing has crossed their outer borders, and what was joined
within went as if xy stood alone: so xy by itself also comes down to x and y. If that is a merge, it is the one with
which the piece by itself ends, and the library's next as well, since merges stand in the order of their pieces. If it
is none, the piece by itself is left in exactly two parts. So it is enough to merge each piece by itself: those that
come out whole are ranked, in the order of their merges; the others are only ever taken whole, and none of them may end
in exactly two parts.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from primegpt.tokenizers.bpe import BYTES, LETTERS, WORTHWHILE, to_bytes
from primegpt.tokenizers.gpt2_split import CUT, END, SPLIT, WORDS, apart
from primegpt.tokenizers.splits import GPT2, LLAMA3, O200K, QWEN2, QWEN35, TEKKEN, digits, split

if TYPE_CHECKING:
    import tiktoken

# Expressions that mean the same to both libraries: classes, repetition, no anchors, nothing of a language's own.
_CLASS = r"\[\^?(?:[^\[\]\\&~-]|\\[rnts/]|\\p\{(?:L[ultmo]?|[NMPS])\}|(?:[A-Za-z0-9]-[A-Za-z0-9]))+\]"
_ATOM = rf"(?:{_CLASS}|[^\[\]\\(){{}}^$.*+?|]|\\[rnts]|\\p\{{(?:L[ultmo]?|[NMPS])\}}|\(\?i:[a-z'|]+\)|\(\?!\\S\))"
_PLAIN = re.compile(rf"(?:{_ATOM}(?:[*+?]\+?|\{{\d,\d\}})?|\|)+")
# Digits one by one, and then GPT-2's split of what is between: white space before a digit is the end of such a part.
DIGITS_APART = r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?[^\s\p{L}\p{N}]++|\s+(?![^\s\p{N}])|\s+"
_OF_BYTES = re.compile(f"[{re.escape(''.join(BYTES))}]*")
NO_ID = 2**32 - 1  # of bytes that a vocabulary lacks, as those of planes that hold no characters
# tiktoken looks for special tokens at every character where there is none at all, and for this one hardly ever.
NAME = "<|never|>"
NEVER = f"\0{NAME}\0"

# The expressions that look ahead at the end of white space alone, and what is left of them where that was done
# beforehand (gpt2_split.py). Of those after GPT-2's, no alternative but the last takes two characters of white space
# that are not newlines, and white space up to its last newline is one part.
AHEAD = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
WITHOUT_LOOKING = {SPLIT: WORDS} | {
    pattern: pattern.removesuffix(AHEAD) + r"|\s*[\r\n]+|\s+" for pattern in (LLAMA3, QWEN2, QWEN35, O200K, TEKKEN)
}


class RankEncoding:
    """Ranks of pieces, the expression that splits, and the id of each rank."""

    def __init__(self, pattern: str, ranks: dict[bytes, int], ids: Mapping[int, int], *, nfc: bool = False) -> None:
        from tokenizers import normalizers

        self.pattern, self.ranks = pattern, ranks
        self._form = normalizers.NFC() if nfc else None  # the library's own: Python's may know fewer characters
        self._ids = np.full(len(ranks), NO_ID, np.uint32)
        self._complete = len(ids) == len(ranks)
        self._ids[list(ids)] = list(ids.values())

    @cached_property
    def backend(self) -> "tiktoken.Encoding":
        return self._encoding(self.pattern, NEVER)

    @cached_property
    def _words(self) -> "tiktoken.Encoding":
        """A faster one with the same ids, for texts that were put `apart`."""
        return self._encoding(WITHOUT_LOOKING[self.pattern], END, CUT)

    def _encoding(self, pattern: str, *marks: str) -> "tiktoken.Encoding":
        import tiktoken

        special = {mark: len(self.ranks) + n for n, mark in enumerate(marks)}
        return tiktoken.Encoding("imported", pat_str=pattern, mergeable_ranks=self.ranks, special_tokens=special)

    def encode(self, text: str) -> NDArray[np.unsignedinteger] | None:
        """The ids; None where the vocabulary lacks a byte. Raises UnicodeEncodeError on a lone surrogate."""
        found = self.encode_all([text])
        return found[0] if found else None

    def encode_all(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]] | None:
        """`encode` of each text, in one call; None where a byte is lacking, or one of several has NEVER's name."""
        if self._form is not None:
            texts = [text if text.isascii() else self._form.normalize_str(text) for text in texts]
        ranks = self._ranks(texts)
        if ranks is None:
            return None
        ends = np.flatnonzero(ranks == len(self.ranks))
        ids = self._ids[np.delete(ranks, ends)]
        if not self._complete and (ids == NO_ID).any():
            return None
        return np.split(ids, ends - np.arange(len(ends)))

    def _ranks(self, texts: Sequence[str]) -> NDArray[np.unsignedinteger] | None:
        """The ranks of all pieces in a line, with one that there is not between texts."""
        worthwhile = self.pattern in WITHOUT_LOOKING and sum(map(len, texts)) >= WORTHWHILE
        if worthwhile and (joined := apart(texts, newlines_end=self.pattern != SPLIT)) is not None:
            ranks = self._words.encode_to_numpy(joined, allowed_special={END, CUT}, disallowed_special=())
            return ranks[ranks != len(self.ranks) + 1]
        joined = NEVER.join(texts)
        if len(texts) > 1 and joined.count(NAME) != len(texts) - 1:
            return None
        allowed = {NEVER} if len(texts) > 1 else set[str]()
        return self.backend.encode_to_numpy(joined, allowed_special=allowed, disallowed_special=())


def ranks_for(document: Mapping[str, Any]) -> RankEncoding | None:
    """The tokenizer of `document`, a byte-level tokenizer.json; None where tiktoken might give other ids."""
    model = document["model"]
    pattern, form = _pattern(document), document.get("normalizer")
    ordinary = any(not token["special"] for token in document["added_tokens"])
    if pattern is None or ordinary or model.get("unk_token") or model.get("byte_fallback"):
        return None
    if form not in (None, {"type": "NFC"}):
        return None
    vocabulary = {piece: id for piece, id in model["vocab"].items() if _OF_BYTES.fullmatch(piece)}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    made = _made_in_order(merges)
    if made is None or not vocabulary.keys() >= made.keys():
        return None
    parts = _parts(model["vocab"], merges, [piece for piece in vocabulary if len(piece) > 1])
    reached = [piece for piece in made if parts[piece] == 1]
    whole = [piece for piece, count in parts.items() if count > 1] if model.get("ignore_merges") else []
    if any(parts[piece] == 2 for piece in whole):
        return None
    pieces = [*LETTERS.values(), *reached, *whole]
    ranks = {to_bytes(piece): rank for rank, piece in enumerate(pieces)}
    ids = {rank: vocabulary[piece] for rank, piece in enumerate(pieces) if piece in vocabulary}
    return RankEncoding(pattern, ranks, ids, nfc=form is not None)


def _pattern(document: Mapping[str, Any]) -> str | None:
    """One expression for tiktoken that splits as the steps of the document do, if there is one."""
    pre = document["pre_tokenizer"]
    steps = [dict(step) for step in (pre["pretokenizers"] if pre["type"] == "Sequence" else [pre])]
    last = steps.pop()
    if last["type"] != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if last.get("use_regex", True):
        steps.append(split(GPT2))
    if steps == [split(GPT2)]:
        return SPLIT
    if steps == [digits(one_by_one=True), split(GPT2)]:
        return DIGITS_APART
    if len(steps) != 1 or steps[0]["type"] != "Split" or steps[0] != split(steps[0]["pattern"].get("Regex", "")):
        return None
    pattern = steps[0]["pattern"]["Regex"]
    return pattern if _PLAIN.fullmatch(pattern) else None


def _made_in_order(merges: Iterable[Sequence[str]]) -> dict[str, None] | None:
    """The pieces that merges make, in order; None if the merges of one do not stand together."""
    found: dict[str, None] = {}
    newest = None
    for left, right in merges:
        piece = left + right
        if piece != newest and piece in found:
            return None
        found[piece] = None
        newest = piece
    return found


def _parts(vocabulary: Mapping[str, int], merges: Iterable[Sequence[str]], pieces: Iterable[str]) -> dict[str, int]:
    """How many parts the library leaves of each of `pieces` by itself, never taking one whole."""
    from tokenizers import models

    alone = models.BPE(vocab=dict(vocabulary), merges=[(left, right) for left, right in merges], cache_capacity=0)
    return {piece: len(alone.tokenize(piece)) for piece in pieces}
