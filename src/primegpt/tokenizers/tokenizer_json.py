"""Another's `tokenizer.json`, encoded by the library that it was written for, Hugging Face's `tokenizers`.

What the file says is looked through before the library sees it: parts that would do something else than split, merge
and spell, and sizes and expressions that would take for ever, are refused by name.
"""

import json
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from primegpt.config import MAX_VOCAB
from primegpt.errors import TokenizerError, quoted
from primegpt.tokenizers.base import SECTION, sure_sections
from primegpt.tokenizers.bpe import BYTES
from primegpt.tokenizers.splits import KNOWN, refuse_slow_patterns

if TYPE_CHECKING:
    import tokenizers
    from primegpt.tokenizers.ranks import RankEncoding

Document = dict[str, Any]

MAX_BYTES = 96 * 2**20  # of a tokenizer.json; the largest in use have 33 MB
MAX_VALUES = 3_500_000  # in one, by commas and opening brackets; the largest in use have fewer than 3,000,000
MAX_ADDED = 50_000  # added tokens: Orpheus 3B has 28,700; the library searches texts for all
SPACE = "▁"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
WORTHWHILE = 2_500_000  # characters; making the faster encoding takes as long as encoding so many
_MAKING = threading.Lock()

MODELS = ("BPE", "Unigram")
NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace", "Precompiled", "Sequence")
PRE_TOKENIZERS = ("ByteLevel", "Split", "Digits", "Metaspace", "Punctuation", "Sequence")
DECODERS = ("ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "Sequence")
_INSIDE = {"Sequence": ("normalizers", "pretokenizers", "decoders")}

# Where a text is cut, if that changes no ids: after a letter or a digit, before what none of the splits joins to it.
BORDERS = tuple(re.compile(rf"[^\W_](?={after})") for after in (r"[\s、。，！？；：]", r"\s", " "))
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# The letters of bytes as Latin-1 has them, and what is in Latin-1 without being such a letter as what is not.
_LATIN = dict.fromkeys(range(256), SPACE) | {ord(letter): byte for letter, byte in BYTES.items()}


class JsonVocabulary:
    """What a tokenizer.json makes of a text.

    Attributes:
        document: the content of the file, with the tokens added that stand beside it.
        added: entries of those tokens, and of the file's own that what stands beside it changes.
        pieces: the bytes of each id.
        special_tokens: name -> id of those that no text spells.
        unknown: the piece that the library writes for what the vocabulary cannot express.
        strips: special token -> whether white space before and after it belongs to it.
        prefix_anywhere: whether the prefix stands after special tokens too.
        prefix: what the tokenizer puts before a text: "" or a space, which may be left out before one ("once").
    """

    def __init__(self, document: Document, own: Sequence[Mapping[str, Any]]) -> None:
        """`own` of its added tokens are the file's. Raises ValueError for what is not implemented, with the reason."""
        _check(document)
        there = {token["content"]: token for token in own}
        self.added = [token for token in document["added_tokens"] if there.get(token["content"]) != token]
        self.document = document = _filled(document)
        self.byte_level = any(step["type"] == "ByteLevel" for step in steps_of(document, "pre_tokenizer"))
        self.special_tokens = {t["content"]: t["id"] for t in document["added_tokens"] if t["special"]}
        self.pieces = _pieces(document, self.byte_level)
        self.prefix, self.once = _prefix(document)
        self.prefix_anywhere = bool(self.prefix) and not _first_only(document)
        self.strips = {t["content"]: (t["lstrip"], t["rstrip"]) for t in document["added_tokens"] if t["special"]}
        self.backend = _library(_without_prefix(document) if self.prefix else document)
        self.unknown = _unknown(document["model"])
        self.named = {"unk_token": self.unknown}
        self.adds_bos = _adds_bos(document)
        self.expected = self._encoded = 0  # characters

    def encode(self, text: str) -> NDArray[np.unsignedinteger]:
        """The ids of `text` without a prefix, every character of it ordinary but for tokens that are not special."""
        faster = self._faster_for(len(text))
        found = faster.encode(text) if faster else None
        return self._by_library([text])[0] if found is None else found

    def encode_all(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """`encode` of each text, in one call of the library."""
        faster = self._faster_for(sum(map(len, texts)))
        found = faster.encode_all(texts) if faster else None
        return self._by_library(texts) if found is None else found

    def _faster_for(self, characters: int) -> "RankEncoding | None":
        """The faster encoding, once as much was encoded, or is expected, as it is worth."""
        self._encoded += characters
        if "faster" in vars(self):
            return self.faster
        if max(self._encoded, self.expected) <= WORTHWHILE or not _MAKING.acquire(blocking=False):
            return None  # another thread is at it: meanwhile this one goes on with the library
        try:
            return self.faster
        finally:
            _MAKING.release()

    def _by_library(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        for text in texts:
            text.isascii() or text.encode()  # the library's complaint about half a character is not Python's
        try:
            if len(texts) == 1:
                found = [self.backend.encode(texts[0], add_special_tokens=False)]
            else:
                found = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(each.ids, np.uint32) for each in found]
        except BaseException as error:  # what it raises, and a panic of its, which is no Exception
            raise TokenizerError(f"its tokenizer.json fails on a text ({_reason(error)})", "use another one") from error

    @cached_property
    def faster(self) -> "RankEncoding | None":
        """The same ids from tiktoken, several times as fast, where it is certain that they are the same."""
        from primegpt.tokenizers.ranks import ranks_for

        return ranks_for(self.document) if self.byte_level else None

    def sections(self, text: str) -> list[str]:
        return sure_sections(text, self.border) if len(text) > SECTION and self.border else [text]

    @cached_property
    def border(self) -> re.Pattern[str] | None:
        """Where a text may be cut, if anywhere: no piece reaches over it, and nothing looks back over it."""
        if any(t["rstrip"] or t["single_word"] for t in self.document["added_tokens"] if not t["special"]):
            return None
        if any(step["type"] == "Precompiled" for step in steps_of(self.document, "normalizer")):
            return None
        if any(pattern not in KNOWN for pattern in patterns_of(self.document)):  # which may look back, or far ahead
            return None
        specials = set(self.special_tokens.values())
        pieces = [p.decode("utf-8", "ignore") for id, p in enumerate(self.pieces) if id not in specials]
        return border_of(pieces, BORDERS[-1:] if self.prefix else BORDERS)


def border_of(pieces: Sequence[str], borders: Sequence[re.Pattern[str]] = BORDERS) -> re.Pattern[str] | None:
    """The first of `borders` that none of `pieces` reaches over."""
    return next((border for border in borders if not any(map(border.search, pieces))), None)


def read_document(content: bytes) -> Document:
    """The content of a tokenizer.json, which is not trusted. Raises ValueError."""
    refuse_too_many_values(content)
    document = json.loads(content)
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise ValueError("it does not hold a tokenizer")
    added = document.get("added_tokens") or []
    if not isinstance(added, list):
        raise ValueError("its added_tokens are no list")
    refuse_too_many(len(added))
    for part in ("vocab", "merges"):
        if len(document["model"].get(part) or ()) > MAX_VOCAB:
            raise ValueError(f"the vocabulary is larger than {MAX_VOCAB:,}")
    tokens = [added_token(token, token["id"]) for token in added]
    return {**document, "truncation": None, "padding": None, "added_tokens": tokens}


def refuse_too_many(added: int) -> None:
    if added > MAX_ADDED:
        raise ValueError(f"it adds {added:,} tokens, more than {MAX_ADDED:,}")


def refuse_too_many_values(content: bytes) -> None:
    """Raise ValueError for JSON that would take gigabytes when it is read."""
    if len(content) > MAX_BYTES or sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_BYTES >> 20} MB or {MAX_VALUES:,} values, as no tokenizer does")


def added_token(token: Mapping[str, Any], id: int, *, special: bool = False) -> dict[str, Any]:
    """An entry of added_tokens with all its flags. Raises ValueError."""
    content = token["content"]
    if not isinstance(content, str) or not content or not isinstance(id, int) or not 0 <= id < MAX_VOCAB:
        raise ValueError(f"its added token {quoted(content)} with the id {quoted(id)} is none")
    flags = {flag: bool(token.get(flag)) for flag in FLAGS}
    return {"id": id, "content": content, **flags, "special": special or flags["special"]}


def steps_of(document: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """The steps of a part ("normalizer", "pre_tokenizer", "decoder") in a line, sequences taken apart."""
    return list(_flat(document.get(part)))


def _flat(step: Any) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    if step["type"] == "Sequence":
        inner = next(step[key] for key in _INSIDE["Sequence"] if key in step)
        for each in inner:
            yield from _flat(each)
    else:
        yield step


def patterns_of(document: Mapping[str, Any]) -> list[str]:
    """The regular expressions that split."""
    patterns = (step["pattern"] for step in steps_of(document, "pre_tokenizer") if step["type"] == "Split")
    return [pattern["Regex"] for pattern in patterns if "Regex" in pattern]


def _check(document: Document) -> None:
    model = document["model"]
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in MODELS:
        raise ValueError(f"its model is {quoted(kind)}, which primegpt does not have")
    parts = (("normalizer", NORMALIZERS), ("pre_tokenizer", PRE_TOKENIZERS), ("decoder", DECODERS))
    for part, allowed in parts:
        for step in steps_of(document, part):
            if step["type"] not in allowed:
                raise ValueError(f"its {part.replace('_', '-')} {quoted(step['type'])} is not one that primegpt has")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ValueError(f"its model has {name} = {quoted(model[name])}, which primegpt does not have")
    for step in steps_of(document, "normalizer"):
        if step["type"] == "Replace" and (step["pattern"], step["content"]) != ({"String": " "}, SPACE):
            replaced = f"{quoted(step['pattern'])} by {quoted(step['content'])}"
            raise ValueError(f"its normalizer replaces {replaced}, which would change the text")
    if kind == "BPE":
        if not all(map(all, _pairs(model))):
            raise ValueError("one of its merges joins nothing")
    elif not all(isinstance(score, float | int) and math.isfinite(score) for _, score in model["vocab"]):
        raise ValueError("one of its scores is no number")
    _check_unknown(model, kind)
    if not all(type(id) is int and 0 <= id < MAX_VOCAB for id in vocabulary_of(document).values()):
        raise ValueError(f"one of its ids is none, or the vocabulary is larger than {MAX_VOCAB:,}")
    refuse_slow_patterns(document, patterns_of(document))


def _check_unknown(model: Mapping[str, Any], kind: str) -> None:
    """Raise ValueError where the library would fail on what the vocabulary cannot express."""
    if kind == "Unigram":
        id = model.get("unk_id")
        if type(id) is not int or not 0 <= id < len(model["vocab"]):
            raise ValueError(f"its unk_id {quoted(id)} is none of its pieces")
    elif (name := model.get("unk_token")) and name not in model["vocab"] and not model["vocab"].keys() >= BYTES.keys():
        raise ValueError(f"its unk_token {quoted(name)} is none of its pieces")


def _pairs(model: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for merge in model["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if len(pair) != 2:
            raise ValueError(f"{quoted(merge)} is not a merge of two pieces")
        yield pair


def vocabulary_of(document: Mapping[str, Any]) -> dict[str, int]:
    """Piece -> id, the added tokens among them."""
    found = document["model"]["vocab"]
    pieces = found if isinstance(found, dict) else {piece: id for id, (piece, _) in enumerate(found)}
    return {**pieces, **{token["content"]: token["id"] for token in document["added_tokens"]}}


def _filled(document: Document) -> Document:
    """The same with a special token for each id that the file leaves out, as where a table was made longer."""
    used = set(vocabulary_of(document).values())
    gaps = [id for id in range(max(used, default=-1) + 1) if id not in used] if len(used) < MAX_VOCAB else []
    if not gaps:
        return document
    if len(gaps) > MAX_ADDED or document["model"].get("type") == "Unigram":
        raise ValueError(f"it leaves out {len(gaps):,} ids")
    tokens = [added_token({"content": f"[unused {id}]"}, id, special=True) for id in gaps]
    added = sorted([*document["added_tokens"], *tokens], key=lambda token: token["id"])
    vocabulary = document["model"]["vocab"] | {token["content"]: token["id"] for token in tokens}
    return {**document, "added_tokens": added, "model": {**document["model"], "vocab": vocabulary}}


def _pieces(document: Document, byte_level: bool) -> list[bytes]:
    """The bytes of each id."""
    vocabulary = vocabulary_of(document)
    pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError("two of its pieces have the same id")
    added = {token["content"] for token in document["added_tokens"]}
    fallback = bool(document["model"].get("byte_fallback"))
    for piece, id in vocabulary.items():
        pieces[id] = piece.encode() if piece in added else _spelt(piece, byte_level, fallback)
    return pieces


def _spelt(piece: str, byte_level: bool, fallback: bool) -> bytes:
    if byte_level:
        try:
            return piece.translate(_LATIN).encode("latin-1")
        except UnicodeEncodeError:  # a character that stands for no byte
            return piece.encode()
    if fallback and (found := _BYTE.fullmatch(piece)):
        return bytes([int(found[1], 16)])
    return piece.replace(SPACE, " ").encode()


def _prefix(document: Document) -> tuple[str, bool]:
    """The space before a text, and whether one that begins with a space goes without."""
    normalizers = steps_of(document, "normalizer")
    metaspace = [step for step in steps_of(document, "pre_tokenizer") if step["type"] == "Metaspace"]
    prepended = any(step["type"] == "Prepend" for step in normalizers)
    spaced = any(_scheme(step) != "never" for step in metaspace)
    level = any(s["type"] == "ByteLevel" and s.get("add_prefix_space") for s in steps_of(document, "pre_tokenizer"))
    if any(step["type"] == "Prepend" and step["prepend"] != SPACE for step in normalizers):
        raise ValueError("its normalizer 'Prepend' puts something else than a space before a text")
    if prepended + spaced + level > 1:
        raise ValueError("it puts a space before a text twice")
    if prepended + spaced + level and any(not token["special"] for token in document["added_tokens"]):
        raise ValueError("it puts a space before a text, and has added tokens that are not special")
    return " " if prepended + spaced + level else "", not prepended


def _unknown(model: Mapping[str, Any]) -> str | None:
    """The token for what the vocabulary cannot express."""
    id = model.get("unk_id")
    return model.get("unk_token") if id is None else model["vocab"][id][0]


def _adds_bos(document: Document) -> bool:
    """Whether the original puts a special token before a text."""
    steps = document.get("post_processor") or {}
    for step in steps.get("processors", [steps]):
        first = next(iter(step.get("single") or ()), {}) if step.get("type") == "TemplateProcessing" else {}
        if "SpecialToken" in first:
            return True
    return False


def _first_only(document: Document) -> bool:
    """Whether the space stands before the whole text alone, and not before what follows a special token too."""
    return any(_scheme(s) == "first" for s in steps_of(document, "pre_tokenizer") if s["type"] == "Metaspace")


def _scheme(metaspace: Mapping[str, Any]) -> str:
    return metaspace.get("prepend_scheme") or ("always" if metaspace.get("add_prefix_space", True) else "never")


def _without_prefix(document: Document) -> Document:
    """The same, but for the space before a text, which is put there by whoever knows where a text begins."""

    def changed(step: Any) -> Any:
        if step is None or step["type"] == "Prepend":
            return None
        if step["type"] == "Sequence":
            key = next(key for key in _INSIDE["Sequence"] if key in step)
            return {**step, key: [new for each in step[key] if (new := changed(each)) is not None]}
        if step["type"] == "Metaspace":
            return {**step, "prepend_scheme": "never", "add_prefix_space": False}
        return {**step, "add_prefix_space": False} if step["type"] == "ByteLevel" else step

    return {**document, **{part: changed(document.get(part)) for part in ("normalizer", "pre_tokenizer")}}


def _library(document: Document) -> "tokenizers.Tokenizer":
    import tokenizers

    try:
        library = tokenizers.Tokenizer.from_str(json.dumps({**document, "post_processor": None}, ensure_ascii=False))
    except BaseException as error:  # the library raises no narrower one, and a panic of its is no Exception
        raise ValueError(_reason(error)) from error
    for token in document["added_tokens"]:
        if library.token_to_id(token["content"]) != token["id"]:  # it goes on counting where the file leaves a gap
            raise ValueError(f"its added token {quoted(token['content'])} leaves a gap before its id {token['id']}")
    library.encode_special_tokens = True
    return library


def _reason(error: BaseException) -> str:
    """What the library says in its first line. Raises `error` where it is not the library's."""
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        raise error
    return quoted(next(iter(str(error).splitlines()), type(error).__name__))
