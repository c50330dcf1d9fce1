"""Another's `tokenizer.model`, encoded by the library that it was written for, `sentencepiece`.

The library is given what is made anew of the file's pieces, scores and switches, each of them looked at first.
"""

import math
import re
import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from primegpt.config import MAX_VOCAB
from primegpt.errors import quoted
from primegpt.tokenizers.base import SECTION, sure_sections
from primegpt.tokenizers.sentencepiece_model import BPE, BYTE, BYTE_PIECES, CONTROL, NORMAL, UNKNOWN, fields, message
from primegpt.tokenizers.tokenizer_json import BORDERS, border_of

if TYPE_CHECKING:
    import sentencepiece

UNIGRAM, USER_DEFINED = 1, 4
UNUSED = 5  # in GGUF files the type of ids that pad a vocabulary, too
SPACE = "▁"


class Piece(NamedTuple):
    name: str
    score: float
    type: int


class Model(NamedTuple):
    """What a tokenizer.model says that has a say in encoding."""

    pieces: Sequence[Piece]
    type: int = BPE
    byte_fallback: bool = True
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = False
    unk: int = 0
    bos: int = 1
    eos: int = 2
    pad: int = -1

    def content(self) -> bytes:
        """The file."""
        ids = [(40, self.unk), (41, self.bos), (42, self.eos), (43, self.pad)]
        trainer = [(3, self.type), (4, len(self.pieces)), (35, int(self.byte_fallback)), *ids]
        switches = [(3, int(self.add_dummy_prefix)), (4, int(self.remove_extra_whitespaces)), (5, 1)]
        entries = [(1, message([(1, name), (2, float(score)), (3, type)])) for name, score, type in self.pieces]
        return message([*entries, (2, message(trainer)), (3, message([(1, "identity"), (2, ""), *switches]))])


def read_model(content: bytes) -> Model:
    """Raises ValueError for what is no such file, or says what is not implemented."""
    pieces, trainer, normalizer = list[Piece](), dict[int, Any](), dict[int, Any]()
    for number, value in fields(content):
        if number == 1:
            entry = dict(fields(value))
            score = struct.unpack("<f", entry.get(2, b"\0\0\0\0"))[0]
            pieces.append(Piece(entry[1].decode(), score, entry.get(3, NORMAL)))
            if len(pieces) > MAX_VOCAB:
                raise ValueError(f"the vocabulary is larger than {MAX_VOCAB:,}")
        elif number in (2, 3):
            (trainer if number == 2 else normalizer).update(fields(value))
    if not pieces:
        raise ValueError("it is not a SentencePiece model: it has no pieces")
    kind, rule = trainer.get(3, UNIGRAM), normalizer.get(1, b"").decode()
    if kind not in (UNIGRAM, BPE):
        raise ValueError(f"its model is of SentencePiece's type {kind}, where 1 (unigram) or 2 (BPE) is needed")
    if normalizer.get(2):
        raise ValueError(f"its normalizer {quoted(rule)} would change the text")
    if not normalizer.get(5, 1) or trainer.get(24):
        raise ValueError("it treats white space otherwise: escape_whitespaces, or treat_whitespace_as_suffix")
    if normalizer.get(4, 1):
        raise ValueError("it leaves out white space (remove_extra_whitespaces)")
    ids = [_signed(trainer.get(number, default)) for number, default in ((40, 0), (41, 1), (42, 2), (43, -1))]
    switches = bool(trainer.get(35, 0)), bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1))
    model = Model(pieces, kind, *switches, *ids)
    check(model)
    return model


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def check(model: Model) -> None:
    """Raise ValueError for pieces that the library would stumble over."""
    names = set[str]()
    for name, score, kind in model.pieces:
        if not name or "\0" in name or name in names:
            raise ValueError(f"its piece {quoted(name)} is empty, or there twice")
        if not math.isfinite(score):
            raise ValueError(f"the score of its piece {quoted(name)} is {score}")
        if kind not in (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE):
            raise ValueError(f"its piece {quoted(name)} is of the type {kind}, which there is not")
        names.add(name)
    unknown = [id for id, piece in enumerate(model.pieces) if piece.type == UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(f"it has {len(unknown)} pieces of the type unknown, where there must be one")
    if model.byte_fallback and not names.issuperset(BYTE_PIECES):
        raise ValueError("it falls back to bytes, and not each has a piece")


class SentencePieceVocabulary:
    """What a tokenizer.model makes of a text. Attributes as of `JsonVocabulary`."""

    added: Sequence[Mapping[str, Any]] = ()  # all that may stand beside such a file are special tokens
    once = prefix_anywhere = False
    strips: Mapping[str, tuple[bool, bool]] = {}

    def __init__(self, model: Model) -> None:
        self.model = model
        ids = {"unk_token": model.unk, "bos_token": model.bos, "eos_token": model.eos, "pad_token": model.pad}
        self.named = {role: model.pieces[id].name for role, id in ids.items() if 0 <= id < len(model.pieces)}
        self.adds_bos = "bos_token" in self.named
        self.special_tokens = {p.name: id for id, p in enumerate(model.pieces) if p.type in (CONTROL, UNKNOWN, UNUSED)}
        self.pieces = [_bytes_of(piece) for piece in model.pieces]
        self.prefix = " " if model.add_dummy_prefix else ""
        unk = next(id for id, piece in enumerate(model.pieces) if piece.type == UNKNOWN)
        self.unknown = model.pieces[unk].name
        self.backend = _library(model._replace(add_dummy_prefix=False, unk=unk))

    def encode(self, text: str) -> NDArray[np.unsignedinteger]:
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        for text in texts:
            text.isascii() or text.encode()  # the library's complaint about half a character is not Python's
        found = self.backend.encode(list(texts), out_type="numpy", num_threads=1)
        return [ids.astype(np.uint32) for ids in found]

    def sections(self, text: str) -> list[str]:
        return sure_sections(text, self.border) if len(text) > SECTION and self.border else [text]

    @cached_property
    def border(self) -> re.Pattern[str] | None:
        """Where a text may be cut, if anywhere: between a word and the space after it, if no piece reaches over it."""
        return border_of([piece.decode("utf-8", "ignore") for piece in self.pieces], BORDERS[-1:])


def _bytes_of(piece: Piece) -> bytes:
    if piece.type == BYTE:
        return bytes([int(piece.name[3:5], 16)])
    return (piece.name if piece.type in (CONTROL, UNKNOWN) else piece.name.replace(SPACE, " ")).encode()


def _library(model: Model) -> "sentencepiece.SentencePieceProcessor":
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model.content())
    except (RuntimeError, OSError) as error:
        raise ValueError(f"SentencePiece refuses it: {str(error).splitlines()[0]}") from error
