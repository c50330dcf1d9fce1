"""`primegpt data`: audit a text, prepare it, fetch a public corpus, write a songbook."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from primegpt.cli.train import Settings, given_settings

app = App(name="data", help="Look at training text, fetch it, or make it.")


@app.command
def audit(
    *sources: str,
    config: Path | None = None,
    text_field: str | None = None,
    model_parameters: int | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Judge a text before training on it: size, copies, leakage, odd characters, and what to do about them.

    Parameters
    ----------
    sources
        As for `train`; those of the recipe when none is given.
    config
        A CONFIG.toml that says how the text is cleaned and how large the model is.
    text_field
        The field of a record that holds the text; "text" when not given.
    model_parameters
        Parameters of the model that is to learn it.
    as_json
        Print JSON.
    """
    from primegpt.api import data

    report = data.audit(*sources, config=config, text_field=text_field, n_parameters=model_parameters)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
        return
    for name, value in report.rows():
        print(f"{name:<17} {value}")
    for warning in report.warnings:
        print(f"{'warning':<17} {warning}")


@app.command
def prepare(
    *sources: str,
    preview: int = 0,
    shard: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
) -> None:
    """Tokenize a corpus into shards ahead of training; run again, it goes on where it was stopped.

    Parameters
    ----------
    sources
        As for `train`; or one CONFIG.toml.
    preview
        Show so many training records: what the model is shown, and what it is asked for.
    shard
        Prepare one part of several, as 2/8, beside other machines; the last to finish puts them together.
    as_json
        Print JSON.
    """
    from primegpt.api import data

    prepared = data.prepare_data(*sources, preview=preview, shard=shard, settings=given_settings(settings))
    if as_json:
        print(json.dumps({**prepared.facts, "previews": prepared.previews}, indent=2, ensure_ascii=False))
        return
    for name, value in prepared.facts.items():
        print(f"{name.replace('_', ' '):<20} {_shown(value)}")
    for number, record in enumerate(prepared.previews, 1):
        print(f"\n── {number} " + "─" * 60)
        for name, value in record.items():
            print(
                f"{name.replace('_', ' ')}:\n{value}"
                if isinstance(value, str)
                else f"{name.replace('_', ' ')}: {value}"
            )


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
    from primegpt.api import data

    for path in data.fetch_corpus(name):
        print(path)


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
    from primegpt.api import data

    print(data.write_songbook(out, songs=songs, alignment=alignment, seed=seed))
