"""One id a character: the smallest vocabulary, nothing to learn, and the easiest tokenizer to understand."""

from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from primegpt.errors import ConfigError
from primegpt.tokenizers.base import SECTION, SpecialTokens, special_kinds
from primegpt.tokenizers.json_form import JsonTokenizer

LAST_CODE_POINT = 0x10FFFF


class CharTokenizer(JsonTokenizer):
    """Characters in the order of their code points, after `<PAD> <UNK> <BOS> <EOS>` (ids 0-3).

    A character outside the vocabulary becomes `<UNK>`; `count_unknown` names them. Special tokens of the user's own
    come after the characters.
    """

    kind = "char"
    system_tokens = ("<PAD>", "<UNK>", "<BOS>", "<EOS>")
    pad_token, unk_token, bos_token, eot_token = system_tokens
    # Isolating every match of "any character, newlines too" makes each character a word for WordLevel to look up.
    pre_tokenizer: ClassVar[dict[str, object]] = {
        "type": "Split",
        "pattern": {"Regex": r"[\s\S]"},
        "behavior": "Isolated",
        "invert": False,
    }
    decoder: ClassVar[dict[str, object]] = {"type": "Fuse"}

    def __init__(self, characters: Iterable[str], special_tokens: SpecialTokens | None = None) -> None:
        self.characters = "".join(sorted(set("".join(characters))))
        kinds = special_kinds(self.system_tokens, special_tokens)
        own = [name for kind in list(kinds)[1:] for name in kinds[kind]]
        spelt = [*self.system_tokens, *self.characters, *own]
        specials = {name: id for id, name in enumerate(spelt) if len(name) > 1}  # a special name is never one character
        super().__init__([name.encode() for name in spelt], specials, kinds)
        self._vocabulary = {name: id for id, name in enumerate(spelt)}
        self._table = self._lookup_table()

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int | None = None, special_tokens: SpecialTokens | None = None
    ) -> Self:
        """All characters of `texts` or, where `vocab_size` leaves no room for all, the most frequent ones."""
        counts = np.zeros(LAST_CODE_POINT + 1, np.int64)
        for text in texts:
            for section in slices(text):
                np.add.at(counts, code_points(section), 1)
        seen = np.flatnonzero(counts)
        if vocab_size is not None:
            by_frequency = np.argsort(-counts[seen], kind="stable")  # stable: of equals, the lower code point first
            seen = seen[by_frequency[: room_for_characters(vocab_size, cls.system_tokens, special_tokens)]]
        return cls(map(chr, seen), special_tokens)

    def count_unknown(self, text: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        for section in slices(text):
            points = code_points(section)
            unknown = points[self._table.take(points, mode="clip") == self.unk_id]
            for point, count in zip(*np.unique(unknown, return_counts=True), strict=True):
                counts[chr(point)] = counts.get(chr(point), 0) + int(count)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def _sections(self, text: str) -> list[str]:
        return slices(text)

    def _encode_section(self, text: str) -> NDArray[np.unsignedinteger]:
        return self._table.take(code_points(text), mode="clip")

    def _lookup_table(self) -> NDArray[np.unsignedinteger]:
        """Code point -> id, one entry longer than the last character; mode="clip" sends all above to that entry."""
        points = code_points(self.characters)
        table = np.full(int(points.max(initial=0)) + 2, self.unk_id, self.id_dtype)
        table[points] = np.arange(len(points)) + len(self.system_tokens)
        return table

    def _identity(self) -> dict[str, object]:
        return {"characters": self.characters}

    def _model(self) -> dict[str, object]:
        return {"type": "WordLevel", "vocab": self._vocabulary, "unk_token": self.unk_token}

    @classmethod
    def _from_model(cls, model: dict[str, Any], special_tokens: SpecialTokens) -> Self:
        return cls((name for name in model["vocab"] if len(name) == 1), special_tokens)


def code_points(text: str) -> NDArray[np.uint32]:
    """The code point of each character, (len(text),). Raises UnicodeEncodeError on a lone surrogate."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def slices(text: str) -> list[str]:
    """`text` in parts that fit the processor's caches; a character tokenizer may be cut anywhere."""
    return [text[i : i + SECTION] for i in range(0, len(text), SECTION)] or [""]


def room_for_characters(vocab_size: int, system: tuple[str, ...], special_tokens: SpecialTokens | None) -> int:
    """How many characters a vocabulary of `vocab_size` holds. Raises ConfigError if none."""
    specials = sum(map(len, special_kinds(system, special_tokens).values()))
    if vocab_size <= specials:
        raise ConfigError(
            f"tokenizer.vocab_size = {vocab_size} leaves no room beside {specials} special tokens",
            f"use at least {specials + 1}, or leave it out to keep every character",
        )
    return vocab_size - specials
