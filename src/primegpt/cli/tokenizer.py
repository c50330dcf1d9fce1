"""Commands on tokenizers: `primegpt tokenizer train` and `show`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from primegpt.cli.shared import Json, Reading, given_settings, show_json, show_rows
from primegpt.config import LearntKind

app = App(name="tokenizer", help="Learn a tokenizer, or look at what one makes of a text.")


@app.command(name="train")
def train_tokenizer(
    *sources: str,
    out: Path,
    kind: LearntKind = "bpe",
    vocab_size: int | None = None,
    special_tokens: Annotated[dict[str, str] | None, Parameter(name="--special_tokens")] = None,
    overwrite: bool = False,
    as_json: Json = False,
    settings: Annotated[Reading | None, Parameter(name="*")] = None,
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
    """
    from primegpt.jobs import tokenizers as api

    asked = {"kind": kind, "vocab_size": vocab_size, "special_tokens": special_tokens or {}}
    given = given_settings(settings) | {"tokenizer": asked}
    tokenizer = api.train_tokenizer(*sources, out=out, settings=given, overwrite=overwrite)
    facts = api.describe_tokenizer(tokenizer) | {"folder": str(out)}
    print_facts(facts, [*identity_rows(facts), ("folder", str(out))], as_json)


@app.command(name="show")
def show_tokenizer(
    path: Path | None = None,
    text: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    *,
    as_json: Json = False,
) -> None:
    """Tell what a tokenizer is, and what it makes of a text: pieces, ids, unknown characters, the round trip.

    Parameters
    ----------
    path
        A tokenizer's folder or file (tokenizer.json, tokenizer.model, tekken.json, *.tiktoken, *.gguf), or a run; the
        latest run when not given.
    text
        Text to encode; `-` reads standard input.
    """
    from primegpt.jobs import tokenizers as api

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
    lost = "unknown characters" if unknown else "characters that the tokenizer normalizes"
    return [
        ("pieces", "|".join(found["pieces"])),
        ("ids", " ".join(map(str, found["ids"]))),
        ("tokens", f"{count:,} for {found['bytes']:,} bytes{share}"),
        ("unknown", f"{sum(unknown.values()):,} characters: {names}" if unknown else "none"),
        ("round trip", "exact" if found["round_trip"] else f"not exact: {lost} do not come back"),
    ]


def print_facts(facts: Mapping[str, Any], rows: Iterable[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        show_json(facts)
    else:
        show_rows(rows, 12)
