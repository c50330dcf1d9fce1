"""Tokenizers of others in a GGUF file's terms, for llama.cpp to give the same ids.

llama.cpp knows splits by name, and of SentencePiece it merges by the scores of pieces. What it cannot express is
refused. It normalizes nothing: of a tokenizer that composes letters and accents first (NFC, as Qwen's does), text that
is not composed has other ids there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from primegpt.errors import UsageError, quoted
from primegpt.tokenizers.imported import Imported
from primegpt.tokenizers.sentencepiece_files import SentencePieceVocabulary
from primegpt.tokenizers.sentencepiece_model import BPE, BYTE, BYTE_PIECES, CONTROL, NORMAL, UNKNOWN
from primegpt.tokenizers.splits import BY_NAME, GPT2, IGNORE_MERGES, split
from primegpt.tokenizers.tokenizer_json import Document, JsonVocabulary, steps_of, vocabulary_of

USER_DEFINED = 4
REMEDY = "`--to hf` takes this run as it is"


@dataclass(frozen=True)
class Described:
    """A vocabulary in llama.cpp's terms: the spelling and the type of each id, and merges or scores."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_prefix: bool = False


def described(tokenizer: Imported) -> Described:
    """Raises UsageError, with the reason, for what llama.cpp has no like of."""
    vocabulary = tokenizer.vocabulary
    try:
        if isinstance(vocabulary, SentencePieceVocabulary):
            return _scored(tokenizer, vocabulary)
        if not isinstance(vocabulary, JsonVocabulary):
            raise ValueError(f"{tokenizer.source} has ranks in place of merges, and GGUF has no place for them")
        if any(token[flag] for token in _ordinary(vocabulary.document) for flag in ("lstrip", "rstrip", "single_word")):
            raise ValueError("it has added tokens that take white space with them, or stand alone")
        return _merged(vocabulary) if vocabulary.byte_level else _ranked(vocabulary)
    except ValueError as error:
        raise UsageError(f"llama.cpp cannot encode as this run's tokenizer does ({error})", REMEDY) from error


def _ordinary(document: Document) -> list[dict[str, Any]]:
    return [token for token in document["added_tokens"] if not token["special"]]


def _merged(vocabulary: JsonVocabulary) -> Described:
    """Byte-level BPE: merges in order, and a split that has a name."""
    document = vocabulary.document
    for step in steps_of(document, "normalizer"):
        if step["type"] != "NFC":
            raise ValueError(f"it normalizes text by {quoted(step['type'])}")
    if vocabulary.prefix:
        raise ValueError("it puts a space before a text")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"]]
    return Described("gpt2", _name_of_split(document), *_spelt(document), merges=merges)


def _name_of_split(document: Document) -> str:
    *before, level = steps_of(document, "pre_tokenizer")
    steps = [*before, *([split(GPT2)] if level.get("use_regex", True) else [])]
    whole = bool(document["model"].get("ignore_merges"))
    names = [name for name, known in BY_NAME.items() if known == steps and (name in IGNORE_MERGES) == whole]
    if level["type"] != "ByteLevel" or not names:
        raise ValueError("its split has no name there")
    return names[0]


def _spelt(document: Document) -> tuple[list[str], list[int]]:
    """The spelling and the type of each id."""
    ids = vocabulary_of(document)
    added = {token["content"]: CONTROL if token["special"] else USER_DEFINED for token in document["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    return tokens, [added.get(token, NORMAL) for token in tokens]


def _ranked(vocabulary: JsonVocabulary) -> Described:
    """SentencePiece as tokenizer.json has it: pieces get scores in the order of the merges that make them."""
    document, model = vocabulary.document, vocabulary.document["model"]
    if model.get("type", "BPE") != "BPE" or not model.get("byte_fallback"):
        raise ValueError("it is Unigram, or has no pieces for bytes")
    normalizers = {step["type"] for step in steps_of(document, "normalizer")}
    splits = {step["type"] for step in steps_of(document, "pre_tokenizer")}
    if not normalizers <= {"Prepend", "Replace"} or not splits <= {"Metaspace"} or not normalizers | splits:
        raise ValueError("it normalizes or splits text as SentencePiece does not")
    tokens, types = _spelt(document)
    bytes_, unknown = set(BYTE_PIECES), model.get("unk_token")
    types = [BYTE if t in bytes_ else UNKNOWN if t == unknown else kind for t, kind in zip(tokens, types, strict=True)]
    return Described(
        "llama", "default", tokens, types, scores=_scores(model, tokens), space_prefix=bool(vocabulary.prefix)
    )


def _scores(model: Mapping[str, Any], tokens: list[str]) -> list[float]:
    rank: dict[str, int] = {}
    for merge in model["merges"]:
        rank.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), len(rank))
    return [-float(rank.get(token, len(rank))) for token in tokens]


def _scored(tokenizer: Imported, vocabulary: SentencePieceVocabulary) -> Described:
    """SentencePiece with its own scores."""
    model = vocabulary.model
    if model.type != BPE or not model.byte_fallback or model.remove_extra_whitespaces:
        raise ValueError("it is Unigram, has no pieces for bytes, or leaves out white space")
    names = {id: name for name, id in tokenizer.special_tokens.items()}
    beyond = range(len(model.pieces), tokenizer.vocab_size)
    return Described(
        "llama",
        "default",
        [*(piece.name for piece in model.pieces), *(names[id] for id in beyond)],
        [*(piece.type for piece in model.pieces), *(CONTROL for _ in beyond)],
        scores=[*(float(piece.score) for piece in model.pieces), *(0.0 for _ in beyond)],
        space_prefix=model.add_dummy_prefix,
    )
