"""`primegpt tokenizer train` and `primegpt tokenizer show`."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from primegpt.config import resolve

app = App(name="tokenizer", help="Learn a tokenizer, or look at what one makes of a text.")
Json = Annotated[bool, Parameter(name="--json")]


@app.command
def train(
    *sources: str,
    out: Path,
    kind: Literal["char", "bpe", "sentencepiece"] = "bpe",
    vocab_size: int | None = None,
    special_tokens: Annotated[dict[str, str] | None, Parameter(name="--special_tokens")] = None,
    overwrite: bool = False,
    as_json: Json = False,
) -> None:
    """Learn a tokenizer from text and keep it in a folder, to be used with --tokenizer.path.

    Parameters
    ----------
    sources
        Text files, folders, globs, `-` for standard input, or `songbook`.
    out
        The folder to write.
    kind
        char: one id a character. bpe: pieces learnt from bytes. sentencepiece: pieces learnt from characters.
    vocab_size
        Number of ids, special tokens included; 4096 for bpe, 8000 for sentencepiece, every character for char.
    special_tokens
        Names of special tokens by kind, spaces between them.
    overwrite
        Replace the tokenizer that is there.
    as_json
        Print JSON.
    """
    from primegpt.api import tokenizers as api

    given = {"kind": kind, "vocab_size": vocab_size, "special_tokens": special_tokens or {}}
    tokenizer = api.train_tokenizer(sources, resolve({"tokenizer": given}).tokenizer, out, overwrite=overwrite)
    facts = api.describe_tokenizer(tokenizer) | {"folder": str(out)}
    print_facts(facts, [*identity_rows(facts), ("folder", str(out))], as_json)


@app.command
def show(
    path: Path | None = None,
    text: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    *,
    as_json: Json = False,
) -> None:
    """Tell what a tokenizer is, and what it makes of a text: pieces, ids, unknown characters, the round trip.

    Parameters
    ----------
    path
        A tokenizer's folder or a run; the latest run when not given.
    text
        Text to encode; `-` reads standard input.
    as_json
        Print JSON.
    """
    from primegpt.api import tokenizers as api

    tokenizer = api.open_tokenizer(path)
    facts = api.describe_tokenizer(tokenizer)
    rows = identity_rows(facts)
    if text is not None:
        found = api.describe_text(tokenizer, text)
        facts["text"] = found
        rows += text_rows(found)
    print_facts(facts, rows, as_json)


def identity_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("kind", facts["kind"]),
        ("vocabulary", f"{facts['vocab_size']:,} ids"),
        ("fingerprint", facts["fingerprint"]),
    ]
    for kind, ids in facts["special_tokens"].items():
        rows.append((kind, "  ".join(f"{name} {id}" for name, id in ids.items())))
    return rows


def text_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pieces one by one, and what they amount to."""
    count, unknown = len(found["ids"]), found["unknown"]
    share = f", {found['bytes_per_token']:.2f} bytes a token" if count else ""
    names = ", ".join(f"{character!r} x{times:,}" for character, times in unknown.items())
    return [
        ("pieces", "|".join(found["pieces"])),
        ("ids", " ".join(map(str, found["ids"]))),
        ("tokens", f"{count:,} for {found['bytes']:,} bytes{share}"),
        ("unknown", f"{sum(unknown.values()):,} characters: {names}" if unknown else "none"),
        ("round trip", "exact" if found["round_trip"] else "not exact: unknown characters do not come back"),
    ]


def print_facts(facts: Mapping[str, Any], rows: Iterable[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    encoding = sys.stdout.encoding or "utf-8"
    for name, value in rows:
        print(f"{name:<12} {value}".encode(encoding, "replace").decode(encoding))
