"""How a record becomes tokens with roles: what a model is shown, what it is asked for, what may be left out.

    song       <prompt><genre_rock><sad>a song about the river      context; the instruction may be dropped
               <song>
               [verse]                                              supervised from here on
               Down by the river …
               </song>
    response   <prompt>question<response>answer</response>
    chat       <system>…</turn><user>…</turn><assistant>…</turn>     the assistant's turns are supervised
    preference one of these, whichever the tokenizer has the tokens of, with two answers (preference.py)

Only a template puts special ids into data, by name; the text of a record never does, whatever it spells. The one
exception is asked for: in the lyrics of a song, a line that is a section header becomes the section's id.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.layout import BySource, Labels, Layout, Part, PlainText, Tally, Template, Tokenized, joined, size_of
from primegpt.data.preference import Pairs
from primegpt.data.preparing.shards import CONTEXT, PROMPT, REJECTED, SUPERVISED
from primegpt.data.reading.messages import Turn, list_of, messages_of, turn_of, unread_keys
from primegpt.data.reading.records import FORMS, Document
from primegpt.errors import ConfigError, DataError, nearest, quoted
from primegpt.seeds import derive_seed
from primegpt.tokenizers.base import SpecialTokens, Tokenizer

RANDOM = "random"  # a label that is drawn for each record

LONGEST_HEADER = 100  # characters; a longer line in brackets is none
_LINE_END = re.compile(r"(\r\n|\r|\n)")
_BRACKETED = re.compile(r"\s*\[.*\]\s*")

# [Chorus], [Verse 1: Ann], (Bridge), [Chorus x2]; not (oh, yeah)
_HEADER = re.compile(
    r"[ \t]*[\[(][ \t]*([^\W\d_]+(?:-[^\W\d_]+)*)"
    r"[ \t]*(?:[x×]?\d+[x×]?|one|two|three|four|i{1,3}|iv)?[ \t]*(?:[:,–—-][^\n\])]*)?[\])][ \t]*",
    re.IGNORECASE,
)


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
        return [
            *self.prompt_parts(self.prompt_of(document, self.config.prompt_field), self.own_labels(document, index)),
            *self.answer_parts(self.field(document, self.answer_field, "response_field"), tally),
        ]

    @property
    def answer_field(self) -> str:
        return self.config.response_field or "lyrics"

    def used(self, record: Mapping[str, object]) -> Iterable[str]:
        return (*self.config.prompt_field, self.answer_field, self.config.genre_field, self.config.emotion_field)

    def prompt_parts(self, prompt: str, labels: Labels) -> list[Part]:
        role = PROMPT if self.config.drop_labels else CONTEXT
        named = [self.token(kind, label) for kind in self.labels for label in _listed(labels.get(kind))]
        return [
            Part("<prompt>", CONTEXT, special=True),
            *(Part(name, role, special=True) for name in named),
            Part(prompt.strip(), PROMPT),
            Part("\n", CONTEXT),
            Part("<song>", CONTEXT, special=True),
        ]

    def answer_parts(self, answer: str, tally: Tally | None = None) -> list[Part]:
        return [*self.lyrics(answer, tally), Part("</song>", SUPERVISED, special=True)]

    def own_labels(self, document: Document, index: int) -> Labels:
        return {kind: self.labels_of(document, index, kind) for kind in self.labels}

    def labels_of(self, document: Document, index: int, kind: str) -> list[str]:
        """The labels of a record: its own field's, a string or a list of them, else the configured one, else none."""
        where = document.place or document.source
        own = document.fields.get(getattr(self.config, f"{kind}_field"))
        if not isinstance(own, str | list | None) or not all(isinstance(label, str) for label in own or ()):
            raise DataError(f"{where}: {kind} {quoted(own)} is not text", "give it a string, or a list of strings")
        labels = [label for label in dict.fromkeys(_listed(own)) if label.strip()]
        labels = labels or _listed(getattr(self.config, kind))
        choices = list(self.labels[kind])
        if labels == [RANDOM] and choices:
            return [choices[derive_seed(0, "label", kind, index) % len(choices)]]
        for label in labels:
            if plain(label, kind) not in choices:
                remedy = nearest(plain(label, kind), choices)
                raise DataError(f"{where}: {kind} {quoted(label)} is not in the vocabulary", remedy)
        return labels

    def token(self, kind: str, label: str) -> str:
        """The special token of a label: "R&B" is <genre_rb>. Raises ConfigError, naming the labels there are."""
        name = plain(label, kind)
        if name not in self.labels[kind]:
            raise ConfigError(f"{kind} {quoted(label)} is not in the vocabulary", nearest(name, self.labels[kind]))
        return self.labels[kind][name]

    def lyrics(self, text: str, tally: Tally | None = None) -> list[Part]:
        """The song from its first line end to its last, section headers as ids if so configured."""
        if self.config.structure == "keep":
            return [Part(f"\n{text.strip()}\n", SUPERVISED)]
        parts, plain_text = list[Part](), "\n"
        song = text.strip()
        pieces = _LINE_END.split(song)  # not splitlines: a form feed, say, is the author's
        for line, end in zip(pieces[::2], [*pieces[1::2], "\n" if song else ""], strict=True):
            header = _HEADER.fullmatch(line)
            if header and (name := self.sections.get(plain(header[1]))):
                parts += [Part(plain_text, SUPERVISED), Part(name, SUPERVISED, special=True)]
                plain_text = ""
                if tally is not None:
                    tally.headers[name] += 1
            else:
                plain_text += line
                if tally is not None and len(line) <= LONGEST_HEADER and _BRACKETED.fullmatch(line):
                    tally.unknown_headers[line.strip()] += 1
            plain_text += end
        return [part for part in (*parts, Part(plain_text, SUPERVISED)) if part.content]


