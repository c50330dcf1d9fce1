"""How a record becomes tokens with roles: what a model is shown, what it is asked for, what may be left out.

    song       <prompt><genre_rock><sad>a song about the river      context; the instruction may be dropped
               <song>
               [verse]                                              supervised from here on
               Down by the river …
               </song>
    response   <prompt>question<response>answer</response>
    chat       <system>…</turn><user>…</turn><assistant>…</turn>     the assistant's turns are supervised

Only a template puts special ids into data, by name; the text of a record never does, whatever it spells. The one
exception is asked for: in the lyrics of a song, a line that is a section header becomes the section's id.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from primegpt.config import DataConfig
from primegpt.data.sources import Document
from primegpt.errors import ConfigError, DataError, nearest
from primegpt.seeds import derive_seed
from primegpt.tokenizers.base import SpecialTokens, Tokenizer

CONTEXT, SUPERVISED, PROMPT = 0, 1, 2  # the roles of tokens; a PROMPT is context that training may leave out
RANDOM = "random"  # a label that is drawn for each record

# [Chorus], [Verse 1: Ann], (Bridge), [Chorus x2]; not (oh, yeah)
_HEADER = re.compile(
    r"[ \t]*[\[(][ \t]*([^\W\d_]+(?:-[^\W\d_]+)*)"
    r"[ \t]*(?:[x×]?\d+[x×]?|one|two|three|four|i{1,3}|iv)?[ \t]*(?:[:,–—-][^\n\])]*)?[\])][ \t]*",
    re.IGNORECASE,
)


class Part(NamedTuple):
    """A stretch of a record with one role: ordinary text, or the name of one special token."""

    content: str
    role: int
    special: bool = False


@dataclass(frozen=True, eq=False)
class Example:
    """One record in tokens. `ids` and `roles` are (n,)."""

    ids: npt.NDArray[np.unsignedinteger]
    roles: npt.NDArray[np.uint8]
    cut: int = 0
    """Tokens that did not fit."""


@dataclass
class Tally:
    """What was seen while records were rendered, for the preview and the audit."""

    examples: int = 0
    tokens: int = 0
    supervised: int = 0
    truncated: int = 0
    """Examples that lost tokens."""
    cut: int = 0
    """Tokens that they lost."""
    headers: Counter[str] = field(default_factory=Counter)
    """Section headers that became a structure id, by its name."""
    unknown_headers: Counter[str] = field(default_factory=Counter)
    """Lines that look like a section header and stayed text."""

    def add(self, example: Example) -> None:
        self.examples += 1
        self.tokens += len(example.ids)
        self.supervised += int((example.roles == SUPERVISED).sum())
        self.truncated += example.cut > 0
        self.cut += example.cut

    def merge(self, other: "Tally") -> None:
        """Add what was seen elsewhere."""
        for name in ("examples", "tokens", "supervised", "truncated", "cut"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.headers += other.headers
        self.unknown_headers += other.unknown_headers

    def as_json(self) -> dict[str, Any]:
        seen = vars(self).items()
        return {name: dict(value.most_common()) if isinstance(value, Counter) else value for name, value in seen}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Tally":
        tally = cls()
        for name, value in saved.items():
            setattr(tally, name, Counter(value) if isinstance(value, Mapping) else value)
        return tally

    @property
    def supervised_share(self) -> float:
        return self.supervised / self.tokens if self.tokens else 0.0


class Template(ABC):
    """The layout of one kind of record. Stateless but for its settings: the same record gives the same parts."""

    name: ClassVar[str]
    special_tokens: ClassVar[SpecialTokens]
    """What the layout needs in the vocabulary, by kind."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    @abstractmethod
    def parts(self, document: Document, index: int, tally: Tally | None = None) -> list[Part]:
        """The parts of record number `index`. Raises DataError if a field is missing or of the wrong kind."""

    @abstractmethod
    def prompt_parts(self, prompt: str, labels: Mapping[str, str]) -> list[Part]:
        """What stands before the answer to `prompt`, as in training."""

    def texts(self, document: Document, index: int) -> Iterator[str]:
        """The ordinary text of a record: what a tokenizer learns from."""
        return (part.content for part in self.parts(document, index) if not part.special)

    def encode(
        self, document: Document, index: int, tokenizer: Tokenizer, limit: int, tally: Tally | None = None
    ) -> Example:
        """Record number `index` in at most `limit` tokens, at least one of them supervised.

        Where there are too many, the end of the prompt's text goes first, down to half of the room, then the end of
        the answer. Raises DataError if a field is missing, or nothing would be left to supervise.
        """
        rows = [tokenized(part, tokenizer) for part in self.parts(document, index, tally)]
        try:
            example = fitted(rows, limit)
        except ValueError as error:
            raise DataError(f"{document.place or document.source}: {error}", "raise train.sequence_length") from None
        if tally is not None:
            tally.add(example)
        return example

    def prompt_ids(self, tokenizer: Tokenizer, prompt: str, labels: Mapping[str, str] | None = None) -> list[int]:
        """The ids to give a model so that it answers `prompt`. Raises ConfigError for a label that is not there."""
        return joined(self.prompt_parts(prompt, labels or {}), tokenizer)

    def field(self, document: Document, name: str) -> str:
        """A field of the record that must be text."""
        value = document.fields.get(name)
        if isinstance(value, str):
            return value
        where = document.place or document.source
        if name in document.fields:
            raise DataError(f"{where}: the field {name!r} is not text", "give it a string")
        raise DataError(f"{where}: there is no field {name!r}", nearest(name, document.fields))

    @property
    def stop_token(self) -> str:
        """The special token that ends an answer."""
        return self.special_tokens["control"][-1]


