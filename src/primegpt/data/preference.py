"""Pairs of answers to one prompt, of which one is preferred, as TRL's data sets have them.

    {"prompt": "…", "chosen": "…", "rejected": "…"}
    {"prompt": [{"role": "user", "content": "…"}], "chosen": [{"role": "assistant", …}], "rejected": [{…}]}
    {"chosen": [{"role": "user", …}, {"role": "assistant", …}], "rejected": [{"role": "user", …}, {…}]}

A pair is one document of the shards: its prompt once, the chosen answer, the rejected one, told apart by their roles.
How a prompt is put, and what ends an answer, is that of the template which the model has learnt.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, ClassVar

import numpy as np

from primegpt.data.layout import Example, Layout, Part, Tally, Template, Tokenized, fitted, tokenized
from primegpt.data.preparing.shards import CONTEXT, REJECTED, SUPERVISED
from primegpt.data.reading.messages import NOTHING, Turn, turn_of
from primegpt.data.reading.records import Document
from primegpt.errors import DataError, listed, quoted
from primegpt.tokenizers.base import Tokenizer

ANSWERS = ("chosen", "rejected")
FORM = 'a pair is {"prompt", "chosen", "rejected"}, all of them text, or all of them lists of messages'


class Pairs(Layout):
    """A prompt with the answer that is preferred and the one that is not, each laid out as `template` does."""

    name: ClassVar[str] = "preference"

    def __init__(self, template: Template) -> None:
        self.template, self.config = template, template.config

    def parts(self, document: Document, index: int, tally: Tally | None = None) -> list[Part]:
        where, record = document.place or document.source, document.fields
        if missing := [name for name in ANSWERS if name not in record]:
            there = listed(record) or "nothing"
            raise DataError(f"{where} is no pair: there is no field {quoted(missing[0])}, only {there}", FORM)
        labels = self.template.own_labels(document, index)
        if all(isinstance(record[name], str) for name in ANSWERS):
            asked = self.template.prompt_parts(self.template.prompt_of(document, self.config.prompt_field), labels)
            chosen, rejected = (str(record[name]) for name in ANSWERS)
        else:
            turns, chosen, rejected = conversation_of(record, self.config.prompt_field[0], where)
            asked = self.template.conversation_parts(turns, labels, where)
        return [
            *(part._replace(role=CONTEXT) for part in asked),
            *self.template.answer_parts(chosen, tally),
            *(part._replace(role=REJECTED) for part in self.template.answer_parts(rejected)),
        ]

    def rows(
        self, document: Document, index: int, tokenizer: Tokenizer, limit: int, tally: Tally | None = None
    ) -> list[Example]:
        """A pair as one row, whose prompt with either answer takes at most `limit` tokens.

        It is cut as a record with the longer of the answers would be, and so both answers have the same prompt.
        """
        parts = [tokenized(part, tokenizer) for part in self.parts(document, index, tally)]
        prompt, chosen, rejected = (_ids(parts, role) for role in (CONTEXT, SUPERVISED, REJECTED))
        longer = SUPERVISED if len(chosen) >= len(rejected) else REJECTED
        row = [each for each in parts if each[1].role in (CONTEXT, longer)]
        row = [(ids, part._replace(role=min(part.role, SUPERVISED))) for ids, part in row]  # as if it were alone
        try:
            whole = fitted(row, limit)
        except ValueError as error:
            raise DataError(f"{document.place or document.source}: {error}", "raise train.sequence_length") from None
        if tally is not None:
            tally.add(whole)
        prompt = whole.ids[: int(np.argmax(whole.roles == SUPERVISED))]
        pieces = {CONTEXT: prompt, SUPERVISED: chosen[: limit - len(prompt)], REJECTED: rejected[: limit - len(prompt)]}
        roles = np.repeat(np.array(list(pieces), np.uint8), [len(ids) for ids in pieces.values()])
        return [Example(np.concatenate(list(pieces.values())), roles, whole.cut, whole.cut_supervised)]

    def left_out(self, document: Document) -> Iterator[str]:
        used = {*ANSWERS, *self.config.prompt_field, self.config.genre_field, self.config.emotion_field}
        return (name for name, value in document.fields.items() if name not in used and value not in NOTHING)

    def answers(self, parts: Iterable[Part]) -> list[str]:
        parts = list(parts)
        return [
            "".join(part.content for part in parts if part.role == role and not part.special)
            for role in (SUPERVISED, REJECTED)
        ]


def conversation_of(record: Mapping[str, Any], prompt_field: str, where: str) -> tuple[list[Turn], str, str]:
    """What was said before the answers of a pair of messages, and both answers.

    That is the prompt's messages, if it has any, and those that both answers begin with. Raises DataError for what has
    another form.
    """
    lists = [record[name] for name in ANSWERS]
    if not all(isinstance(each, list) and each for each in lists):
        raise DataError(f"{where}: chosen and rejected are neither two texts nor two lists of messages", FORM)
    chosen, rejected = ([turn_of(each, f"{where}, {name}") for each in record[name]] for name in ANSWERS)
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    shared = [turn for turn, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    for name, turns in zip(ANSWERS, (chosen, rejected), strict=True):
        if len(turns) != len(shared) + 1 or turns[-1].role != "assistant":
            what = f"{where}: {name} is more than one message of the assistant after what both answers begin with"
            raise DataError(what, "leave it out: which of several messages is preferred cannot be said")
    prompt = record.get(prompt_field)
    if isinstance(prompt, list):
        shared = [turn_of(each, f"{where}, {prompt_field}") for each in prompt] + shared
    elif isinstance(prompt, str) and not shared:
        shared = [Turn("user", prompt, False)]
    if not shared:
        raise DataError(f"{where}: there is no prompt, in {quoted(prompt_field)} or before the answers", FORM)
    return shared, chosen[-1].content, rejected[-1].content


def _ids(parts: Sequence[Tokenized], role: int) -> Any:
    """The ids of the parts of a role, in a line; (n,)."""
    return np.concatenate([ids for ids, part in parts if part.role == role])
