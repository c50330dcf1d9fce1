"""Tokenizers on their own: learn one that several runs can share, and look at what one makes of a text."""

from pathlib import Path
from typing import Any

from primegpt.config import Settings
from primegpt.data.preparing.survey import Library
from primegpt.data.reading.sources import STDIN, read_documents
from primegpt.data.template import as_texts, layout_for, vocabulary
from primegpt.errors import TokenizerError
from primegpt.jobs.configuring import reading
from primegpt.run.folder import latest_run, refuse_unwritable
from primegpt.terminal import Say, to_stderr
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer


def train_tokenizer(
    *sources: str | Path,
    out: str | Path,
    settings: Settings | None = None,
    overwrite: bool = False,
    say: Say = to_stderr,
) -> Tokenizer:
    """Learn a tokenizer from all the text of `sources`, and save it in the folder `out`.

    The sections `tokenizer` and `data` of `settings` say of what kind, and how the text is read; a template brings its
    special tokens along. Raises TokenizerError if there is one already and `overwrite` is not given.
    """
    config = reading(
        sources, settings or {}, also=("tokenizer.kind", "tokenizer.vocab_size", "tokenizer.special_tokens")
    )
    refuse_unwritable(Path(out), "tokenizer")
    if (Path(out) / store.META).exists() and not overwrite:
        raise TokenizerError(
            f"{out} already holds a tokenizer", "replace it with `--overwrite`, or choose another --out"
        )
    layout = layout_for(config.data)
    texts = (document.text for document in as_texts(Library(config.data, say), layout))
    asked = config.tokenizer.learnt_vocab_size
    special_tokens = vocabulary(config.data, config.tokenizer.special_tokens)
    tokenizer = store.train(config.tokenizer.kind, texts, asked, special_tokens)
    if asked and tokenizer.vocab_size < asked:
        say(f"the text gives {tokenizer.vocab_size:,} ids, not the {asked:,} asked for")
    store.save(tokenizer, out)
    return tokenizer


def open_tokenizer(path: str | Path | None = None) -> Tokenizer:
    """The tokenizer in a folder, or of a run; the latest run's when `path` is not given."""
    return store.load(path or latest_run())


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Kind, size, fingerprint, and the id of each special token, by kind."""
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "special_tokens": {
            kind: {name: tokenizer.token_id(name) for name in names} for kind, names in tokenizer.special_kinds.items()
        },
    }


def describe_text(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """What `tokenizer` makes of `text`: pieces, ids, bytes per token, unknown characters, and whether it comes back.

    `-` stands for standard input.
    """
    if text == STDIN:
        text = next(read_documents([STDIN], songs=1)).text
    ids = tokenizer.encode(text)
    size = len(text.encode())
    return {
        "pieces": [tokenizer.piece(id) for id in ids],
        "ids": ids,
        "bytes": size,
        "bytes_per_token": size / len(ids) if ids else None,
        "unknown": tokenizer.count_unknown(text),
        "round_trip": tokenizer.decode(ids) == text,
    }
