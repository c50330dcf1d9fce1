"""What one does with data before training: audit it, fetch a public corpus, write a songbook, or tasks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from primegpt.config import MAX_SONGS, TOKENIZER_KINDS, Layer, Settings, read_toml, recipe_path, refuse_all_but
from primegpt.data.audit import AuditReport, audit_documents
from primegpt.data.audit_pairs import PairCounts
from primegpt.data.preference import Pairs
from primegpt.data.preparing.blocks import WHOLE, parse_part
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import Unfinished, prepare_part
from primegpt.data.preparing.shards import REJECTED, SUPERVISED
from primegpt.data.preparing.survey import Library
from primegpt.data.reading import fetch
from primegpt.data.reading.sources import source_bytes
from primegpt.data.songbook import Song, songbook
from primegpt.data.tasks import tasks
from primegpt.data.template import as_texts, layout_for
from primegpt.errors import ConfigError, UsageError, require_within
from primegpt.jobs.configuring import configure, reading
from primegpt.jobs.facts import assumed_vocabulary
from primegpt.jobs.growing import checked_place
from primegpt.model.size import parameter_count
from primegpt.planning.recipe import tokenizer_for
from primegpt.run.atomic import write_text_atomic
from primegpt.seeds import derive_seed
from primegpt.terminal import Say, to_stderr
from primegpt.tokenizers import store

MAX_PREVIEWS = 100_000  # which are decoded at once

PREVIEWED = 100  # tokens of a plain document that a preview shows


def audit(
    *sources: str | Path,
    config: str | Path | None = None,
    settings: Settings | None = None,
    n_parameters: int | None = None,
    say: Say = to_stderr,
) -> AuditReport:
    """Look at the text of `sources` (or of the recipe `config`) as training would see it, and judge it.

    `config` also says how it is read and cleaned, and how large the model is; `settings` wins over it, and
    `n_parameters` says the latter alone. Raises DataError for a source that cannot be read.
    """
    require_within("model_parameters", n_parameters, 1, 10**15)
    recipe = reading(sources, settings or {}, read_toml(recipe_path(config) or config) if config else None)
    if config and n_parameters is None:
        vocabulary = assumed_vocabulary(recipe)
        n_parameters = parameter_count(recipe.with_values(model={"vocab_size": vocabulary}).model)
    tokenizer = store.load(recipe.tokenizer.path) if recipe.tokenizer.path else None
    kind = (
        recipe.tokenizer.kind
        if config
        else tokenizer_for(source_bytes(recipe.data.sources, songs=recipe.data.songs, at_most=recipe.data.max_bytes))[
            "kind"
        ]
    )
    layout = layout_for(recipe.data, tokenizer)
    library, pairs = Library(recipe.data, say), PairCounts()
    documents = as_texts(pairs.counted(library, layout) if isinstance(layout, Pairs) else library, layout)
    by_character = TOKENIZER_KINDS[kind].unit == "character" and layout is None
    report = audit_documents(
        documents, tokenizer, n_parameters, by_character=by_character, dropped=recipe.data.duplicates
    )
    return replace(report, pairs=pairs.report()) if pairs.pairs else report


@dataclass(frozen=True)
class Prepared:
    """What a preparation has made, in rows to print, and records or passages to look at."""

    facts: dict[str, Any]
    previews: list[dict[str, Any]]


def prepare_data(
    *sources: str | Path,
    preview: int = 0,
    shard: str | None = None,
    settings: Settings | None = None,
    say: Say = to_stderr,
) -> Prepared:
    """Tokenize `sources`, or those of one CONFIG.toml, into shards in the cache, where a training finds them.

    `preview` shows so many of the first training records (or documents) decoded from their shards, what is supervised
    apart from what is not. `shard`, "2/8", prepares one part of it, beside other processes or machines that prepare
    the others; whichever is last puts them together. Raises UsageError as `train` does.
    """
    require_within("preview", preview, 0, MAX_PREVIEWS)
    part = parse_part(shard) if shard is not None else WHOLE
    refuse_all_but(("model", "tokenizer", "data", "train"), settings or {}, "only `train` uses it: leave it out")
    config = configure([str(source) for source in sources], Layer(settings or {}))
    corpus = prepare_part(config.data, config.tokenizer, part, context=config.sequence_length, say=say)
    if isinstance(corpus, Unfinished):
        missing = [f"{each.index}/{each.count}" for each in corpus.missing]
        return Prepared({"folder": str(corpus.folder), "part": shard, "missing": missing}, [])
    facts: dict[str, Any] = {
        "folder": str(corpus.folder),
        "documents": corpus.n_documents,
        "tokenizer": repr(corpus.tokenizer),
        "training_tokens": len(corpus.train),
        "validation_tokens": len(corpus.val),
    }
    if config.data.weights:
        parts = corpus.train_parts()
        facts["weights"] = dict(zip(config.data.sources, config.data.weights, strict=True))
        facts["source_tokens"] = {name: len(part) for name, part in zip(config.data.sources, parts, strict=True)}
    if corpus.train.has_roles:
        facts |= corpus.tally.as_json() | {"supervised_share": corpus.tally.supervised_share}
    previews = [_preview(corpus, index) for index in range(min(preview, corpus.train.n_documents))]
    return Prepared(facts, previews)


def _preview(corpus: Corpus, index: int) -> dict[str, Any]:
    """Document `index` of the training split: its beginning, or its context and what is asked for."""
    start, stop = corpus.train.document(index)
    decode = corpus.tokenizer.decode
    if not corpus.train.has_roles:
        return {"tokens": stop - start, "text": decode(corpus.train.slice(start, min(stop, start + PREVIEWED)))}
    ids, roles = corpus.train.slice(start, stop), corpus.train.roles(start, stop)
    return {
        "tokens": stop - start,
        "supervised_tokens": int((roles == SUPERVISED).sum()),
        "context": decode(ids[(roles != SUPERVISED) & (roles != REJECTED)]),
        "supervised": decode(ids[roles == SUPERVISED]),
        **({"rejected": decode(ids[roles == REJECTED])} if corpus.train.has_pairs else {}),
    }


def fetch_corpus(name: str, *, say: Say = to_stderr) -> list[Path]:
    """Download the corpus `name` unless it is there; its files. From then on the name is a source."""
    if name in fetch.CORPORA:
        say(f"{name}: {fetch.CORPORA[name].about}")
        if any(file.checksum is None for file in fetch.CORPORA[name].files):
            say("no checksum is known for it: that it arrives whole is checked, not what it holds")
    return fetch.fetch(name, fetch.LineProgress(say))


def write_songbook(
    out: str | Path, *, songs: int = 8000, alignment: float | None = None, seed: int = 0, pairs: bool = False
) -> Path:
    """Write a songbook: .jsonl with prompt, labels, title and lyrics of each song, or .txt. Raises ConfigError.

    `pairs`: to each prompt the song that was written to it, `chosen`, and one that was not, `rejected`.
    """
    path = Path(out)
    require_within("songs", songs, 1, MAX_SONGS)
    require_within("alignment", alignment, 0, 1)
    if pairs:
        if alignment is not None:
            raise UsageError("--pairs have a song of either kind: aligned, and not", "leave --alignment out")
        return write_records(path, map(_pair, songbook(songs, seed), songbook(songs, derive_seed(seed, "rejected"))))
    book = songbook(songs, seed, 1.0 if alignment is None else alignment)
    if path.suffix == ".txt":
        write_text_atomic(path, "\n\n\n".join(song.text for song in book) + "\n")
    elif path.suffix == ".jsonl":
        write_records(path, map(_known, book))
    else:
        raise ConfigError(f"{path}: a songbook is written as .jsonl or .txt", "choose another name with --out")
    return path


def _known(song: Song) -> dict[str, Any]:
    known = {name: value for name, value in asdict(song).items() if name != "sections"}  # they are the lyrics
    return {"text": song.text, "lyrics": song.lyrics, **known}


def _pair(song: Song, other: Song) -> dict[str, Any]:
    labels = {"genre": song.genre, "emotion": song.emotion, "themes": song.themes}
    return {"prompt": song.prompt, "chosen": song.lyrics, "rejected": other.lyrics, **labels}


def write_tasks(
    out: str | Path,
    *,
    kind: str,
    records: int = 2000,
    levels: Sequence[int] = (1,),
    held_out: bool = False,
    seed: int = 0,
) -> Path:
    """Write questions with one right answer as conversations, .jsonl; see data/tasks.py. Raises UsageError.

    `held_out`: of the tenth of all questions that no file without it has, whatever the seeds.
    """
    require_within("records", records, 1, MAX_SONGS)
    return write_records(
        Path(out), (task.record for task in tasks(kind, records, levels=levels, held_out=held_out, seed=seed))
    )


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write one record a line, whole or not at all. Raises UsageError for a place that is none."""
    write_text_atomic(checked_place(path), "".join(json.dumps(record) + "\n" for record in records))
    return path
