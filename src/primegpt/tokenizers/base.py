"""What every tokenizer is: bytes for each id, names for the special ids, and a way to encode ordinary text.

    ids = tokenizer.encode("Hello <song>")        # the text only spells <song>: no special id comes out
    ids += [tokenizer.token_id("</song>")]        # a special id is always put in by name
    tokenizer.decode(ids)                         # "Hello <song></song>"

Adding a kind means subclassing `Tokenizer` (or `JsonTokenizer` of json_form.py) and a line in the table of store.py.
"""

import hashlib
import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from primegpt.device import available_cores
from primegpt.errors import ConfigError, DataError, MismatchError, TokenizerError, nearest

SpecialTokens = Mapping[str, Sequence[str]]  # kind -> names, e.g. {"control": ["<song>", "</song>"]}
SYSTEM = "system"  # the kind of the special tokens that a tokenizer brings along itself
SECTION = 100_000  # characters encoded in one go: small enough for the caches, large enough to keep a core busy
WORKER = "primegpt-encode"

Item = TypeVar("Item")
Result = TypeVar("Result")


class Tokenizer(ABC):
    """Text to ids and back. Every id stands for some bytes; special ids stand for their name.

    Attributes:
        kind: the name under which `store.train` and the configuration know it.
        vocab_size: number of ids; ids run from 0 without a gap.
        special_tokens: name -> id of every special token.
        special_kinds: kind -> names; "system" holds those every tokenizer of this kind has.
    """

    kind: ClassVar[str]
    file_names: ClassVar[tuple[str, ...]]  # what `_files` writes
    system_tokens: ClassVar[tuple[str, ...]]
    eot_token: str  # the same for all tokenizers of a kind, but for those of others
    pad_token: str | None = None
    unk_token: str | None = None
    bos_token: str | None = None

    def __init__(self, pieces: list[bytes], special_tokens: dict[str, int], special_kinds: dict[str, tuple[str, ...]]):
        self._pieces = pieces  # the bytes of each id, a special id's name among them
        self.vocab_size = len(pieces)
        self.special_tokens = special_tokens
        self.special_kinds = special_kinds
        self._special_ids = frozenset(special_tokens.values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]}…)"

    # ---- what a kind defines

    @classmethod
    @abstractmethod
    def train(cls, texts: Iterable[str], vocab_size: int | None, special_tokens: SpecialTokens | None = None) -> Self:
        """Learn a vocabulary of at most `vocab_size` ids, the special ones included, from one pass over `texts`."""

    @abstractmethod
    def _encode_section(self, text: str) -> NDArray[np.unsignedinteger]:
        """The ids of one section, as `id_dtype`. Raises UnicodeEncodeError on a lone surrogate."""

    @abstractmethod
    def _sections(self, text: str) -> list[str]:
        """`text` cut (if it is long) where cutting does not change its ids. Never an empty list."""

    @abstractmethod
    def _identity(self) -> dict[str, object]:
        """What determines encoding besides the kind and the special tokens, as JSON values."""

    @abstractmethod
    def _files(self) -> dict[str, bytes]:
        """The saved form: file name -> content."""

    @classmethod
    @abstractmethod
    def _from_files(cls, files: Mapping[str, bytes], special_tokens: SpecialTokens) -> Self:
        """The inverse of `_files`. `special_tokens` is without the system kind. Raises ValueError on damage."""

    def with_special_tokens(self, added: SpecialTokens) -> Self:
        """The same tokenizer with `added` special tokens after all its ids, which stay what they are.

        Raises TokenizerError where a kind has no room for them.
        """
        raise TokenizerError(
            f"a {self.kind} tokenizer takes no special tokens once it is trained",
            "train the base model with the special tokens (--data.template, or [tokenizer.special_tokens])",
        )

    # ---- text to ids

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, every character of which is ordinary: spelling a special token does not make one.

        Raises DataError if the text holds half a character (a lone surrogate): it has no UTF-8 form.
        """
        return self._encode(text, map).tolist()

    def encode_within(self, text: str) -> list[int]:
        """`encode` of a text that stands after something else. Some tokenizers put a space where a text begins."""
        return self.encode(text)

    def space_before(self, text: str) -> str:
        """What `encode` puts before `text`: nothing, or the space of some tokenizers."""
        return ""

    def encode_array(self, text: str) -> NDArray[np.unsignedinteger]:
        """The ids of `text` as a (T,) array of `id_dtype`; a long text is encoded on all cores."""
        return self._encode(text, in_threads)

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """`encode_array` of each text, on the calling thread: for those who bring threads of their own."""
        return [self._encode(text, map) for text in texts]

    def expect(self, characters: int) -> None:
        """Be told how much text is to be encoded: where a faster way takes a while to make, it may be worth it."""
        return

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        return in_threads(self.encode, texts)

    def count_unknown(self, text: str) -> dict[str, int]:
        """Characters of `text` that the vocabulary cannot express, with their counts, most frequent first."""
        return {}

    def cut(self, text: str, size: int) -> Iterator[str]:
        """`text` in parts of at least `size` characters, but for the last one, cut where that leaves its ids alone."""
        part, length = list[str](), 0
        for section in self._sections(text):
            part.append(section)
            length += len(section)
            if length >= size:
                yield "".join(part)
                part, length = [], 0
        if part:
            yield "".join(part)

    def _encode(self, text: str, run: Callable) -> NDArray[np.unsignedinteger]:
        try:
            parts = list(run(self._encode_section, self._sections(text)))
        except UnicodeEncodeError:
            raise lone_surrogate(text) from None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    # ---- ids to text

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of `ids`, special ids by name or left out; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids, skip_special_tokens).decode("utf-8", errors="replace")

    def decode_within(self, ids: Iterable[int]) -> str:
        """`decode` of ids that stand after others: what a model goes on with. Some texts begin with a space of their
        tokenizer's, which is left out where they begin only."""
        return self.decode(ids)

    def decode_bytes(self, ids: Iterable[int], skip_special_tokens: bool = False) -> bytes:
        """The UTF-8 of `ids` (a list, array or tensor), which may end inside a character: for streaming.

        The bytes of a concatenation of ids are the concatenation of their bytes.
        """
        ids = self._checked(ids)
        if skip_special_tokens:
            ids = [i for i in ids if i not in self._special_ids]
        return b"".join([self._pieces[i] for i in ids])

    def piece(self, id: int) -> str:
        """One id, readable: unprintable characters escaped, bytes that are no whole character as `<0xE2>`."""
        content = self.decode_bytes([id])
        try:
            return "".join(c if c.isprintable() else repr(c)[1:-1] for c in content.decode("utf-8"))
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in content)

    def _checked(self, ids: Iterable[int]) -> list[int]:
        listed = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        for worst in (min(listed, default=0), max(listed, default=0)):
            if not 0 <= worst < self.vocab_size:
                raise MismatchError(
                    f"id {worst} is outside this {self.kind} tokenizer's vocabulary of {self.vocab_size}",
                    "decode with the tokenizer that the ids were made with",
                )
        return listed

    # ---- special ids

    def token_id(self, name: str) -> int:
        """The id of the special token `name`. Raises ConfigError, naming what exists, if there is none."""
        if name not in self.special_tokens:
            raise ConfigError(
                f"this {self.kind} tokenizer has no special token {name!r}", nearest(name, self.special_tokens)
            )
        return self.special_tokens[name]

    @property
    def eot_id(self) -> int:
        """End of text: ends a document and separates it from the next."""
        return self.special_tokens[self.eot_token]

    @property
    def pad_id(self) -> int | None:
        return self.special_tokens[self.pad_token] if self.pad_token else None

    @property
    def unk_id(self) -> int | None:
        return self.special_tokens[self.unk_token] if self.unk_token else None

    @property
    def bos_id(self) -> int | None:
        return self.special_tokens[self.bos_token] if self.bos_token else None

    @property
    def opening_id(self) -> int | None:
        """What another's model was trained to see before every text; ours begin with end of text, if with anything."""
        return None

    # ---- identity and storage

    @property
    def id_dtype(self) -> type[np.unsignedinteger]:
        """The narrowest type that shards use for these ids: uint16 below 65,536 ids, else uint32."""
        return np.uint16 if self.vocab_size < 65_536 else np.uint32

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that determines encoding: equal fingerprints, equal ids for every text."""
        content = {
            "kind": self.kind,
            "special_tokens": self.special_tokens,
            "special_kinds": self.special_kinds,  # the song template encodes by kind
            **self._identity(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def check_fingerprint(self, expected: str, owner: str) -> None:
        """Refuse to go on if `owner` ("the shards in data/") was made with another tokenizer. Raises MismatchError."""
        if expected != self.fingerprint:
            raise MismatchError(
                f"{owner} belongs to the tokenizer {expected}, but this {self.kind} tokenizer is {self.fingerprint}",
                "use the two that were made together",
            )


def special_kinds(system: Sequence[str], extra: SpecialTokens | None) -> dict[str, tuple[str, ...]]:
    """kind -> names, the system kind first. Raises ConfigError on a name that cannot be a special token."""
    extra = extra or {}
    if SYSTEM in extra:
        raise ConfigError(f"special tokens of the kind {SYSTEM!r} are the tokenizer's own", "name your kind otherwise")
    kinds = {SYSTEM: tuple(system), **{kind: tuple(names) for kind, names in extra.items() if names}}
    seen: set[str] = set()
    for kind, names in kinds.items():
        for name in names:
            _check_name(name, kind, seen)
            seen.add(name)
    return kinds


def _check_name(name: str, kind: str, seen: Container[str]) -> None:
    if not isinstance(name, str) or len(name) < 2 or re.search(r"[\ud800-\udfff]", name):
        raise ConfigError(f"{name!r} ({kind}) cannot name a special token", "use two characters or more: '<name>'")
    if name in seen:
        raise ConfigError(f"the special token {name!r} ({kind}) is there twice", "leave one of them out")


def refuse_collisions(names: Iterable[str], vocabulary: Container[str]) -> None:
    """A special token must not be spelt like an ordinary piece: tokenizer.json keeps both under their spelling."""
    for name in names:
        if name in vocabulary:
            raise ConfigError(
                f"the special token {name!r} is also an ordinary piece of the vocabulary",
                f"give it a spelling that no text has, such as '<{name}>'",
            )


def lone_surrogate(text: str) -> DataError:
    """The error for a text that holds half of a surrogate pair, which no Unicode text does."""
    found = re.search(r"[\ud800-\udfff]", text)
    place = f"U+{ord(found[0]):04X} at character {found.start()}" if found else "a lone surrogate"
    return DataError(f"the text holds {place}, half of a character", "decode the file as UTF-8 with errors='replace'")


def sections(text: str, sure_split: re.Pattern[str], size: int = SECTION) -> list[str]:
    """`text` cut into parts of at most `size` characters, at ends of a `sure_split` where half a part has one."""
    cut, start = [], 0
    while len(text) - start > size:
        found = sure_split.search(text, start + size // 2, start + size)
        end = found.end() if found else start + size
        cut.append(text[start:end])
        start = end
    return [*cut, text[start:]]


def sure_sections(text: str, sure_split: re.Pattern[str], size: int = SECTION) -> list[str]:
    """`text` cut into parts of about `size` characters, at ends of a `sure_split` alone, however long one then is."""
    cut, start = list[str](), 0
    while len(text) - start > size and (found := sure_split.search(text, start + size // 2)):
        cut.append(text[start : found.end()])
        start = found.end()
    return [*cut, text[start:]]


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`[function(item) for item in items]` on all cores, for functions that release the GIL.

    Within such a function it uses no further threads.
    """
    cores = available_cores()
    if cores == 1 or len(items) < 2 or threading.current_thread().name.startswith(WORKER):
        return [function(item) for item in items]
    size = max(1, len(items) // (8 * cores))  # several items a task: handing one over costs more than a short text
    groups = [items[i : i + size] for i in range(0, len(items), size)]
    with ThreadPoolExecutor(min(cores, len(groups)), WORKER) as pool:
        results = pool.map(lambda group: [function(item) for item in group], groups)
        return [result for group in results for result in group]
