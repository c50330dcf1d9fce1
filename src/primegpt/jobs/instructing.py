"""Instructions for the texts of a source: an aligned corpus made of one that has no prompts, or has others'."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from primegpt.config import DataConfig, Settings
from primegpt.data.cleaning.clean import whole
from primegpt.data.preparing.survey import Library
from primegpt.data.reading.records import Document
from primegpt.data.reading.sources import SONGBOOK, TEXT, is_read_once, read_documents
from primegpt.data.songbook import EMOTIONS, GENRES
from primegpt.errors import DataError, UsageError, listed, quoted, require_within
from primegpt.evaluation.adherence import voice_match
from primegpt.jobs.configuring import reading
from primegpt.jobs.growing import GrowingFile, checked_place
from primegpt.jobs.instructions import Frequencies, instruction_for, is_song, length_of, stream_for
from primegpt.terminal import Say, to_stderr

Labels = Literal["record", "text", "none"]
LYRICS = "lyrics"
VOICES = {"genre": GENRES, "emotion": EMOTIONS}


@dataclass(frozen=True)
class Instructed:
    """What came of it, in figures, and of a preview the records."""

    facts: dict[str, Any]
    previews: list[dict[str, Any]]


def instruct(
    *sources: str | Path,
    out: str | Path | None = None,
    labels: Labels = "record",
    preview: int = 0,
    seed: int = 0,
    settings: Settings | None = None,
    say: Say = to_stderr,
) -> Instructed:
    """Write an instruction for each text of `sources`, and the two as a record: `prompt` and `lyrics` or `response`.

    A text with section headers is a song, whose record has `lyrics`. `labels`: genre and emotion are those of the
    text's own record; or those in whose words of the songbook the text speaks; or none. `themes` and `length` are what
    the rewards of these names read. The file is `out`; stopped, the same call goes on. `preview` makes so many records
    and no file. Raises UsageError before anything is written.
    """
    require_within("preview", preview, 0, 1000)
    if labels not in get_args(Labels):
        raise UsageError(f"labels = {quoted(labels)}", f"give one of {listed(get_args(Labels))}")
    if out is None and not preview:
        raise UsageError("there is no file to write to", "name one with --out, or look at some with --preview 3")
    if out is not None and not preview:
        checked_place(out, [str(source) for source in sources])
    config = _reading([str(source) for source in sources], settings or {}, say)
    library = Library(config, say)
    frequencies, digest = Frequencies(), hashlib.sha256()
    for document in whole(library):
        frequencies.add(document.text)
        digest.update(ascii((document.text, dict(document.fields))).encode())

    def records(first: int) -> Iterator[dict[str, Any] | None]:
        for number, document in enumerate(whole(library)):
            if number >= first:
                yield _record(document, frequencies, _labels_of(document, config, labels), seed, number)

    if preview or out is None:
        made = (record for record in records(0) if record)
        return Instructed({}, [record for record, _ in zip(made, range(preview), strict=False)])
    file = GrowingFile(out, {"texts": digest.hexdigest(), "labels": labels, "seed": seed}, say)
    for record in records(len(file.made)):
        file.add(record)
    kept = [record for record in file.made if record is not None]
    if not kept:
        raise DataError("nothing can be said of these texts without quoting a line whole", "give longer ones")
    file.finish(kept)
    return Instructed({"file": str(file.path), "texts": len(file.made), "instructions": len(kept)}, [])


def _reading(sources: list[str], settings: Settings, say: Say) -> DataConfig:
    """How the texts are read; of records that have lyrics these are the text, unless a field is named."""
    config = reading(sources, settings).data
    if config.template != "text":
        raise UsageError("--data.template lays out records that have prompts", "name the text with --data.text_field")
    if config.text_field != TEXT or "text_field" in settings.get("data", {}):
        return config
    if is_read_once(config.sources[0]):  # a pipe, of which nothing is read in advance; it has plain text
        return config
    limits: dict[str, Any] = {"songs": config.songs, "limit": config.max_record_bytes}
    has_lyrics = config.sources == (SONGBOOK,)
    if not has_lyrics:
        try:
            first = next(read_documents(config.sources, text_field=None, **limits))
        except (DataError, StopIteration):  # plain text, which has no fields; or nothing, which is told when it is read
            return config
        has_lyrics = isinstance(first.fields.get(LYRICS), str)
    if not has_lyrics:
        return config
    say(f"the texts are the field {LYRICS!r}; --data.text_field names another")
    return config.model_copy(update={"text_field": LYRICS})


def _labels_of(document: Document, config: DataConfig, labels: Labels) -> dict[str, str]:
    """The genre and the emotion of a text, those that are known."""
    if labels == "none":
        return {}
    if labels == "record":
        fields = {"genre": config.genre_field, "emotion": config.emotion_field}
        own = {kind: document.fields.get(name) for kind, name in fields.items()}
        return {kind: value for kind, value in own.items() if isinstance(value, str) and value.strip()}
    shares = {kind: voice_match(voices, [document.text], voices)[0] for kind, voices in VOICES.items()}
    return {kind: VOICES[kind][int(share.argmax())] for kind, share in shares.items() if share.max() == 1}


def _record(
    document: Document, frequencies: Frequencies, labels: Mapping[str, str], seed: int, number: int
) -> dict[str, Any] | None:
    """A text with an instruction; None where there is none for it."""
    text = document.text.strip()
    found = instruction_for(text, frequencies, labels, stream_for(seed, number))
    if found is None:
        return None
    answer = LYRICS if is_song(text) else "response"
    return {"prompt": found.prompt, **labels, "themes": found.themes, "length": length_of(text), answer: text}