class ResponseTemplate(Template):
    """A prompt and its response."""

    name = "response"
    special_tokens: ClassVar[SpecialTokens] = {"control": ("<prompt>", "<response>", "</response>")}

    def parts(self, document: Document, index: int, tally: Tally | None = None) -> list[Part]:
        prompt, answer = self.form(document.fields)
        response = self.field(document, answer, "response_field")
        return [
            *self.prompt_parts(self.prompt_of(document, prompt), {}),
            *self.answer_parts(response),
        ]

    def answer_parts(self, answer: str, tally: Tally | None = None) -> list[Part]:
        return [Part(answer, SUPERVISED), Part("</response>", SUPERVISED, special=True)]

    def form(self, record: Mapping[str, object]) -> tuple[Sequence[str], str]:
        """The fields of the prompt and of the response: those that are configured, else those of a known form."""
        prompt, answer = self.config.prompt_field, self.config.response_field
        if answer or prompt != DataConfig().prompt_field or {*prompt, "response"} <= record.keys():
            return prompt, answer or "response"
        for (first, *others), theirs in FORMS:
            if {first, theirs} <= record.keys():
                return (first, *(name for name in others if name in record)), theirs
        return prompt, "response"

    def used(self, record: Mapping[str, object]) -> Iterable[str]:
        prompt, answer = self.form(record)
        return (*prompt, answer)

    def prompt_parts(self, prompt: str, labels: Labels) -> list[Part]:
        refuse_labels(labels, self.name)
        return [
            Part("<prompt>", CONTEXT, special=True),
            Part(prompt, PROMPT),
            Part("<response>", CONTEXT, special=True),
        ]


class ChatTemplate(Template):
    """A conversation (messages.py); what the assistant says is supervised, unless its weight is 0."""

    name = "chat"
    special_tokens: ClassVar[SpecialTokens] = {"control": ("<system>", "<user>", "<assistant>", "</turn>")}

    def parts(self, document: Document, index: int, tally: Tally | None = None) -> list[Part]:
        where, parts = document.place or document.source, list[Part]()
        for number, message in enumerate(messages_of(document.fields, where), 1):
            parts += self.turn(turn_of(message, f"{where}, message {number}"))
        if not any(part.role == SUPERVISED for part in parts):
            raise DataError(f"{where}: no assistant message has a weight other than 0", "leave it out")
        return parts

    def turn(self, turn: Turn) -> list[Part]:
        role = SUPERVISED if turn.learnt else CONTEXT
        return [
            Part(f"<{turn.role}>", CONTEXT, special=True),
            Part(turn.content, role),
            Part("</turn>", role, special=True),
        ]

    def used(self, record: Mapping[str, object]) -> Iterable[str]:
        return (list_of(record),)

    def left_out(self, document: Document) -> Iterator[str]:
        yield from super().left_out(document)
        yield from dict.fromkeys(unread_keys(document.fields))

    def answers(self, parts: Iterable[Part]) -> list[str]:
        return [part.content for part in parts if part.role == SUPERVISED and not part.special]

    def split(self, whole: list[Tokenized], limit: int) -> list[list[Tokenized]]:
        """A long conversation, split before questions: what the system says, and as many exchanges as fit.

        An exchange ends with the assistant's turn. One that is too long by itself stands alone.
        """
        if size_of(whole) <= limit:
            return [whole]
        opens = [at for at, (_, part) in enumerate(whole) if part.special and part.content != "</turn>"]
        turns = [whole[start:stop] for start, stop in zip(opens, [*opens[1:], len(whole)], strict=True)]
        system = turns.pop(0) if turns[0][0][1].content == "<system>" else []
        pieces, answered = [list[Tokenized]()], False
        exchanges = [list[Tokenized]()]
        for turn in turns:
            asks = turn[0][1].content != "<assistant>"
            if asks and answered:
                exchanges.append([])
            exchanges[-1] += turn
            answered = not asks
        for exchange in exchanges:
            if pieces[-1] and size_of(system) + size_of(pieces[-1]) + size_of(exchange) > limit:
                pieces.append([])
            pieces[-1] += exchange
        return [system + piece for piece in pieces if any(part.role == SUPERVISED for _, part in piece)]

    def answer_parts(self, answer: str, tally: Tally | None = None) -> list[Part]:
        return [Part(answer, SUPERVISED), Part("</turn>", SUPERVISED, special=True)]

    def prompt_parts(self, prompt: str, labels: Labels) -> list[Part]:
        return self.conversation([{"role": "user", "content": prompt}], labels)

    def conversation(self, messages: Iterable[Mapping[str, str]], labels: Labels) -> list[Part]:
        """The parts of a conversation so far, and the opening of the assistant's next turn."""
        refuse_labels(labels, self.name)
        return self.conversation_parts([turn_of(message, "the conversation") for message in messages], labels, "")

    def conversation_parts(self, turns: Sequence[Turn], labels: Labels, where: str) -> list[Part]:
        said = [part for turn in turns for part in self.turn(turn)]
        return [*said, Part("<assistant>", CONTEXT, special=True)]

    def conversation_ids(
        self, tokenizer: Tokenizer, messages: Iterable[Mapping[str, str]], labels: Labels
    ) -> list[int]:
        """The ids to give a model so that it says the assistant's next turn."""
        return joined(self.conversation(messages, labels), tokenizer)