class SongTemplate(Template):
    """An instruction and the lyrics written to it, with labels for genre and emotion."""

    name = "song"
    special_tokens: ClassVar[SpecialTokens] = {
        "control": ("<prompt>", "<song>", "</song>"),
        "genre": ("<genre_pop>", "<genre_rap>", "<genre_rock>", "<genre_rb>"),
        "emotion": ("<happy>", "<sad>", "<angry>", "<romantic>"),
        "structure": ("[intro]", "[verse]", "[chorus]", "[bridge]", "[outro]"),
    }

    def __init__(self, config: DataConfig, kinds: SpecialTokens | None = None) -> None:
        super().__init__(config)
        kinds = kinds or self.special_tokens
        self.labels = {kind: {plain(name, kind): name for name in kinds.get(kind, ())} for kind in ("genre", "emotion")}
        self.sections = {plain(name): name for name in kinds.get("structure", ())}

    def parts(self, document: Document, index: int, tally: Tally | None = None) -> list[Part]:
        config = self.config
        labels = {kind: self.label_of(document, index, kind) for kind in self.labels}
        return [
            *self.prompt_parts(self.field(document, config.prompt_field), labels),
            *self.lyrics(self.field(document, config.response_field or "lyrics"), tally),
            Part("</song>", SUPERVISED, special=True),
        ]

    def prompt_parts(self, prompt: str, labels: Mapping[str, str]) -> list[Part]:
        role = PROMPT if self.config.drop_labels else CONTEXT
        named = [self.token(kind, labels[kind]) for kind in self.labels if labels.get(kind)]
        return [
            Part("<prompt>", CONTEXT, special=True),
            *(Part(name, role, special=True) for name in named),
            Part(prompt.strip(), PROMPT),
            Part("\n", CONTEXT),
            Part("<song>", CONTEXT, special=True),
        ]

    def label_of(self, document: Document, index: int, kind: str) -> str:
        """The label of a record: its own field's, else the configured one, else none."""
        own = document.fields.get(getattr(self.config, f"{kind}_field"))
        label = own if isinstance(own, str) and own.strip() else getattr(self.config, kind) or ""
        choices = list(self.labels[kind])
        if label == RANDOM and choices:
            return choices[derive_seed(0, "label", kind, index) % len(choices)]
        if label and plain(label, kind) not in choices:
            where = document.place or document.source
            raise DataError(f"{where}: {kind} {label!r} is not in the vocabulary", nearest(plain(label, kind), choices))
        return label

    def token(self, kind: str, label: str) -> str:
        """The special token of a label: "R&B" is <genre_rb>. Raises ConfigError, naming the labels there are."""
        name = plain(label, kind)
        if name not in self.labels[kind]:
            raise ConfigError(f"{kind} {label!r} is not in the vocabulary", nearest(name, self.labels[kind]))
        return self.labels[kind][name]

    def lyrics(self, text: str, tally: Tally | None = None) -> list[Part]:
        """The song from its first line end to its last, section headers as ids if so configured."""
        if self.config.structure == "keep":
            return [Part(f"\n{text.strip()}\n", SUPERVISED)]
        parts, plain_text = list[Part](), "\n"
        for line in text.strip().splitlines():
            header = _HEADER.fullmatch(line)
            if header and (name := self.sections.get(plain(header[1]))):
                parts += [Part(plain_text, SUPERVISED), Part(name, SUPERVISED, special=True)]
                plain_text = ""
                if tally is not None:
                    tally.headers[name] += 1
            else:
                plain_text += line
                if tally is not None and line.strip().startswith("[") and line.strip().endswith("]"):
                    tally.unknown_headers[line.strip()] += 1
            plain_text += "\n"
        return [part for part in (*parts, Part(plain_text, SUPERVISED)) if part.content]


