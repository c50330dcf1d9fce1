"""How documents become rows of tokens with roles: the parts of a record, the row they make, what was seen of them.

What the parts of each kind of record are, template.py says.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from primegpt.config import DataConfig
from primegpt.data.preparing.shards import CONTEXT, REJECTED, SUPERVISED
from primegpt.data.reading.messages import NOTHING, Turn, list_of
from primegpt.data.reading.records import Document, missing_field
from primegpt.errors import DataError, quoted
from primegpt.tokenizers.base import SpecialTokens, Tokenizer

CUT = 0.02  # of the tokens of records: what a context may cut off that is chosen for them


class Part(NamedTuple):
    """A stretch of a record with one role: ordinary text, or the name of one special token."""

    content: str
    role: int
    special: bool = False


Labels = Mapping[str, str | Sequence[str]]  # by kind: one, or several
Tokenized = tuple[npt.NDArray[np.unsignedinteger], Part]  # the ids of a part, (n,), and the part


@dataclass(frozen=True, eq=False)
class Example:
    """One record in tokens. `ids` and `roles` are (n,)."""

    ids: npt.NDArray[np.unsignedinteger]
    roles: npt.NDArray[np.uint8]
    cut: int = 0
    """Tokens that did not fit ..."""
    cut_supervised: int = 0
    """... and how many of them were to be learnt."""


@dataclass
class Tally:
    """What was seen while records were rendered, for the preview and the audit."""

    examples: int = 0
    tokens: int = 0
    supervised: int = 0
    truncated: int = 0
    """Examples that lost tokens."""
    cut: int = 0
    """Tokens that they lost ..."""
    cut_supervised: int = 0
    """... and how many of them were to be learnt."""
    headers: Counter[str] = field(default_factory=Counter)
    """Section headers that became a structure id, by its name."""
    unknown_headers: Counter[str] = field(default_factory=Counter)
    """Lines that look like a section header and stayed text."""
    lengths: Counter[str] = field(default_factory=Counter)
    """Examples by the context that they would fit into, rounded up to a multiple of 64."""

    def add(self, example: Example) -> None:
        self.examples += 1
        self.tokens += len(example.ids)
        self.supervised += int((example.roles == SUPERVISED).sum())
        self.truncated += example.cut > 0
        self.cut += example.cut
        self.cut_supervised += example.cut_supervised
        self.lengths[str(context_for(len(example.ids) + example.cut))] += 1

    def merge(self, other: "Tally") -> None:
        """Add what was seen elsewhere."""
        for name in ("examples", "tokens", "supervised", "truncated", "cut", "cut_supervised"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("headers", "unknown_headers", "lengths"):
            getattr(self, name).update(getattr(other, name))

    def as_json(self) -> dict[str, object]:
        """Plain values by name; `cut_supervised` where there is some: fingerprints are made of this."""
        seen = {name: value for name, value in vars(self).items() if value or name != "cut_supervised"}
        return {n: dict(value.most_common()) if isinstance(value, Counter) else value for n, value in seen.items()}

    @classmethod
    def from_json(cls, saved: Mapping[str, object]) -> "Tally":
        tally = cls()
        for name, value in saved.items():
            setattr(tally, name, Counter(value) if isinstance(value, Mapping) else value)
        return tally

    @property
    def supervised_share(self) -> float:
        return self.supervised / self.tokens if self.tokens else 0.0

    @property
    def cut_share(self) -> float:
        """Of the tokens that were to be learnt, those that did not fit."""
        return self.cut_supervised / max(1, self.supervised + self.cut_supervised)

    def fitting_context(self) -> int | None:
        """The context that `fitting_context` chooses for the examples; None if their lengths were not counted."""
        return fitting_context([int(context) + 1 for context in self.lengths.elements()]) if self.lengths else None


def context_for(length: int) -> int:
    """The context that a record of so many tokens fits into, rounded up: its last token is only a target."""
    return 64 * math.ceil(max(1, length - 1) / 64)


def fitting_context(lengths: Sequence[int]) -> int:
    """The smallest multiple of 64 that cuts at most `CUT` of all tokens off records of such `lengths`."""
    tokens = np.array(lengths)

    def kept(blocks: int) -> int:
        return int(np.minimum(tokens, 64 * blocks + 1).sum())

    most = context_for(max(lengths)) // 64
    return 64 * bisect_left(range(1, most), (1 - CUT) * tokens.sum(), key=kept) + 64


class Layout(ABC):
    """How documents become rows of tokens with roles. Stateless: the same document gives the same parts."""

    @abstractmethod
    def parts(self, document: Document, index: int, tally: Tally | None = None) -> list[Part]:
        """The parts of document number `index`. Raises DataError if a field is missing or of the wrong kind."""

    def texts(self, document: Document, index: int) -> Iterator[str]:
        """The ordinary text of a document: what a tokenizer learns from."""
        return (part.content for part in self.parts(document, index) if not part.special)

    @abstractmethod
    def rows(
        self, document: Document, index: int, tokenizer: Tokenizer, limit: int, tally: Tally | None = None
    ) -> list[Example]:
        """Document number `index` in rows of at most `limit` tokens. Raises DataError as `parts` does."""

    def left_out(self, document: Document) -> Iterator[str]:
        """The fields of a record that hold something, and are not read."""
        return iter(())

    def answers(self, parts: Iterable[Part]) -> list[str]:
        """The texts that are asked for in a record of these parts."""
        return []

    def keeps_whole(self, group: int) -> bool:
        """Whether a document of source number `group` must not be cut to hold a part of it out."""
        return True


class PlainText(Layout):
    """Text beside records: as many rows as it takes, all of it supervised, every token a target once."""

    def __init__(self, config: DataConfig) -> None:
        self.text_field = config.text_field

    def left_out(self, document: Document) -> Iterator[str]:
        return (n for n, value in document.fields.items() if n != self.text_field and value not in NOTHING)

    def parts(self, document: Document, index: int, tally: Tally | None = None) -> list[Part]:
        return [Part(document.text, SUPERVISED)]

    def rows(
        self, document: Document, index: int, tokenizer: Tokenizer, limit: int, tally: Tally | None = None
    ) -> list[Example]:
        opening = [] if document.continues else [tokenizer.eot_id]
        ids = np.concatenate([np.array(opening, tokenizer.id_dtype), tokenizer.encode_array(document.text)])
        examples = []
        for start in range(0, len(ids), limit - 1):  # the last token of a row is the first of the next
            row = ids[start : start + limit]
            roles = np.full(len(row), SUPERVISED, np.uint8)
            roles[0] = CONTEXT
            if len(row) > 1:
                examples.append(Example(row, roles))
        return examples

    def keeps_whole(self, group: int) -> bool:
        return False


class Template(Layout):
    """The layout of one kind of record, with a prompt and an answer."""

    name: ClassVar[str]
    special_tokens: ClassVar[SpecialTokens]
    """What the layout needs in the vocabulary, by kind."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    @abstractmethod
    def prompt_parts(self, prompt: str, labels: Labels) -> list[Part]:
        """What stands before the answer to `prompt`, as in training."""

    @abstractmethod
    def answer_parts(self, answer: str, tally: Tally | None = None) -> list[Part]:
        """What stands after it: the answer, and the token that ends it."""

    def rows(
        self, document: Document, index: int, tokenizer: Tokenizer, limit: int, tally: Tally | None = None
    ) -> list[Example]:
        """Record number `index` in rows of at most `limit` tokens, at least one of each supervised; mostly one row.

        Where there are too many, the end of the prompt's text goes first, down to half of the room, then the end of
        the answer. Raises DataError if a field is missing, or nothing would be left to supervise.
        """
        whole = [tokenized(part, tokenizer) for part in self.parts(document, index, tally)]
        try:
            examples = [fitted(piece, limit) for piece in self.split(whole, limit)]
        except ValueError as error:
            raise DataError(f"{document.place or document.source}: {error}", "raise train.sequence_length") from None
        if tally is not None:
            for example in examples:
                tally.add(example)
        return examples

    def encode(
        self, document: Document, index: int, tokenizer: Tokenizer, limit: int, tally: Tally | None = None
    ) -> Example:
        """The only row of a record, or the first one."""
        return self.rows(document, index, tokenizer, limit, tally)[0]

    def split(self, whole: list[Tokenized], limit: int) -> list[list[Tokenized]]:
        """A record that is longer than `limit` in pieces that can be learnt by themselves, if it has such."""
        return [whole]

    def prompt_ids(self, tokenizer: Tokenizer, prompt: str, labels: Labels | None = None) -> list[int]:
        """The ids to give a model so that it answers `prompt`. Raises ConfigError for a label that is not there."""
        return joined(self.prompt_parts(prompt, labels or {}), tokenizer)

    @abstractmethod
    def used(self, record: Mapping[str, object]) -> Iterable[str]:
        """The fields of a record that `parts` reads."""

    def left_out(self, document: Document) -> Iterator[str]:
        used = set(self.used(document.fields))
        return (name for name, value in document.fields.items() if name not in used and value not in NOTHING)

    def answers(self, parts: Iterable[Part]) -> list[str]:
        return ["".join(part.content for part in parts if part.role == SUPERVISED and not part.special)]

    def prompt_of(self, document: Document, fields: Sequence[str]) -> str:
        """The text of the fields of the instruction, those that hold one, with an empty line between them."""
        texts = [self.field(document, name, "prompt_field", null=len(fields) > 1) for name in fields]
        return "\n\n".join(filter(None, texts)) if len(texts) > 1 else texts[0]

    def field(self, document: Document, name: str, key: str, *, null: bool = False) -> str:
        """The text in the field `name`, which `data.KEY` may name otherwise. Raises DataError if it is not there."""
        value = document.fields.get(name)
        if isinstance(value, str):
            return value
        where = document.place or document.source
        if name not in document.fields:
            if list_of(document.fields) in document.fields:
                raise DataError(f"{where} is a conversation, without {quoted(name)}", "say --data.template chat")
            raise missing_field(where, name, document.fields, f"--data.{key}")
        if value is None and null:
            return ""
        raise DataError(f"{where}: the field {quoted(name)} is not text", f"name one that is with --data.{key}")

    def own_labels(self, document: Document, index: int) -> Labels:
        """The labels that a record has, by kind."""
        return {}

    def conversation_parts(self, turns: Sequence[Turn], labels: Labels, where: str) -> list[Part]:
        """What stands before the answer to a conversation. Raises DataError where there is room for a prompt alone."""
        if len(turns) != 1 or turns[0].role != "user":
            what = f"{where} is a conversation of {len(turns)} messages, and this model answers one prompt"
            raise DataError(what, "give it pairs of one prompt, or tune a model of --data.template chat")
        return self.prompt_parts(turns[0].content, labels)

    @property
    def stop_token(self) -> str:
        """The special token that ends an answer."""
        return self.special_tokens["control"][-1]


