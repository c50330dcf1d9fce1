"""Commands before a training: `primegpt data` and `primegpt tokenizer`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from primegpt.cli.shared import Json, Preparing, Reading, given_settings, show, show_json, show_rows
from primegpt.config import LearntKind

app = App(name="data", help="Look at training text, fetch it, or make it.")


@app.command
def audit(
    *sources: str,
    config: Path | None = None,
    model_parameters: int | None = None,
    as_json: Json = False,
    settings: Annotated[Reading | None, Parameter(name="*")] = None,
) -> None:
    """Judge a text before training on it: size, copies, leakage, odd characters, and what to do about them.

    Parameters
    ----------
    sources
        As for `train`; those of the recipe when none is given.
    config
        A recipe (a CONFIG.toml, or a name as char-10m): how the text is read and cleaned, how large the model is.
    model_parameters
        Parameters of the model that is to learn it.
    """
    from primegpt.jobs import data

    report = data.audit(*sources, config=config, settings=given_settings(settings), n_parameters=model_parameters)
    if as_json:
        show_json(report.as_json())
        return
    show_rows([*report.rows(), *(("warning", warning) for warning in report.warnings)], 17)


@app.command
def prepare(
    *sources: str,
    preview: int = 0,
    shard: str | None = None,
    as_json: Json = False,
    settings: Annotated[Preparing | None, Parameter(name="*")] = None,
) -> None:
    """Tokenize a corpus into shards ahead of training; run again, it goes on where it was stopped.

    It takes the settings of `train`, so that the same command line can follow: those of training alone change nothing.

    Parameters
    ----------
    sources
        As for `train`; or one recipe.
    preview
        Show so many training records: what the model is shown, and what it is asked for.
    shard
        Prepare one part of several, as 2/8, beside other machines; the last to finish puts them together.
    """
    from primegpt.jobs import data

    prepared = data.prepare_data(*sources, preview=preview, shard=shard, settings=given_settings(settings))
    if as_json:
        show_json({**prepared.facts, "previews": prepared.previews})
        return
    show_rows([(name.replace("_", " "), _shown(value)) for name, value in prepared.facts.items()], 20)
    for number, record in enumerate(prepared.previews, 1):
        show(f"\n── {number} " + "─" * 60)
        for name, value in record.items():
            show(f"{name.replace('_', ' ')}:" + (f"\n{value}" if isinstance(value, str) else f" {value}"))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ×{count:,}" for name, count in list(value.items())[:10]) or "none"
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@app.command
def fetch(name: str) -> None:
    """Download a public corpus into the cache; an interrupted download goes on where it stopped.

    Parameters
    ----------
    name
        shakespeare, fineweb-edu, imdb or hellaswag. Afterwards `primegpt train NAME` knows it.
    """
    from primegpt.jobs import data

    for path in data.fetch_corpus(name):
        show(path)


@app.command
def songbook(out: Path, songs: int = 8000, alignment: float = 1.0, seed: int = 0) -> None:
    """Write the built-in corpus of song lyrics to a file.

    Parameters
    ----------
    out
        A .jsonl (all that is known of each song) or a .txt.
    songs
        How many.
    alignment
        The share of songs that are written to their prompt, 0 to 1.
    seed
        Another seed is another book.
    """
    from primegpt.jobs import data

    show(data.write_songbook(out, songs=songs, alignment=alignment, seed=seed))


tokenizer_app = App(name="tokenizer", help="Learn a tokenizer, or look at what one makes of a text.")


@tokenizer_app.command(name="train")
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


@tokenizer_app.command(name="show")
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