class ResponseTemplate(Template):
    """A prompt and its response."""

    name = "response"
    special_tokens: ClassVar[SpecialTokens] = {"control": ("<prompt>", "<response>", "</response>")}

    def parts(self, document: Document, index: int, tally: Tally | None = None) -> list[Part]:
        response = self.field(document, self.config.response_field or "response")
        return [
            *self.prompt_parts(self.field(document, self.config.prompt_field), {}),
            Part(response, SUPERVISED),
            Part("</response>", SUPERVISED, special=True),
        ]

    def prompt_parts(self, prompt: str, labels: Mapping[str, str]) -> list[Part]:
        refuse_labels(labels, self.name)
        return [
            Part("<prompt>", CONTEXT, special=True),
            Part(prompt, PROMPT),
            Part("<response>", CONTEXT, special=True),
        ]


class ChatTemplate(Template):
    """A conversation, {"messages": [{"role": "user", "content": "…"}, …]}; the assistant's turns are supervised."""

    name = "chat"
    special_tokens: ClassVar[SpecialTokens] = {"control": ("<system>", "<user>", "<assistant>", "</turn>")}
    roles = ("system", "user", "assistant")

    def parts(self, document: Document, index: int, tally: Tally | None = None) -> list[Part]:
        messages, where = document.fields.get("messages"), document.place or document.source
        if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
            raise DataError(f"{where}: there is no list 'messages'", 'a line is {"messages": [{"role", "content"}, …]}')
        parts = list[Part]()
        for number, message in enumerate(messages, 1):
            parts += self.turn(message, f"{where}, message {number}")
        if not any(part.role == SUPERVISED for part in parts):
            raise DataError(f"{where}: no message is the assistant's", "there is nothing to learn: leave it out")
        return parts

    def turn(self, message: Any, where: str) -> list[Part]:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise DataError(f"{where} has no text 'content'", 'a message is {"role": "user", "content": "…"}')
        if message.get("role") not in self.roles:
            role = message.get("role")
            raise DataError(f"{where} has the role {role!r}", nearest(str(role), self.roles))
        role = SUPERVISED if message["role"] == "assistant" else CONTEXT
        return [
            Part(f"<{message['role']}>", CONTEXT, special=True),
            Part(message["content"], role),
            Part("</turn>", role, special=True),
        ]

    def prompt_parts(self, prompt: str, labels: Mapping[str, str]) -> list[Part]:
        return self.conversation([{"role": "user", "content": prompt}], labels)

    def conversation(self, messages: Iterable[Mapping[str, str]], labels: Mapping[str, str]) -> list[Part]:
        """The parts of a conversation so far, and the opening of the assistant's next turn."""
        refuse_labels(labels, self.name)
        said = [part for message in messages for part in self.turn(message, "the conversation")]
        return [*said, Part("<assistant>", CONTEXT, special=True)]

    def conversation_ids(
        self, tokenizer: Tokenizer, messages: Iterable[Mapping[str, str]], labels: Mapping[str, str]
    ) -> list[int]:
        """The ids to give a model so that it says the assistant's next turn."""
        return joined(self.conversation(messages, labels), tokenizer)


