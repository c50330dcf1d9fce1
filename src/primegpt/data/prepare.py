"""From sources to a tokenized corpus: read, hold out validation text, choose or train a tokenizer, write the shards."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primegpt.config import LEARNT, DataConfig, TokenizerConfig
from primegpt.data.blocks import WHOLE, Blocks, Part, agree, missing_parts
from primegpt.data.corpus import Corpus, cached, entry_of, locked, locked_part, settings_of
from primegpt.data.entry import Entry
from primegpt.data.sources import STDIN, Document
from primegpt.data.split import Library, Survey, choose_split, survey
from primegpt.data.template import template_for, vocabulary
from primegpt.errors import ConfigError, DataError, MismatchError, PrimegptError
from primegpt.tokenizers import store
from primegpt.tokenizers.base import SpecialTokens, Tokenizer

NAMED_UNKNOWN = 10  # characters named in one line

Report = Callable[[str], None]


def _silent(line: str) -> None:
    pass


def prepare(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    *,
    tokenizer: Tokenizer | None = None,
    context: int = 1024,
    cache: Path | None = None,
    report: Report = _silent,
) -> Corpus:
    """Read `config.sources` and return them as shards, built now or taken from the cache if nothing has changed.

    `tokenizer` is used in place of the one that `tokenizer_config` describes. `context` is the length of training
    windows in tokens, which records have to fit into. `cache` is as in `cache_folder`; `report` gets a line for each
    thing worth knowing. Raises DataError for text that cannot be used.
    """
    given = tokenizer or _tokenizer_of(config, tokenizer_config)
    corpus = _prepare(Library(config, report), config, given, context, cache, report)
    assert isinstance(corpus, Corpus)
    return corpus


@dataclass(frozen=True)
class Unfinished:
    """A corpus of which some parts are missing: other processes or machines prepare them."""

    folder: Path
    missing: list[Part]


def prepare_part(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    part: Part,
    *,
    context: int = 1024,
    cache: Path | None = None,
    report: Report = _silent,
) -> Corpus | Unfinished:
    """Prepare one part of what `prepare` would; the last of them makes the same corpus of all, byte for byte.

    Each part reads all of the text, whose fingerprint and split concern the whole, and encodes its share. Raises
    ConfigError where a tokenizer would have to be trained, which every part needs beforehand, MismatchError if other
    parts have another text or other settings, DataError if the part is being prepared already.
    """
    if part != WHOLE and not tokenizer_config.path and tokenizer_config.kind != "gpt2":
        kind = tokenizer_config.kind
        raise ConfigError(
            f"part {part} cannot train a {kind} tokenizer, which all parts need to have in common",
            f"`primegpt tokenizer train SOURCE --kind {kind} --out DIR`, then give each part --tokenizer.path DIR",
        )
    tokenizer = _tokenizer_of(config, tokenizer_config)
    return _prepare(Library(config, report), config, tokenizer, context, cache, report, part=part)


def reopen(
    record: Mapping[str, Any],
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    context: int = 1024,
    cache: Path | None = None,
    report: Report = _silent,
) -> Corpus:
    """The corpus of a run, from its `Corpus.record()`, configuration and tokenizer.

    Shards that left the cache are built again from the sources. Raises MismatchError if the sources have changed, or
    if they are gone.
    """
    source = record["source_fingerprint"]
    for folder in dict.fromkeys((Path(record["folder"]), entry_of(cache, source, tokenizer, config, context))):
        corpus = cached(folder, report)
        if corpus and _is_recorded(corpus, record):
            return corpus
    if STDIN in config.sources:
        raise MismatchError(
            f"the shards in {record['folder']} are gone, and their text came from standard input",
            "save that text to a file and start a new run",
        )
    report(f"the shards in {record['folder']} are gone; reading their text again")
    corpus = _prepare(Library(config, report), config, tokenizer, context, cache, report, expected=source)
    assert isinstance(corpus, Corpus)
    if not _is_recorded(corpus, record):
        raise MismatchError(
            f"the shards of this run were {_names(record)}, and the same text now gives {_names(corpus.record())}",
            "resume with the version of primegpt that began it, or start a new run",
        )
    return corpus


def _prepare(
    library: Library,
    config: DataConfig,
    tokenizer: Tokenizer | TokenizerConfig,
    context: int,
    cache: Path | None,
    report: Report,
    expected: str | None = None,
    part: Part = WHOLE,
) -> Corpus | Unfinished:
    """Shards of the library, with the given tokenizer or one trained by its configuration; or a part of them."""
    given = None if isinstance(tokenizer, TokenizerConfig) else tokenizer
    template = template_for(config, given)
    unknown = Counter[str]()

    def texts(document: Document, number: int) -> Iterator[str]:
        for text in template.texts(document, number) if template else (document.text,):
            if given:
                unknown.update(given.count_unknown(text))
            yield text

    surveyed = survey(library, texts, apart=bool(config.weights))
    _refuse_other_text(surveyed, config, expected)
    if given and unknown:
        _report_unknown(unknown, given, report)
    split = choose_split(surveyed, config.val_fraction, records=template is not None, sources=config.sources)
    folder = entry_of(cache, surveyed.fingerprint, tokenizer, config, context)
    if corpus := cached(folder, report, given):
        return corpus
    blocks = Blocks.of(surveyed.n_bytes)
    entry = Entry(folder, library, surveyed, split, blocks, tokenizer, template, config, context, report)
    if unfinished := _store(entry, part):
        return unfinished
    corpus = cached(folder, report, given)
    if not corpus:
        raise DataError(f"{folder} was changed while it was being written", "prepare the text again")
    return corpus


def _refuse_other_text(surveyed: Survey, config: DataConfig, expected: str | None) -> None:
    """DataError for a weighted source of which nothing is left, MismatchError for another text than `expected`."""
    gone = [source for index, source in enumerate(config.sources) if index not in surveyed.firsts]
    if config.weights and gone:
        raise DataError(
            f"nothing of {gone[0]} is left, after cleaning and data.max_bytes, to be weighted",
            "leave it out, or relax data.*",
        )
    if expected and surveyed.fingerprint != expected:
        raise MismatchError(
            f"the text of this run has changed: its fingerprint was {expected} and is now {surveyed.fingerprint}",
            "put the original text back, or start a new run",
        )


def _store(entry: Entry, part: Part) -> Unfinished | None:
    """Put the entry, or a part of it, into the cache; what is missing then. Raises PrimegptError for a full disk."""
    settings = settings_of(entry.surveyed.fingerprint, entry.tokenizer, entry.config, entry.context)
    try:
        if part == WHOLE:
            with locked(entry.folder, entry.report):
                if not cached(entry.folder, _silent):  # unless another process has just built it
                    entry.complete(entry.build(entry.blocks.range(part)))
        else:
            with locked_part(entry.folder, part):
                agree(entry.unfinished, entry.config.sources, settings)
                if not entry.blocks.range(part):
                    enough = f"the text is too small for so many, {entry.blocks.count} would do"
                    entry.report(f"part {part} has nothing to do: {enough}")
                mine = entry.build(entry.blocks.range(part))
            with locked(entry.folder, entry.report):
                if cached(entry.folder, _silent):
                    entry.discard()
                elif not entry.complete(mine):
                    return Unfinished(entry.unfinished, missing_parts(entry.unfinished, entry.blocks, part.count))
    except BrokenPipeError:  # nobody reads what is reported: not the disk's fault
        raise
    except OSError as error:
        if not cached(entry.folder, _silent):  # or another process has finished it, and taken the unfinished one away
            raise PrimegptError(
                f"{entry.folder.parent}: the prepared data cannot be written: {error.strerror or error}",
                "make room there, or point the environment variable PRIMEGPT_CACHE at another folder",
            ) from error
    return None


def _tokenizer_of(config: DataConfig, tokenizer_config: TokenizerConfig) -> Tokenizer | TokenizerConfig:
    """The tokenizer that is given by its folder, else the configuration of one, with the special tokens of the data."""
    own = tokenizer_config.special_tokens
    special_tokens = vocabulary(config, own)
    tokenizer_config = tokenizer_config.model_copy(update={"special_tokens": special_tokens})
    return _given_tokenizer(tokenizer_config, own, special_tokens) if tokenizer_config.path else tokenizer_config


def _given_tokenizer(config: TokenizerConfig, own: SpecialTokens, wanted: SpecialTokens) -> Tokenizer:
    """The tokenizer at `config.path`. A foreign one, which has no special tokens yet, gets those that are `wanted`.

    Raises ConfigError if it is not what the configuration also asks for.
    """
    path = config.path
    assert path
    tokenizer = store.load(path, own)
    for key in LEARNT & config.model_fields_set:
        asked, found = getattr(config, key), getattr(tokenizer, key)
        if asked not in (None, found):
            raise ConfigError(
                f"tokenizer.{key} = {asked!r}, but the tokenizer in {path} has {found!r}",
                f"leave tokenizer.{key} out, or leave tokenizer.path out to train one",
            )
    if set(wanted.get("control", ())) <= tokenizer.special_tokens.keys():
        return tokenizer
    return store.load(path, wanted)


def _report_unknown(unknown: Counter[str], tokenizer: Tokenizer, report: Report) -> None:
    named = ", ".join(f"{character!r} ×{count:,}" for character, count in unknown.most_common(NAMED_UNKNOWN))
    rest = f" and {len(unknown) - NAMED_UNKNOWN:,} other kinds" if len(unknown) > NAMED_UNKNOWN else ""
    report(f"{unknown.total():,} characters are not in the tokenizer and become {tokenizer.unk_token}: {named}{rest}")


def _is_recorded(corpus: Corpus, record: Mapping[str, Any]) -> bool:
    return _names(corpus.record()) == _names(record)


def _names(record: Mapping[str, Any]) -> str:
    return f"{record['train_fingerprint']} (training) and {record['val_fingerprint']} (validation)"
