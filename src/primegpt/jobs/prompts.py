"""Prompts out of a file of records, as a run that is to answer them was trained to see them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from primegpt.config import DataConfig, GenerateConfig
from primegpt.data.layout import Template
from primegpt.data.reading.messages import list_of, messages_of, turn_of
from primegpt.data.reading.records import Document
from primegpt.data.reading.sources import SONGBOOK, read_documents
from primegpt.data.template import ChatTemplate, ResponseTemplate, SongTemplate, template_for
from primegpt.errors import DataError, quoted
from primegpt.inference.context import Completion, Row
from primegpt.inference.decoder import Decoder, opening
from primegpt.inference.run import Run
from primegpt.seeds import derive_seed
from primegpt.terminal import Say, to_stderr

ROWS = 128  # texts that are written side by side


@dataclass(frozen=True)
class Prompted:
    """A prompt of a file: what the model is given for it, in words and in ids, and the record that it stands in."""

    ids: list[int]
    text: str
    """What rewards are told: the prompt, or the user's last message."""
    document: Document
    messages: tuple[Mapping[str, str], ...] = ()
    """The conversation that is to go on, where it is one."""

    @property
    def record(self) -> Mapping[str, Any]:
        return self.document.fields

    @property
    def place(self) -> str:
        return self.document.place or self.document.source


def read_prompts(run: Run, read: DataConfig, *, limit: int | None = None, say: Say = to_stderr) -> list[Prompted]:
    """The first `limit` prompts of the records that `read` names, laid out as those that `run` learnt from.

    Answers that stand there are left out: of a conversation its last turn, where that is the assistant's. A run on
    chats takes records with a `prompt` too. Raises DataError for a source that cannot be read, and for a record
    without a prompt, or with one that fills what the model sees.
    """
    template, sees = template_for(read, run.tokenizer), run.config.model.block_size
    limits: dict[str, Any] = {"songs": read.songs, "limit": read.max_record_bytes, "named": read.prompt_field}
    documents = read_documents(read.sources, text_field=None, **limits, say=say)
    found = [_prompted(run, template, document, number) for number, document in enumerate(islice(documents, limit))]
    refuse_too_long(found, sees, "the model")
    return found


def refuse_too_long(prompts: Sequence[Prompted], sees: int, who: str) -> None:
    """Raise DataError for a prompt after which `who` does not see a token more."""
    if too_long := next((each for each in prompts if len(each.ids) >= sees), None):
        what = f"{too_long.place}: the prompt has {len(too_long.ids):,} tokens, and {who} sees {sees:,}"
        raise DataError(what, "shorten it, or leave it out")


def _prompted(run: Run, template: Template | None, document: Document, number: int) -> Prompted:
    where = document.place or document.source
    if not document.fields:
        raise DataError(f"{where} is plain text, and prompts are fields of records", "give them as .jsonl")
    if isinstance(template, ChatTemplate) or (template is None and run.converses):
        asked = tuple(_messages(document, where))
        ids = run.conversation(asked)
        return Prompted(ids if isinstance(ids, list) else _encoded(run, ids), asked[-1]["content"], document, asked)
    fields = run.config.data.prompt_field if template is None else template.config.prompt_field
    if isinstance(template, ResponseTemplate):
        fields, _ = template.form(document.fields)
    prompt = _text_of(document, fields, where)
    if template is None:
        gap = "\n\n" if SONGBOOK in run.config.data.sources else ""  # what parts a prompt from its song there
        return Prompted(_encoded(run, prompt + gap), prompt, document)
    labels: dict[str, Any] = {}
    if isinstance(template, SongTemplate):
        labels = {kind: template.labels_of(document, number, kind) for kind in template.labels}
    return Prompted(template.prompt_ids(run.tokenizer, prompt, labels), prompt, document)


def _encoded(run: Run, text: str) -> list[int]:
    ids, first = run.tokenizer.encode(text), opening(run.tokenizer, text, run.settings())
    return ids if first is None else [first, *ids]


def _text_of(document: Document, fields: Sequence[str], where: str) -> str:
    """The text of the fields of a prompt; of a conversation what the user says last."""
    record = document.fields
    texts = [record.get(name) for name in fields]
    if not any(texts) and list_of(record) in record:
        return list(_messages(document, where))[-1]["content"]
    if not any(texts) or not all(isinstance(text, str | None) for text in texts):
        name = next((name for name, text in zip(fields, texts, strict=True) if not isinstance(text, str)), fields[0])
        raise DataError(f"{where}: the prompt {quoted(name)} is {quoted(record.get(name))}", "--data.prompt_field NAME")
    return "\n\n".join(filter(None, texts))


def _messages(document: Document, where: str) -> Iterator[Mapping[str, str]]:
    """The conversation up to what is to be answered; a prompt by itself is one message."""
    record = document.fields
    if list_of(record) not in record and isinstance(record.get("prompt"), str):
        yield {"role": "user", "content": record["prompt"]}
        return
    said = record["prompt"] if isinstance(record.get("prompt"), list) else messages_of(record, where)
    turns = [turn_of(message, f"{where}, message {number}") for number, message in enumerate(said, 1)]
    while turns and turns[-1].role == "assistant":
        turns.pop()
    if not turns or turns[-1].role != "user":
        raise DataError(f"{where}: the conversation asks for no answer", "let it end with what the user says")
    yield from ({"role": turn.role, "content": turn.content} for turn in turns)


def written_to(
    run: Run, prompts: Sequence[Prompted], settings: GenerateConfig, num_samples: int = 1, first: int = 0
) -> Iterator[list[Completion]]:
    """`num_samples` texts to each prompt, some prompts side by side.

    Sample i of prompt p is a function of the weights, the settings, p and i: `first` is the number of the first prompt.
    """
    at_once = max(1, ROWS // num_samples)
    longest = max((len(each.ids) for each in prompts), default=0)
    run.require_memory(min(at_once, len(prompts)) * num_samples, longest + settings.max_new_tokens, settings)
    decoder = run.generator(settings.precision)
    for start in range(0, len(prompts), at_once):
        chosen = prompts[start : start + at_once]
        if settings.num_beams > 1:
            yield from decoder.generate([each.ids for each in chosen], settings, num_samples=num_samples)
            continue
        samples = [_rows(decoder, each, settings, n, num_samples) for n, each in enumerate(chosen, first + start)]
        rows = [row for of_prompt in samples for row in of_prompt]
        texts = {id(row): "" for row in rows}
        for row, piece in decoder.pieces(rows, settings):
            texts[id(row)] += piece
        yield from ([decoder.completion(row, texts[id(row)]) for row in of_prompt] for of_prompt in samples)


def _rows(decoder: Decoder, prompt: Prompted, settings: GenerateConfig, number: int, num_samples: int) -> list[Row]:
    """The beginnings of the samples of prompt number `number`, with random streams of their own."""
    own = settings.model_copy(update={"seed": derive_seed(settings.seed, "prompt", number)})
    return [decoder.row(prompt.ids, own, sample) for sample in range(num_samples)]