TEMPLATES: dict[str, type[Template]] = {t.name: t for t in (SongTemplate, ResponseTemplate, ChatTemplate)}


def template_for(config: DataConfig, tokenizer: Tokenizer | None = None) -> Template | None:
    """The template of a configuration; None for plain text.

    With a tokenizer, its genres, emotions and structure tokens are those of songs, whatever they are called.
    """
    if config.template == "text":
        return None
    if config.template == SongTemplate.name:
        return SongTemplate(config, tokenizer.special_kinds if tokenizer else None)
    return TEMPLATES[config.template](config)


def vocabulary(config: DataConfig, own: SpecialTokens) -> SpecialTokens:
    """The special tokens of a tokenizer for this data: the template's, and the user's `own`, which replace a kind.

    Control tokens are the exception: the template cannot do without its own, so the user's are added to them.
    """
    if config.template == "text":
        return own
    kinds = {**TEMPLATES[config.template].special_tokens, **own}
    kinds["control"] = tuple(dict.fromkeys((*TEMPLATES[config.template].special_tokens["control"], *kinds["control"])))
    return kinds


def plain(name: str, kind: str = "") -> str:
    """A name as people write it: "<genre_rb>" and "R&B" are both "rb"; "[chorus]" and "Chorus" are "chorus"."""
    letters = re.sub(r"[^\w]|_", "", name.lower().strip("<>[]() "))
    return letters.removeprefix(kind)


def refuse_labels(labels: Mapping[str, str], template: str) -> None:
    if any(labels.values()):
        raise ConfigError(f"the {template} template has no {' or '.join(labels)}", "only the song template has labels")


def tokenized(part: Part, tokenizer: Tokenizer) -> tuple[npt.NDArray[np.unsignedinteger], Part]:
    ids = np.array([tokenizer.token_id(part.content)]) if part.special else tokenizer.encode_array(part.content)
    return ids.astype(tokenizer.id_dtype), part


def joined(parts: Iterable[Part], tokenizer: Tokenizer) -> list[int]:
    """The ids of `parts` in a line."""
    return np.concatenate([tokenized(part, tokenizer)[0] for part in parts]).tolist()


def fitted(rows: Sequence[tuple[npt.NDArray[np.unsignedinteger], Part]], limit: int) -> Example:
    """The rows in a line, cut to `limit` tokens. Raises ValueError if no supervised token would be left."""
    ids = np.concatenate([row for row, _ in rows])
    roles = np.concatenate([np.full(len(row), part.role, np.uint8) for row, part in rows])
    whole = len(ids)
    if whole > limit:
        head = int(np.argmax(roles == SUPERVISED))  # tokens before the first answer
        surplus = head - max(limit // 2, limit - (whole - head))
        if surplus > 0:
            ordinary = np.concatenate([np.full(len(row), not part.special) for row, part in rows])[:head]
            kept = np.ones(whole, bool)
            kept[np.flatnonzero(ordinary)[-surplus:]] = False
            ids, roles = ids[kept], roles[kept]
        ids, roles = ids[:limit], roles[:limit]
    if not (roles == SUPERVISED).any():
        raise ValueError(f"nothing of the answer fits into {limit} tokens")
    return Example(ids, roles, whole - len(ids))
