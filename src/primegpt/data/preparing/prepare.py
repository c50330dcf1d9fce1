"""From sources to a tokenized corpus: read, hold out validation text, choose or train a tokenizer, write the shards."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primegpt.config import LEARNT, DataConfig, TokenizerConfig
from primegpt.data.layout import row_length, tokenized
from primegpt.data.preparing.blocks import WHOLE, Blocks, Part, agree, missing_parts
from primegpt.data.preparing.corpus import SPLITTING, Corpus, cached, entry_of, locked, locked_part, settings_of
from primegpt.data.preparing.entry import Entry
from primegpt.data.preparing.split import choose_split
from primegpt.data.preparing.survey import Library, Survey, numbered, survey
from primegpt.data.reading.sources import Document, bytes_of, is_read_once
from primegpt.data.template import layout_for, source_layout, vocabulary
from primegpt.errors import ConfigError, DataError, MismatchError, PrimegptError
from primegpt.terminal import Say, silent
from primegpt.tokenizers import store
from primegpt.tokenizers.base import SpecialTokens, Tokenizer

SAMPLED = 300_000  # bytes of each source whose records tell how long they are
NAMED_UNKNOWN = 10  # characters named in one line


def prepare(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    *,
    tokenizer: Tokenizer | None = None,
    context: int = 1024,
    cache: Path | None = None,
    say: Say = silent,
) -> Corpus:
    """Read `config.sources` and return them as shards, built now or taken from the cache if nothing has changed.

    `tokenizer` is used in place of the one that `tokenizer_config` describes. `context` is the length of training
    windows in tokens, which records have to fit into. `cache` is as in `cache_folder`; `say` gets a line for each
    thing worth knowing. Raises DataError for text that cannot be used.
    """
    given = tokenizer or _tokenizer_of(config, tokenizer_config)
    corpus = _prepare(Library(config, say), config, given, context, cache, say)
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
    say: Say = silent,
) -> Corpus | Unfinished:
    """Prepare one part of what `prepare` would; the last of them makes the same corpus of all, byte for byte.

    Each part reads all of the text, whose fingerprint and split concern the whole, and encodes its share. Raises
    ConfigError where a tokenizer would have to be trained, which every part needs beforehand, MismatchError if other
    parts have another text or other settings, DataError if the part is being prepared already.
    """
    if part != WHOLE and not tokenizer_config.path and tokenizer_config.facts.learnt:
        kind = tokenizer_config.kind
        raise ConfigError(
            f"part {part} cannot train a {kind} tokenizer, which all parts need to have in common",
            f"`primegpt tokenizer train SOURCE --kind {kind} --out DIR`, then give each part --tokenizer.path DIR",
        )
    tokenizer = _tokenizer_of(config, tokenizer_config)
    return _prepare(Library(config, say), config, tokenizer, context, cache, say, part=part)


def reopen(
    record: Mapping[str, Any],
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    context: int = 1024,
    cache: Path | None = None,
    say: Say = silent,
) -> Corpus:
    """The corpus of a run, from its `Corpus.record()`, configuration and tokenizer.

    Shards that left the cache are built again from the sources. Raises MismatchError if the sources have changed, or
    if they are gone.
    """
    source = record["source_fingerprint"]
    for folder in dict.fromkeys((Path(record["folder"]), entry_of(cache, source, tokenizer, config, context))):
        corpus = cached(folder, say)
        if corpus and _is_recorded(corpus, record):
            return corpus
    if any(map(is_read_once, config.sources)):
        raise MismatchError(
            f"the shards in {record['folder']} are gone, and their text came from standard input",
            "save that text to a file and start a new run",
        )
    say(f"the shards in {record['folder']} are gone; reading their text again")
    corpus = _prepare(Library(config, say), config, tokenizer, context, cache, say, expected=record)
    assert isinstance(corpus, Corpus)
    if not _is_recorded(corpus, record):
        raise MismatchError(
            f"the shards of this run were {_names(record)}, and the same text now gives {_names(corpus.record())}"
            f"{_or_the_version(record)}",
            "resume with the version of primegpt that began it, or start a new run",
        )
    return corpus


def _prepare(
    library: Library,
    config: DataConfig,
    tokenizer: Tokenizer | TokenizerConfig,
    context: int,
    cache: Path | None,
    say: Say,
    expected: Mapping[str, Any] | None = None,
    part: Part = WHOLE,
) -> Corpus | Unfinished:
    """Shards of the library, with the given tokenizer or one trained by its configuration; or a part of them.

    `expected` is the record of a run whose text this has to be.
    """
    given = None if isinstance(tokenizer, TokenizerConfig) else tokenizer
    layout = layout_for(config, tokenizer)
    unknown = Counter[str]()

    def heard(text: str) -> None:
        if given:
            unknown.update(given.count_unknown(text))

    text_fields = [config.of(group).text_field for group in range(len(config.sources))]
    surveyed = survey(library, layout, heard=heard, text_fields=text_fields)
    for line in surveyed.unlearnt.remarks():
        say(line)
    _refuse_other_text(surveyed, config, expected)
    if given and unknown:
        _report_unknown(unknown, given, say)
    split = choose_split(
        surveyed,
        config.val_fraction,
        keeps_whole=layout.keeps_whole if layout else lambda group: False,
        sources=config.sources,
        weighted=bool(config.weights),
    )
    for remark in split.remarks(surveyed, config.sources, config.val_fraction):
        say(remark)
    folder = entry_of(cache, surveyed.fingerprint, tokenizer, config, context)
    if corpus := cached(folder, say, given):
        return corpus
    blocks = Blocks.of(surveyed.n_bytes)
    entry = Entry(folder, library, surveyed, split, blocks, tokenizer, layout, config, context, say)
    if unfinished := _store(entry, part):
        return unfinished
    corpus = cached(folder, say, given)
    if not corpus:
        raise DataError(f"{folder} was changed while it was being written", "prepare the text again")
    return corpus


def _refuse_other_text(surveyed: Survey, config: DataConfig, expected: Mapping[str, Any] | None) -> None:
    """DataError for a weighted source of which nothing is left, MismatchError for another text than was `expected`."""
    left = surveyed.sources()
    gone = [source for index, source in enumerate(config.sources) if index not in left]
    if config.weights and gone:
        raise DataError(
            f"nothing of {gone[0]} is left, after cleaning and data.max_bytes, to be weighted",
            "leave it out, or relax data.*",
        )
    if expected and surveyed.fingerprint != (was := expected["source_fingerprint"]):
        raise MismatchError(
            f"the text of this run has changed{_or_the_version(expected)}: its fingerprint was {was} and is now "
            f"{surveyed.fingerprint}",
            "put the original text back, resume with the version that began the run, or start a new one"
            if _or_the_version(expected)
            else "put the original text back, or start a new run",
        )


def record_lengths(
    config: DataConfig, tokenizer_config: TokenizerConfig, *, tokenizer: Tokenizer | None = None
) -> list[int]:
    """Tokens of records at the beginning of each source, to choose a context by; none where input is a pipe.

    Where the tokenizer is yet to be trained, one is trained on these records alone, which errs by a few percent.
    """
    if any(map(is_read_once, config.sources)):
        return []
    given = tokenizer or _tokenizer_of(config, tokenizer_config)
    found = list[list[Any]]()
    for group in range(len(config.sources)):
        own = config.of(group)
        if layout := source_layout(own, given):
            found += [layout.parts(each, n) for n, each in _first_documents(own, own.sources[group])]
    if isinstance(given, TokenizerConfig):
        texts = (part.content for parts in found for part in parts if not part.special)
        given = store.train(given.kind, texts, given.learnt_vocab_size, given.special_tokens)
    return [row_length([tokenized(part, given) for part in parts]) for parts in found]


def _first_documents(config: DataConfig, source: str) -> Iterator[tuple[int, Document]]:
    """Numbered documents of one source, until so many bytes have been seen as tell their lengths."""
    alone = config.model_copy(update={"sources": (source,), "weights": (), "source": {}})
    sizes = 0
    for number, document in numbered(Library(alone, silent)):
        yield number, document
        sizes += bytes_of(document)
        if sizes > SAMPLED:
            return


def _or_the_version(record: Mapping[str, Any]) -> str:
    """Words for a run that an earlier version began: it may have laid out and split the same text otherwise."""
    return "" if record.get("preparation") == SPLITTING else ", or an earlier version of primegpt prepared it otherwise"


def _store(entry: Entry, part: Part) -> Unfinished | None:
    """Put the entry, or a part of it, into the cache; what is missing then. Raises PrimegptError for a full disk."""
    settings = settings_of(entry.surveyed.fingerprint, entry.tokenizer, entry.config, entry.context)
    try:
        if part == WHOLE:
            with locked(entry.folder, entry.say):
                if not cached(entry.folder, silent):  # unless another process has just built it
                    entry.complete(entry.build(entry.blocks.range(part)))
        else:
            with locked_part(entry.folder, part):
                agree(entry.unfinished, entry.config.sources, settings)
                if not entry.blocks.range(part):
                    enough = f"the text is too small for so many, {entry.blocks.count} would do"
                    entry.say(f"part {part} has nothing to do: {enough}")
                mine = entry.build(entry.blocks.range(part))
            with locked(entry.folder, entry.say):
                if cached(entry.folder, silent):
                    entry.discard()
                elif not entry.complete(mine):
                    return Unfinished(entry.unfinished, missing_parts(entry.unfinished, entry.blocks, part.count))
    except BrokenPipeError:  # nobody reads what is reported: not the disk's fault
        raise
    except OSError as error:
        if not cached(entry.folder, silent):  # or another process has finished it, and taken the unfinished one away
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


def _report_unknown(unknown: Counter[str], tokenizer: Tokenizer, say: Say) -> None:
    named = ", ".join(f"{character!r} ×{count:,}" for character, count in unknown.most_common(NAMED_UNKNOWN))
    rest = f" and {len(unknown) - NAMED_UNKNOWN:,} other kinds" if len(unknown) > NAMED_UNKNOWN else ""
    token = tokenizer.unk_token or "nothing"
    say(f"{unknown.total():,} characters are not in the tokenizer and become {token}: {named}{rest}")


def _is_recorded(corpus: Corpus, record: Mapping[str, Any]) -> bool:
    return _names(corpus.record()) == _names(record)


def _names(record: Mapping[str, Any]) -> str:
    return f"{record['train_fingerprint']} (training) and {record['val_fingerprint']} (validation)"
