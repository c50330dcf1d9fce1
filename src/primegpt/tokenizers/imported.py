"""Tokenizers of others, kept in their own files and encoded by the libraries that those were written for.

tokenizer.json goes through Hugging Face's `tokenizers` (or tiktoken, where the ids are certain to be the same),
tokenizer.model through `sentencepiece`, *.tiktoken and tekken.json through tiktoken. What was read is what is saved and
exported, byte for byte; tokens added later stand where Transformers looks for them.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from primegpt.errors import ConfigError, DataError, quoted
from primegpt.tokenizers import companions
from primegpt.tokenizers.base import SECTION, SYSTEM, SpecialTokens, Tokenizer, special_kinds
from primegpt.tokenizers.chat_template import apart, render, with_marks
from primegpt.tokenizers.companions import JSON, MERGES, MODEL, PAIR, TEKKEN, TIKTOKEN, VOCAB, Settings
from primegpt.tokenizers.sentencepiece_files import SentencePieceVocabulary, read_model
from primegpt.tokenizers.tiktoken_files import TiktokenVocabulary, read_ranks, read_tekken
from primegpt.tokenizers.tokenizer_json import JsonVocabulary, read_document
from primegpt.tokenizers.vocab_merges import class_of, document_of_pair


class Vocabulary(Protocol):
    """What one of the libraries makes of a text (see tokenizer_json.py)."""

    @property
    def pieces(self) -> list[bytes]: ...

    @property
    def special_tokens(self) -> dict[str, int]: ...

    @property
    def named(self) -> Mapping[str, str | None]: ...

    @property
    def unknown(self) -> str | None: ...

    @property
    def added(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def adds_bos(self) -> bool: ...

    @property
    def prefix(self) -> str: ...

    @property
    def once(self) -> bool: ...

    @property
    def strips(self) -> Mapping[str, tuple[bool, bool]]: ...

    @property
    def prefix_anywhere(self) -> bool: ...

    def encode(self, text: str) -> NDArray[np.unsignedinteger]: ...

    def encode_all(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]: ...

    def sections(self, text: str) -> list[str]: ...


class Imported(Tokenizer):
    """Another's tokenizer: its ids, its special tokens, its end of text.

    Attributes:
        chat_template: the Jinja template of its conversations, if it came with one.
        adds_bos: whether the original puts its beginning-of-text id before a text.
    """

    kind = "imported"
    file_names = ()
    system_tokens = ()

    def __init__(self, files: Mapping[str, bytes], special_tokens: SpecialTokens | None = None) -> None:
        """Raises ValueError, with the reason, for files that cannot be used; `special_tokens` come after its own."""
        self.source = source_of(files)
        settings = companions.read(files)
        self.vocabulary = _read(self.source, files, settings)
        own = dict(sorted(self.vocabulary.special_tokens.items(), key=lambda item: item[1]))
        added = special_kinds((), special_tokens)
        added.pop(SYSTEM)
        new = [name for names in added.values() for name in names if name not in own]
        if new:
            raise ValueError(f"it has no special token {quoted(new[0])}")
        kinds = {SYSTEM: tuple(name for name in own if not any(name in names for names in added.values())), **added}
        super().__init__(self.vocabulary.pieces, own, kinds)
        self.roles = settings.roles(own, self.vocabulary.named)
        self.eot_token, self.bos_token = self.roles.eot, self.roles.bos
        self.pad_token, self.unk_token = self.roles.pad, self.roles.unk
        self.chat_template, self._class = settings.chat_template, settings.kind
        asked = self.vocabulary.adds_bos if settings.adds_bos is None else settings.adds_bos
        self.adds_bos = bool(asked) and self.bos_token is not None
        self.files, self._unknown = dict(files), dict[str, bool]()
        self._never = np.zeros(self.vocab_size, bool)
        # What the library writes for what it cannot express is no mark that a text could forge, unless it ends one.
        unknown = self.vocabulary.unknown if self.vocabulary.unknown != self.eot_token else None
        self._never[[id for name, id in own.items() if name != unknown]] = True
        if alone := next((name for name in own if len(name) == 1 and name != unknown), None):
            raise ValueError(f"its special token {quoted(alone)} is a character of ordinary text")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int | None, special_tokens: SpecialTokens | None = None) -> Self:
        raise ConfigError("a tokenizer of the kind 'imported' is not learnt", "name its files with --tokenizer.path")

    def with_special_tokens(self, added: SpecialTokens) -> Self:
        own = {kind: names for kind, names in self.special_kinds.items() if kind != SYSTEM}
        names = [name for group in special_kinds((), added).values() for name in group]
        new = [name for name in names if name not in self.special_tokens]
        files = companions.with_tokens(self.files, self.source, new, self.vocab_size)
        return type(self)(files, {**own, **added})

    # ---- text to ids

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """`encode_array` of each text, on the calling thread; in one call of the library unless one is long."""
        if not texts or max(map(len, texts)) > SECTION:
            return super().encode_arrays(texts)
        try:
            found = self.vocabulary.encode_all([self.space_before(text) + text for text in texts])
        except UnicodeEncodeError:
            return super().encode_arrays(texts)  # which says where
        if self._never[np.concatenate(found)].any():
            return super().encode_arrays(texts)
        return [ids.astype(self.id_dtype) for ids in found]

    def expect(self, characters: int) -> None:
        if isinstance(self.vocabulary, JsonVocabulary):
            self.vocabulary.expected = max(self.vocabulary.expected, characters)

    def encode_within(self, text: str) -> list[int]:
        return self._within(text).tolist()

    def conversation_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation as its chat template lays it out, up to where the assistant is to go on.

        Special tokens that a message spells stay text. Raises TokenizerError where the template fails.
        """
        assert self.chat_template is not None
        marked, mark = with_marks(messages, self.special_tokens)
        tokens = {"bos_token": self.bos_token or "", "eos_token": self.eot_token, "pad_token": self.pad_token or ""}
        text = render(self.chat_template, marked, tokens)
        ids, strips = list[int](), self.vocabulary.strips
        parts = apart(text, self.special_tokens, mark)
        for at, (part, special) in enumerate(parts):
            if special:
                ids.append(self.special_tokens[part])
                continue
            if at and strips.get(parts[at - 1][0], (False, False))[1]:
                part = part.lstrip()
            if at + 1 < len(parts) and strips.get(parts[at + 1][0], (False, False))[0]:
                part = part.rstrip()
            ids += self.encode(part) if at == 0 or self.vocabulary.prefix_anywhere else self.encode_within(part)
        return ids

    def _sections(self, text: str) -> list[str]:
        return self.vocabulary.sections(self.space_before(text) + text)

    def space_before(self, text: str) -> str:
        prefix = self.vocabulary.prefix
        there = not text or (self.vocabulary.once and text.startswith((prefix, "▁")))
        return "" if not prefix or there else prefix

    def _encode_section(self, text: str) -> NDArray[np.unsignedinteger]:
        return self._within(text).astype(self.id_dtype)

    def _within(self, text: str) -> NDArray[np.unsignedinteger]:
        """The ids of `text` as it stands inside another, none of them special."""
        ids = self.vocabulary.encode(text)
        if not self._never[ids].any():
            return ids
        # A library that takes spelt names for special ones is never shown a whole one.
        return np.concatenate([self._in_parts(part) for part in self._spelt.split(text)])

    def _in_parts(self, text: str) -> NDArray[np.unsignedinteger]:
        """The ids of `text`, cut in two until nothing in it becomes a special token, as what is normalized to one."""
        ids = self.vocabulary.encode(text)
        if not self._never[ids].any():
            return ids
        if len(text) == 1:
            name = self.decode_within(ids[self._never[ids]][:1])
            raise DataError(f"the tokenizer has nothing but {name!r} for {text!r}", "leave it out of the text")
        half = len(text) // 2
        return np.concatenate([self._in_parts(text[:half]), self._in_parts(text[half:])])

    @cached_property
    def _spelt(self) -> re.Pattern[str]:
        """The places inside of spelt special tokens."""
        names = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile("|".join(f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in names))

    def count_unknown(self, text: str) -> dict[str, int]:
        if self._has_all_bytes:
            return {}
        return {letter: count for letter, count in Counter(text).most_common() if self._is_unknown(letter)}

    @cached_property
    def _has_all_bytes(self) -> bool:
        return {bytes([byte]) for byte in range(256)}.issubset(self._pieces)

    def _is_unknown(self, letter: str) -> bool:
        """Whether the library has nothing for a character, or what it writes for all such."""
        if letter not in self._unknown:
            try:
                ids = self.vocabulary.encode(letter)
            except UnicodeEncodeError:
                return False  # encoding it says so
            self._unknown[letter] = not ids.size or self._unknown_id in ids
        return self._unknown[letter]

    @cached_property
    def _unknown_id(self) -> int | None:
        """The piece that the library writes for what it cannot express."""
        name = self.vocabulary.unknown
        return None if name is None else self._pieces.index(name.encode())

    def cut(self, text: str, size: int) -> Iterator[str]:
        """Of a text that gets a space before it, the parts after the first lack theirs, which `encode` puts there."""
        part, length, first = list[str](), 0, True
        dropped = "" if self.vocabulary.once else self.vocabulary.prefix
        for section in self.vocabulary.sections(text):
            part.append(section)
            length += len(section)
            if length >= size:
                yield "".join(part).removeprefix("" if first else dropped)
                part, length, first = [], 0, False
        if part:
            yield "".join(part).removeprefix("" if first else dropped)

    # ---- ids to text

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """As `Tokenizer.decode`, without the space that `encode` puts before a text."""
        return super().decode(ids, skip_special_tokens).removeprefix(self.vocabulary.prefix)

    def decode_within(self, ids: Iterable[int]) -> str:
        return super().decode(ids)

    @property
    def eot_id(self) -> int:
        return self.roles.eot_id

    @property
    def opening_id(self) -> int | None:
        return self.bos_id if self.adds_bos else None

    # ---- storage

    def _identity(self) -> dict[str, object]:
        parts = [self.source, *([MERGES] if self.source == VOCAB else [])]
        hashes = {name: hashlib.sha256(self.files[name]).hexdigest() for name in parts}
        beside = {"class": class_of(self._class)} if self.source == VOCAB else {}
        beside |= {"added": self.vocabulary.added} if self.vocabulary.added else {}
        return {"files": hashes, "roles": self.roles._asdict(), **beside}

    def _files(self) -> dict[str, bytes]:
        return dict(self.files)

    @classmethod
    def _from_files(cls, files: Mapping[str, bytes], special_tokens: SpecialTokens) -> Self:
        return cls(files, special_tokens)