TEMPLATES: dict[str, type[Template]] = {t.name: t for t in (SongTemplate, ResponseTemplate, ChatTemplate)}


def template_for(config: DataConfig, tokenizer: Tokenizer | TokenizerConfig | None = None) -> Template | None:
    """The template of a configuration; None for plain text.

    With a tokenizer, or the settings of one to be trained, the genres, emotions and structure tokens that it has are
    those of songs, whatever they are called. Of pairs it is the one that their prompts are laid out by.
    """
    name = layout_name(config, tokenizer)
    if name == "text":
        return None
    if name == SongTemplate.name:
        if isinstance(tokenizer, TokenizerConfig):
            return SongTemplate(config, tokenizer.special_tokens)
        return SongTemplate(config, tokenizer.special_kinds if tokenizer else None)
    return TEMPLATES[name](config)


def layout_name(config: DataConfig, tokenizer: Tokenizer | TokenizerConfig | None = None) -> str:
    """The template that prompts and answers are laid out by: of pairs, the one whose tokens the tokenizer has.

    Raises ConfigError if it has none's. While no tokenizer is known pairs are conversations, which hold any of them.
    """
    if config.template != Pairs.name:
        return config.template
    if tokenizer is None or isinstance(tokenizer, TokenizerConfig):
        return ChatTemplate.name
    for name, template in TEMPLATES.items():
        if set(template.special_tokens["control"]) <= tokenizer.special_tokens.keys():
            return name
    raise ConfigError(
        "data.template = 'preference': the tokenizer has the control tokens of no template, so this model has not "
        "learnt what an answer is",
        "fine-tune it on answers first (--data.template response or chat), and then that run on pairs",
    )


def layout_for(config: DataConfig, tokenizer: Tokenizer | TokenizerConfig | None = None) -> Layout | None:
    """How the sources of a configuration are laid out: by its template, but for those with settings of their own.

    None for plain text alone, which is a stream rather than rows.
    """
    if config.template == "text" or not config.source:
        return source_layout(config, tokenizer)
    own = (config.of(group) for group in range(len(config.sources)))
    return BySource([source_layout(each, tokenizer) or PlainText(each) for each in own])


def source_layout(config: DataConfig, tokenizer: Tokenizer | TokenizerConfig | None = None) -> Layout | None:
    """How one source is laid out, or all of them if they are alike; None for plain text."""
    template = template_for(config, tokenizer)
    return Pairs(template) if template and config.template == Pairs.name else template


def as_texts(documents: Iterable[Document], layout: Layout | None) -> Iterator[Document]:
    """`documents` with the text that is learnt from each: of a record, all that its template lays out.

    The rejected answer of a pair is left out: it may well say what the chosen one says.
    """
    for number, document in enumerate(documents):
        if layout:
            parts = layout.parts(document, number)
            document = replace(document, text="".join(p.content for p in parts if not p.special and p.role != REJECTED))
        yield document


def vocabulary(config: DataConfig, own: SpecialTokens) -> SpecialTokens:
    """The special tokens of a tokenizer for this data: the template's, and the user's `own`, which replace a kind.

    Control tokens are the exception: the template cannot do without its own, so the user's are added to them.
    """
    if config.template not in TEMPLATES:  # text, or pairs, whose model knows the tokens already
        return own
    kinds = {**TEMPLATES[config.template].special_tokens, **own}
    kinds["control"] = tuple(dict.fromkeys((*TEMPLATES[config.template].special_tokens["control"], *kinds["control"])))
    return kinds


def _listed(labels: str | Sequence[str] | None) -> list[str]:
    return [labels] if isinstance(labels, str) else list(labels or ())


def plain(name: str, kind: str = "") -> str:
    """A name as people write it: "<genre_rb>" and "R&B" are both "rb"; "[chorus]" and "Chorus" are "chorus"."""
    letters = re.sub(r"[^\w]|_", "", name.lower().strip("<>[]() "))
    return letters.removeprefix(kind)


def refuse_labels(labels: Labels, template: str) -> None:
    if any(labels.values()):
        raise ConfigError(f"the {template} template has no {' or '.join(labels)}", "only the song template has labels")
