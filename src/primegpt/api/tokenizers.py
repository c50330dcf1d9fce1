"""Tokenizers on their own: learn one that several runs can share, and look at what one makes of a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from primegpt.api.runs import Say, to_stderr
from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.sources import STDIN, read_documents
from primegpt.errors import TokenizerError
from primegpt.run.folder import latest_run
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer


def train_tokenizer(
    sources: Sequence[str], config: TokenizerConfig, out: str | Path, *, overwrite: bool = False, say: Say = to_stderr
) -> Tokenizer:
    """Learn a tokenizer as `config` says from all the text of `sources`, and save it in the folder `out`.

    Raises TokenizerError if there is one already and `overwrite` is not given.
    """
    if (Path(out) / store.META).exists() and not overwrite:
        raise TokenizerError(
            f"{out} already holds a tokenizer", "replace it with `--overwrite`, or choose another --out"
        )
    texts = (document.text for document in read_documents(sources, songs=DataConfig().songs))
    asked = config.vocab_size or config.learnt_vocab_size
    tokenizer = store.train(config.kind, texts, asked, config.special_tokens)
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
