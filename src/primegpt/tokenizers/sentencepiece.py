"""SentencePiece byte-pair encoding (Kudo & Richardson 2018): pieces learnt from characters, bytes for all the rest.

Text is taken as it is. A space begins the word after it, and is spelt ▁ (U+2581) inside pieces; a newline, a tab and
any character that is rare are written as their UTF-8 bytes, so nothing is ever unknown. A ▁ of the text's own goes
through its bytes too: that is the one place where ids differ from the library's, which would make a space of it.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from primegpt.config import MAX_VOCAB
from primegpt.errors import ConfigError
from primegpt.tokenizers.base import SpecialTokens, Tokenizer, refuse_collisions, sections, special_kinds
from primegpt.tokenizers.sentencepiece_model import BYTE_PIECES, read_names, write_model

if TYPE_CHECKING:
    import sentencepiece

SPACE = "▁"
COVERAGE = 0.9995  # of the characters of the text that become pieces, the most frequent first

# No piece goes on into the next word or across a newline, so each of these can be encoded by itself.
WORD = re.compile(f"{SPACE}|[ \n]?[^ \n{SPACE}]+|[ \n]")
SURE_SPLIT = re.compile(r"(?s:.)(?=[ \n])")
MAX_CACHED_WORDS = 500_000
MAX_CACHED_LENGTH = 40  # characters; what is longer hardly comes again

# What the trainer reads: words without the characters that it keeps for itself, and their counts.
LEARNER_WORD = re.compile(f" ?[^ \n\t\0{SPACE}\u2585]{{1,200}}")
MAX_LEARNER_WORDS = 1_000_000


class SentencePieceBPE(Tokenizer):
    """`<PAD> <UNK> <BOS> <EOS>` (ids 0-3), the user's special tokens, the 256 bytes, then the pieces as learnt.

    Ids equal those of the `sentencepiece` library on the saved tokenizer.model, for text without ▁, and up to one
    exception: a stretch of more than 50,000 characters without a space or a newline may be cut inside a piece.
    Decoding gives back the text in every case.
    """

    kind = "sentencepiece"
    file_names = ("tokenizer.model",)
    system_tokens = ("<PAD>", "<UNK>", "<BOS>", "<EOS>")
    pad_token, unk_token, bos_token, eot_token = system_tokens

    def __init__(self, pieces: Sequence[str], special_tokens: SpecialTokens | None = None) -> None:
        """`pieces` in the order of merging. Raises ValueError for one that no training of ours gives."""
        self.pieces = list(pieces)
        kinds = special_kinds(self.system_tokens, special_tokens)
        names = [name for group in kinds.values() for name in group]
        ordinary = [*BYTE_PIECES, *self.pieces]
        refuse_collisions(names, set(ordinary))
        _check_pieces(self.pieces)
        content = [bytes([byte]) for byte in range(256)] + [p.replace(SPACE, " ").encode() for p in self.pieces]
        super().__init__([*(name.encode() for name in names), *content], {n: i for i, n in enumerate(names)}, kinds)
        first_byte = len(names)
        self._words = _WordIds(self, {SPACE: [first_byte + byte for byte in SPACE.encode()]})

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int | None = None, special_tokens: SpecialTokens | None = None
    ) -> Self:
        """Learn up to `vocab_size` - 256 - (special tokens) pieces; fewer if the text has no pair left to merge.

        Raises ConfigError if `vocab_size` is missing or has no room for the characters of the text.
        """
        others = 256 + sum(map(len, special_kinds(cls.system_tokens, special_tokens).values()))
        if vocab_size is None or vocab_size <= others:
            raise ConfigError(
                f"tokenizer.vocab_size = {vocab_size} is too small for SentencePiece",
                f"use more than {others}: 256 bytes, {others - 256} special tokens, and the characters of the text",
            )
        return cls(learn_pieces(count_words(texts), vocab_size - others, others), special_tokens)

    @cached_property
    def processor(self) -> "sentencepiece.SentencePieceProcessor":
        """The same vocabulary in the `sentencepiece` library."""
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self._model())

    def _sections(self, text: str) -> list[str]:
        return sections(text, SURE_SPLIT)

    def _encode_section(self, text: str) -> NDArray[np.unsignedinteger]:
        text.isascii() or text.encode()  # the library's complaint about half a character is not Python's
        return np.fromiter(chain.from_iterable(map(self._words.__getitem__, WORD.findall(text))), self.id_dtype)

    def _identity(self) -> dict[str, object]:
        return {"pieces": self.pieces}

    def _model(self) -> bytes:
        system, *own = self.special_kinds.values()
        return write_model(system, [name for names in own for name in names], self.pieces)

    def _files(self) -> dict[str, bytes]:
        return {"tokenizer.model": self._model()}

    @classmethod
    def _from_files(cls, files: Mapping[str, bytes], special_tokens: SpecialTokens) -> Self:
        names = read_names(files["tokenizer.model"])
        if len(names) > MAX_VOCAB:
            raise ValueError(f"the vocabulary is larger than {MAX_VOCAB:,}")
        others = 256 + sum(map(len, special_kinds(cls.system_tokens, special_tokens).values()))
        tokenizer = cls(names[others:], special_tokens)
        if tokenizer._model() != files["tokenizer.model"]:  # only what we would have written reaches the library
            raise ValueError("tokenizer.model is not that of these pieces and special tokens")
        return tokenizer


class _WordIds(dict[str, list[int]]):
    """Word -> ids, by the library when a word is first met: three times as fast as asking it for every one."""

    def __init__(self, tokenizer: SentencePieceBPE, known: Mapping[str, list[int]]) -> None:
        super().__init__(known)
        self.tokenizer, self.known = tokenizer, known

    def __missing__(self, word: str) -> list[int]:
        ids = self.tokenizer.processor.encode(word, out_type=int)
        if len(word) <= MAX_CACHED_LENGTH:
            if len(self) >= MAX_CACHED_WORDS:
                self.clear()
                self.update(self.known)
            self[word] = ids
        return ids


def count_words(texts: Iterable[str]) -> Counter[str]:
    """The words of `texts`, each with the space before it. When there are too many, the rarer half is forgotten."""
    counts: Counter[str] = Counter()
    for text in texts:
        for section in sections(text, SURE_SPLIT):
            counts.update(LEARNER_WORD.findall(section))
            if len(counts) > MAX_LEARNER_WORDS:
                counts = Counter(dict(counts.most_common(MAX_LEARNER_WORDS // 2)))
    return counts


def learn_pieces(words: Mapping[str, int], count: int, others: int) -> list[str]:
    """The `count` pieces (or fewer) that the library learns from counted words, in order of merging.

    Pieces never reach over a space, so words and counts are all that there is to learn from. Raises ConfigError,
    counting `others` ids beside them, if the characters alone are too many.
    """
    import sentencepiece

    trained = io.BytesIO()
    try:
        if words:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter([f"{word}\t{count}" for word, count in words.items()]),
                input_format="tsv",
                model_writer=trained,
                model_type="bpe",
                vocab_size=count + 1,  # and <unk>, which the library insists on
                hard_vocab_limit=False,
                character_coverage=COVERAGE,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                bos_id=-1,
                eos_id=-1,
                minloglevel=2,
            )
    except RuntimeError as error:
        needed = re.search(r"smaller than required_chars. \d+ vs (\d+)", str(error))
        if not needed:
            raise
        raise ConfigError(
            f"tokenizer.vocab_size = {count + others} has no room for the characters of the text",
            f"use at least {int(needed[1]) + others}, or the kind bpe, which starts from bytes",
        ) from error
    library = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue()) if words else None
    learnt = [library.id_to_piece(id) for id in range(1, library.vocab_size())] if library else []
    # A space must have a piece: its fallback would be the bytes of ▁, which are the text's own ▁.
    return learnt if SPACE in learnt else [*learnt[: count - 1], SPACE]


def _check_pieces(pieces: Sequence[str]) -> None:
    if len(set(pieces)) < len(pieces) or SPACE not in pieces:
        raise ValueError("a piece is there twice, or the space is not")
    for piece in pieces:
        if not piece or SPACE in piece[1:] or " " in piece or "\n" in piece:
            raise ValueError(f"{piece!r} cannot be a piece")
