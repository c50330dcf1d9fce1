"""Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019): learnt here, exact for any text.

Text is split by GPT-2's regular expression and, inside each part, the pair of neighbours that was learnt first is
merged until none is left. The base vocabulary is the 256 bytes, so nothing is ever unknown. Hugging Face's
`tokenizers` learns the merges; tiktoken, several times faster, encodes with them.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from primegpt.errors import ConfigError
from primegpt.tokenizers.base import SECTION, SpecialTokens, refuse_collisions, sections, special_kinds
from primegpt.tokenizers.gpt2_split import CUT, END, SPLIT, SURE_SPLIT, WORDS, apart
from primegpt.tokenizers.json_form import JsonTokenizer

if TYPE_CHECKING:
    import tiktoken

Merge = tuple[bytes, bytes]

WORTHWHILE = 400  # characters; putting a shorter text `apart` takes longer than it saves

# The learner takes a hundred bytes of memory a character, and time that grows with the square of a run's length.
LEARNER_SECTION = 5_000


class ByteLevelBPE(JsonTokenizer):
    """256 bytes, then one id a merge in the order they were learnt, then the special tokens.

    Encoding equals that of `tokenizers` on the saved tokenizer.json, with one exception: in a stretch of more than
    50,000 characters without a single letter or digit before whitespace or punctuation (a megabyte of one letter or
    of spaces), pieces may be cut, because the splitter's stack or quadratic merging would not survive it. Decoding
    gives back the text in every case.
    """

    kind = "bpe"
    system_tokens = ("<|endoftext|>",)
    eot_token = "<|endoftext|>"
    pre_tokenizer: ClassVar[dict[str, object]] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    decoder: ClassVar[dict[str, object]] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }

    def __init__(self, merges: Sequence[Merge], special_tokens: SpecialTokens | None = None) -> None:
        """Raises ValueError if a merge joins what is not there yet or gives what is."""
        self.merges = list(merges)
        self._ranks = ranks_of(self.merges)
        kinds = special_kinds(self.system_tokens, special_tokens)
        names = [name for group in kinds.values() for name in group]
        self.letter_ids = {to_letters(piece): rank for piece, rank in self._ranks.items()}
        refuse_collisions(names, self.letter_ids)
        specials = {name: len(self._ranks) + i for i, name in enumerate(names)}
        super().__init__([*self._ranks, *(name.encode() for name in names)], specials, kinds)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int | None = None, special_tokens: SpecialTokens | None = None
    ) -> Self:
        """Learn up to `vocab_size` - 256 - (special tokens) merges; fewer if the text has no pair left that repeats.

        Raises ConfigError if `vocab_size` is missing or has no room for the bytes and the special tokens.
        """
        specials = sum(map(len, special_kinds(cls.system_tokens, special_tokens).values()))
        if vocab_size is None or vocab_size < 256 + specials:
            raise ConfigError(
                f"tokenizer.vocab_size = {vocab_size} is too small for byte-level BPE",
                f"use at least {256 + specials}: 256 bytes and {specials} special token(s)",
            )
        return cls(learn_merges(texts, vocab_size - 256 - specials), special_tokens)

    @cached_property
    def encoding(self) -> "tiktoken.Encoding":
        """The same vocabulary as a tiktoken encoding."""
        import tiktoken

        return tiktoken.Encoding(
            self.kind, pat_str=SPLIT, mergeable_ranks=self._ranks, special_tokens=self.special_tokens
        )

    @cached_property
    def _words_encoding(self) -> "tiktoken.Encoding":
        """A faster one with the same ids, for texts that were put `apart`."""
        import tiktoken

        marks = {END: self.vocab_size, CUT: self.vocab_size + 1}
        return tiktoken.Encoding(self.kind, pat_str=WORDS, mergeable_ranks=self._ranks, special_tokens=marks)

    def _sections(self, text: str) -> list[str]:
        return sections(text, SURE_SPLIT)

    def _encode_section(self, text: str) -> NDArray[np.unsignedinteger]:
        if len(text) >= WORTHWHILE and (found := self._encode_apart([text])):
            return found[0]
        return self.encoding.encode_to_numpy(text, disallowed_special=()).astype(self.id_dtype)

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """`encode_array` of each text, on the calling thread.

        In one call unless one is long: after each call a thread has to wait for Python's lock, which for short texts
        takes longer than encoding them.
        """
        if max(map(len, texts), default=0) <= SECTION:
            try:
                if found := self._encode_apart(texts):
                    return found
            except UnicodeEncodeError:
                pass  # which text it is, and where, the other way tells
        return super().encode_arrays(texts)

    def _encode_apart(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]] | None:
        """The ids of each text, or None if one has characters in it that have another meaning there."""
        joined = apart(texts)
        if joined is None:
            return None
        ids = self._words_encoding.encode_to_numpy(joined, allowed_special={END, CUT}, disallowed_special=())
        ids = ids[ids != self.vocab_size + 1]
        ends = np.flatnonzero(ids == self.vocab_size)
        parts = np.split(ids.astype(self.id_dtype), ends)
        return [parts[0], *(part[1:] for part in parts[1:])]

    def _identity(self) -> dict[str, object]:
        return {"split": "gpt2", "merges": [[left.hex(), right.hex()] for left, right in self.merges]}

    def _model(self) -> dict[str, object]:
        nothing = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
        no = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
        merges = [[to_letters(left), to_letters(right)] for left, right in self.merges]
        return {"type": "BPE", **nothing, **no, "vocab": self.letter_ids, "merges": merges}

    @classmethod
    def _from_model(cls, model: dict[str, Any], special_tokens: SpecialTokens) -> Self:
        return cls([(to_bytes(left), to_bytes(right)) for left, right in model["merges"]], special_tokens)


def learn_merges(texts: Iterable[str], count: int) -> list[Merge]:
    """The `count` merges (or fewer) that byte-pair encoding learns from `texts`, in order.

    The same text gives the same merges on any number of threads, and however it is divided among `texts` at places
    that are a split anyway. TOKENIZERS_PARALLELISM is left to the user: nothing but this function uses the library.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + count,
        min_frequency=2,  # a pair seen once is a spelling, not a regularity
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    parts = (part for text in texts for part in sections(text, SURE_SPLIT, LEARNER_SECTION))
    learner.train_from_iterator(parts, trainer)
    model = json.loads(learner.to_str())["model"]
    return [(to_bytes(left), to_bytes(right)) for left, right in model["merges"]]


