"""From sources to a tokenized corpus: read, hold out validation text, choose or train a tokenizer, write the shards."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from primegpt.config import LEARNT, DataConfig, TokenizerConfig
from primegpt.data.build import build
from primegpt.data.corpus import Corpus, cached, entry_of, locked
from primegpt.data.sources import STDIN, Document
from primegpt.data.split import Library, Split, Survey, choose_split, survey
from primegpt.data.template import Template, template_for, vocabulary
from primegpt.errors import ConfigError, DataError, MismatchError, PrimegptError
from primegpt.run.atomic import write_json_atomic
from primegpt.tokenizers import store
from primegpt.tokenizers.base import SpecialTokens, Tokenizer

LEARNT_FROM = 200_000_000  # bytes of training text that a tokenizer is trained on, at most
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
    if tokenizer:
        return _prepare(Library(config, report), config, tokenizer, context, cache, report)
    own = tokenizer_config.special_tokens
    special_tokens = vocabulary(config, own)
    tokenizer_config = tokenizer_config.model_copy(update={"special_tokens": special_tokens})
    given = _given_tokenizer(tokenizer_config, own, special_tokens) if tokenizer_config.path else None
    library = Library(config, report)
    return _prepare(library, config, given or tokenizer_config, context, cache, report)


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
) -> Corpus:
    """Shards of the library, with the given tokenizer or one trained by its configuration."""
    given = None if isinstance(tokenizer, TokenizerConfig) else tokenizer
    template = template_for(config, given)
    unknown = Counter[str]()

    def texts(document: Document, number: int) -> Iterator[str]:
        for text in template.texts(document, number) if template else (document.text,):
            if given:
                unknown.update(given.count_unknown(text))
            yield text

    surveyed = survey(library, texts, apart=bool(config.weights))
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
    if given and unknown:
        _report_unknown(unknown, given, report)
    split = choose_split(surveyed, config.val_fraction, records=template is not None, sources=config.sources)
    folder = entry_of(cache, surveyed.fingerprint, tokenizer, config, context)
    if corpus := cached(folder, report, given):
        return corpus
    try:
        with locked(folder, report):
            if not cached(folder, _silent):  # unless another process has just built it
                _build(folder, library, surveyed, split, tokenizer, template, config, context, report)
    except BrokenPipeError:  # nobody reads what is reported: not the disk's fault
        raise
    except OSError as error:
        raise PrimegptError(
            f"{folder.parent}: the prepared data cannot be written: {error.strerror or error}",
            "make room there, or point the environment variable PRIMEGPT_CACHE at another folder",
        ) from error
    corpus = cached(folder, report, given)
    assert corpus, f"{folder} was just written"
    return corpus


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


def _build(
    folder: Path,
    library: Library,
    surveyed: Survey,
    split: Split,
    tokenizer: Tokenizer | TokenizerConfig,
    template: Template | None,
    config: DataConfig,
    context: int,
    report: Report,
) -> None:
    """Write a whole entry beside `folder`, going on with what is there already, then rename it."""
    unfinished = folder.with_name(f"{folder.name}.partial")
    unfinished.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, TokenizerConfig):
        tokenizer = _trained_tokenizer(unfinished / "tokenizer", tokenizer, library, surveyed, split, template, report)
        template = template_for(config, tokenizer)
    else:
        store.save(tokenizer, unfinished / "tokenizer")
    report(f"tokenizing {surveyed.n_bytes / 1e6:,.1f} MB")
    tally = build(
        unfinished,
        split.assign(library),
        tokenizer,
        template,
        context + 1,  # as many targets, and the token before the first
        n_bytes=surveyed.n_bytes,
        source_fingerprint=surveyed.fingerprint,
        report=report,
    )
    facts = {
        "n_documents": surveyed.n_documents,
        "tally": tally.as_json(),
        "train_documents": split.training_documents(surveyed),
    }
    write_json_atomic(unfinished / "corpus.json", facts)
    shutil.rmtree(folder, ignore_errors=True)  # a damaged one
    unfinished.rename(folder)


def _trained_tokenizer(
    saved: Path,
    config: TokenizerConfig,
    library: Library,
    surveyed: Survey,
    split: Split,
    template: Template | None,
    report: Report,
) -> Tokenizer:
    """The tokenizer that an interrupted preparation has left, else one trained now."""
    try:
        return store.load(saved)
    except PrimegptError:
        pass
    size = config.learnt_vocab_size
    # Characters come from all of the text, so that none of the user's own is unknown: the model learns no more of the
    # validation text from this than its alphabet. Merges would tell more, and come from training text alone.
    wanted = ("train", "val") if config.kind == "char" else ("train",)
    every = 1 if config.kind == "char" else -(-surveyed.n_bytes // LEARNT_FROM)  # one document in so many
    if size:
        used = surveyed.n_bytes / every / 1e6
        report(f"training a {config.kind} tokenizer of {size:,} ids on about {used:,.1f} MB")
    tokenizer = store.train(config.kind, _texts(library, split, wanted, every, template), size, config.special_tokens)
    store.save(tokenizer, saved)
    return tokenizer


def _texts(
    library: Library, split: Split, wanted: tuple[str, ...], every: int, template: Template | None
) -> Iterable[str]:
    for name, number, document in split.assign(library):
        if name in wanted and number % every == 0:
            yield from template.texts(document, number) if template else (document.text,)


def _report_unknown(unknown: Counter[str], tokenizer: Tokenizer, report: Report) -> None:
    named = ", ".join(f"{character!r} ×{count:,}" for character, count in unknown.most_common(NAMED_UNKNOWN))
    rest = f" and {len(unknown) - NAMED_UNKNOWN:,} other kinds" if len(unknown) > NAMED_UNKNOWN else ""
    report(f"{unknown.total():,} characters are not in the tokenizer and become {tokenizer.unk_token}: {named}{rest}")


def _is_recorded(corpus: Corpus, record: Mapping[str, Any]) -> bool:
    return _names(corpus.record()) == _names(record)


def _names(record: Mapping[str, Any]) -> str:
    return f"{record['train_fingerprint']} (training) and {record['val_fingerprint']} (validation)"