def has_source(names: Iterable[str]) -> bool:
    """Whether the files of these names hold a vocabulary that can be read here."""
    names = set(names)
    return bool(names & {JSON, MODEL, TEKKEN}) or names >= PAIR or any(name.endswith(TIKTOKEN) for name in names)


def source_of(names: Iterable[str]) -> str:
    """The file, of those in a folder, that encoding goes by: as Transformers chooses it. Raises ValueError."""
    names = list(names)
    for wanted in (JSON, TEKKEN, MODEL):
        if wanted in names:
            return wanted
    if found := [name for name in names if name.endswith(TIKTOKEN)]:
        return found[0]
    if set(names) >= PAIR:
        return VOCAB
    raise ValueError(f"there is no {JSON}, {MODEL}, {TEKKEN} or *{TIKTOKEN}, and not both of vocab.json and merges.txt")


def _read(source: str, files: Mapping[str, bytes], settings: Settings) -> Vocabulary:
    content = files[source]
    if source in (JSON, VOCAB):
        document = read_document(content) if source == JSON else document_of_pair(content, files[MERGES], settings.kind)
        return JsonVocabulary(settings.added_to(document), document["added_tokens"])
    if source == MODEL and not _is_ranks(content):
        vocabulary: Vocabulary = SentencePieceVocabulary(read_model(content))
    else:
        vocabulary = TiktokenVocabulary(*(read_tekken if source == TEKKEN else read_ranks)(content))
    for name, id in settings.beyond(vocabulary.pieces, vocabulary.special_tokens).items():
        vocabulary.special_tokens[name] = id
        vocabulary.pieces.extend([name.encode()] * (id == len(vocabulary.pieces)))
    return vocabulary


def _is_ranks(content: bytes) -> bool:
    """Whether a tokenizer.model holds lines of ranks, as Llama 3's does, and no protocol buffer."""
    return re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", content) is not None
