"""`primegpt data`: audit a text, fetch a public corpus, write a songbook."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

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
