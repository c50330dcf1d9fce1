"""`primegpt bench`: measurements beside the tools that others use, on this machine."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(name="bench", help="Measure primegpt beside its peers, in alternating turns on this machine.")


@app.command
def tokenize(
    source: str = "songbook",
    *,
    tokenizer: Path,
    megabytes: float = 50.0,
    turns: int = 3,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Text to shards, end to end, beside as many tiktoken processes as there are cores on the same bytes.

    Parameters
    ----------
    source
        The text, repeated or cut to the size asked for.
    tokenizer
        A folder with GPT-2's vocabulary (vocab.bpe and encoder.json), or a bpe tokenizer.
    megabytes
        How much text.
    turns
        How often each contestant runs.
    as_json
        Print JSON instead of a Markdown table.
    """
    from primegpt.bench.tokenize import bench_tokenize

    found = bench_tokenize(source, str(tokenizer), megabytes=megabytes, turns=turns, say=_to_stderr)
    print(found.as_json() if as_json else found.as_markdown())


@app.command
def serve(
    run: Path | None = None,
    *,
    clients: int = 16,
    tokens: int = 128,
    turns: int = 5,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """The tokens per second of many clients of a server, beside those of one, and how long they wait.

    Parameters
    ----------
    run
        A run folder; the latest in runs/ when not given.
    clients
        How many ask at once.
    tokens
        How long a text each wants.
    turns
        How often the many and the one take turns.
    as_json
        Print JSON instead of a Markdown table.
    """
    from primegpt.bench.serving import bench_serving
    from primegpt.run.folder import latest_run

    found, waits = bench_serving(run or latest_run(), clients=clients, tokens=tokens, turns=turns, say=_to_stderr)
    print(found.as_json() if as_json else found.as_markdown())
    _to_stderr(waits.describe())


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