class BySource(Layout):
    """The layouts of several sources, some of them plain text."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.layouts = layouts

    def parts(self, document: Document, index: int, tally: Tally | None = None) -> list[Part]:
        return self.layouts[document.group].parts(document, index, tally)

    def rows(
        self, document: Document, index: int, tokenizer: Tokenizer, limit: int, tally: Tally | None = None
    ) -> list[Example]:
        return self.layouts[document.group].rows(document, index, tokenizer, limit, tally)

    def left_out(self, document: Document) -> Iterator[str]:
        return self.layouts[document.group].left_out(document)

    def answers(self, parts: Iterable[Part]) -> list[str]:
        return next(each for each in self.layouts if not isinstance(each, PlainText)).answers(parts)

    def keeps_whole(self, group: int) -> bool:
        return self.layouts[group].keeps_whole(group)


def tokenized(part: Part, tokenizer: Tokenizer) -> Tokenized:
    ids = np.array([tokenizer.token_id(part.content)]) if part.special else tokenizer.encode_array(part.content)
    return ids.astype(tokenizer.id_dtype), part


def joined(parts: Iterable[Part], tokenizer: Tokenizer) -> list[int]:
    """The ids of `parts` in a line."""
    return np.concatenate([tokenized(part, tokenizer)[0] for part in parts]).tolist()


def size_of(parts: Sequence[Tokenized]) -> int:
    return sum(len(ids) for ids, _ in parts)


def row_length(parts: Sequence[Tokenized]) -> int:
    """Tokens of the row that a record takes; a pair takes two, and this is the longer one."""
    chosen, rejected = (size_of([each for each in parts if each[1].role == role]) for role in (SUPERVISED, REJECTED))
    return size_of(parts) - min(chosen, rejected)


def fitted(parts: Sequence[Tokenized], limit: int) -> Example:
    """The parts in a line, cut to `limit` tokens. Raises ValueError if no supervised token would be left."""
    ids = np.concatenate([ids for ids, _ in parts])
    roles = np.concatenate([np.full(len(ids), part.role, np.uint8) for ids, part in parts])
    whole, supervised = len(ids), int((roles == SUPERVISED).sum())
    if whole > limit:
        head = int(np.argmax(roles == SUPERVISED))  # tokens before the first answer
        surplus = head - max(limit // 2, limit - (whole - head))
        if surplus > 0:
            ordinary = np.concatenate([np.full(len(ids), not part.special) for ids, part in parts])[:head]
            kept = np.ones(whole, bool)
            kept[np.flatnonzero(ordinary)[-surplus:]] = False
            ids, roles = ids[kept], roles[kept]
        ids, roles = ids[:limit], roles[:limit]
    left = int((roles == SUPERVISED).sum())
    if not left:
        raise ValueError(f"nothing of the answer fits into {limit} tokens")
    return Example(ids, roles, whole - len(ids), supervised - left)