def parse_merges(content: bytes) -> list[Merge]:
    """The merges in a vocab.bpe or merges.txt: a pair a line, in GPT-2's letters. Raises ValueError for other text."""
    lines = content.decode().removesuffix("\n").split("\n")
    pairs = [line.split(" ") for line in lines if not line.startswith("#version")]
    if wrong := next((pair for pair in pairs if len(pair) != 2), None):
        raise ValueError(f"{' '.join(wrong)[:40]!r} is not a merge of two pieces")
    return [(to_bytes(left), to_bytes(right)) for left, right in pairs]


def ranks_of(merges: Iterable[Merge]) -> dict[bytes, int]:
    """Bytes -> id. tiktoken merges whichever neighbours give the lowest of these, so ids must be in learnt order."""
    ranks = {bytes([byte]): rank for rank, byte in enumerate(LETTERS)}
    for left, right in merges:
        if left not in ranks or right not in ranks or left + right in ranks:
            raise ValueError(f"the merge of {left!r} and {right!r} is out of order")
        ranks[left + right] = len(ranks)
    return ranks


def byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte, in GPT-2's order of ids: Ġ for the space, Ċ for the newline.

    Bytes that print in Latin-1 stand for themselves; the others take the code points from 256 on, in turn.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


LETTERS = byte_letters()
BYTES = {letter: byte for byte, letter in LETTERS.items()}


@cache  # asked for the same pieces again whenever a tokenizer is loaded, saved or compared
def to_letters(piece: bytes) -> str:
    """Bytes as tokenizer.json spells them: b" the" is "Ġthe"."""
    return "".join([LETTERS[byte] for byte in piece])


@cache
def to_bytes(letters: str) -> bytes:
    """The inverse of `to_letters`. Raises KeyError on a character that stands for no byte."""
    return bytes([BYTES[letter] for letter in letters])
