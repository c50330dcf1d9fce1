"""`primegpt bench`: measurements beside the tools that others use, on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from primegpt.cli.shared import Alone, Json, RunPath, Threads, Turns, show_json
from primegpt.errors import UsageError
from primegpt.terminal import to_stderr

if TYPE_CHECKING:
    from primegpt.bench.compare import Comparison

app = App(name="bench", help="Measure primegpt beside its peers, in alternating turns on this machine.")
app.command("primegpt.cli.bench_kept:bench_all", name="all")
app.command("primegpt.cli.bench_kept:compare", name="compare")
app.command("primegpt.cli.bench_kept:bench_gpu", name="gpu")


@app.command
def tokenize(
    source: str = "songbook",
    *,
    tokenizer: Path,
    megabytes: float = 50.0,
    turns: Turns = 3,
    as_json: Json = False,
) -> None:
    """Text to shards, end to end, beside as many processes of the tokenizer's library as there are cores.

    Parameters
    ----------
    source
        The text, repeated or cut to the size asked for.
    tokenizer
        A tokenizer's folder or file; any but `char`, which no library has.
    megabytes
        How much text.
    """
    from primegpt.bench.tokenize import bench_tokenize

    found = bench_tokenize(source, str(tokenizer), megabytes=megabytes, turns=turns, say=to_stderr)
    print(found.as_json() if as_json else found.as_markdown())


@app.command
def train(
    source: str | None = None,
    *,
    nanogpt: Path | None = None,
    configurations: str = "small,medium",
    steps: int = 200,
    turns: Turns = 3,
    dropout: float = 0.0,
    threads: Threads = None,
    compile: bool = False,
    alone: Alone = False,
    as_json: Json = False,
) -> None:
    """Training steps on this CPU, beside nanoGPT and a plain Transformers loop on the same text and network.

    Parameters
    ----------
    source
        A text file; the built-in songbook when not given.
    nanogpt
        A checkout of nanoGPT; a copy of it is used.
    configurations
        small: 4 layers, 128 wide, context 64, batch 12. medium: 6 layers, 384 wide, context 256, batch 16.
    steps
        Optimizer steps a turn.
    dropout
        The same for all.
    compile
        Ours and nanoGPT compiled too; ours is then what the others are compared with.
    """
    from primegpt.bench.train import bench_train

    found = bench_train(
        source,
        nanogpt=nanogpt,
        configurations=configurations.split(","),
        steps=steps,
        turns=turns,
        dropout=dropout,
        threads=threads,
        compiled=compile,
        alone=alone,
        say=to_stderr,
    )
    _print(found, as_json)


@app.command
def race(
    source: str | None = None,
    *,
    nanogpt: Path | None = None,
    minutes: float = 0.2,
    iterations: int = 2000,
    turns: Turns = 1,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Whole commands from a text to a model: how long they take, and the loss on the last tenth of the text.

    Parameters
    ----------
    source
        A text file; the built-in songbook when not given.
    nanogpt
        A checkout of nanoGPT; a copy of it is used, with its README's settings for CPUs.
    minutes
        What ours is given.
    iterations
        What nanoGPT is given.
    """
    from primegpt.bench.race import bench_race

    found = bench_race(
        source,
        nanogpt=nanogpt,
        minutes=minutes,
        iterations=iterations,
        turns=turns,
        threads=threads,
        say=to_stderr,
    )
    _print(found, as_json)


@app.command
def decode(
    run: Path | None = None,
    *,
    prompt: int = 32,
    tokens: int = 128,
    streams: str = "1,16",
    precisions: str = "fp32,bf16,int8,int4",
    shape: dict[str, int] | None = None,
    compile: bool = False,
    cold: bool = False,
    alone: Alone = False,
    turns: Turns = 3,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Reading a prompt and writing on from it, beside Transformers and llama.cpp with the same weights.

    Parameters
    ----------
    run
        A run folder; random weights of GPT-2's 124M when not given.
    prompt
        Ids of each prompt.
    tokens
        Tokens written after it.
    streams
        How many texts at once, one number or several with commas.
    precisions
        Number formats, with commas.
    shape
        Other sizes of the random model: --shape.n_layer 2 --shape.n_embd 64.
    compile
        Ours with compiled steps too; it is then what the others are compared with.
    cold
        Also the time from the start of a process to the end of 200 tokens.
    """
    from primegpt.bench.decode import bench_decode

    found = bench_decode(
        run,
        prompt=prompt,
        tokens=tokens,
        streams=_numbers(streams, "--streams"),
        precisions=precisions.split(","),
        sizes=shape,
        turns=turns,
        threads=threads,
        compiled=compile,
        cold=cold,
        alone=alone,
        say=to_stderr,
    )
    _print(found, as_json)


@app.command
def resume(
    *,
    shape: dict[str, int] | None = None,
    turns: Turns = 3,
    as_json: Json = False,
) -> None:
    """From `train --resume` to the next step of a killed run; checkpoints beside bare safetensors files.

    Parameters
    ----------
    shape
        Other sizes than GPT-2's 124M of the checkpoint: --shape.n_layer 2 --shape.n_embd 64.
    """
    from primegpt.bench.startup import bench_resume

    _print(bench_resume(turns=turns, sizes=shape, say=to_stderr), as_json)


@app.command
def startup(*, turns: Turns = 5, alone: Alone = False, as_json: Json = False) -> None:
    """The help page, `import primegpt`, and the first text of a tiny model, beside bare imports of torch and such."""
    from primegpt.bench.startup import bench_startup

    _print(bench_startup(turns=turns, alone=alone, say=to_stderr), as_json)


@app.command
def cost(
    *,
    widths: str = "64,128,256,512",
    contexts: str = "64,128,256,512,1024",
    threads: str | None = None,
    data: str | None = None,
    turns: int = 3,
    plot: Path | None = None,
    as_json: Json = False,
) -> None:
    """Time and memory of a training step over the model's width, the context and the threads; of data over its size.

    Parameters
    ----------
    widths
        Numbers with commas; 4 layers, context 128.
    contexts
        The same, 256 wide; a step always has 2,048 tokens.
    threads
        The same, 256 wide, context 128; powers of two and all that the process may use when not given.
    data
        Megabytes of text to prepare, with commas; none when not given.
    turns
        How often each is measured.
    plot
        A picture of it: a PNG file.
    """
    from primegpt.bench import cost

    if plot and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise UsageError(f"--plot {plot}: not a .png file in a folder that exists")
    found = cost.bench_cost(
        widths=_numbers(widths, "--widths"),
        contexts=_numbers(contexts, "--contexts"),
        threads=_numbers(threads, "--threads") if threads else None,
        megabytes=_numbers(data, "--data") if data else (),
        turns=turns,
        say=to_stderr,
    )
    if plot:
        cost.plot_growths(found, plot)
    print(cost.as_json(found) if as_json else "\n\n".join(growth.as_markdown() for growth in found))


@app.command
def serve(
    run: RunPath = None,
    *,
    clients: int = 16,
    tokens: int = 128,
    turns: int = 5,
    as_json: Json = False,
) -> None:
    """The tokens per second of many clients of a server, beside those of one, and how long they wait.

    Parameters
    ----------
    clients
        How many ask at once.
    tokens
        How long a text each wants.
    turns
        How often the many and the one take turns.
    """
    from primegpt.bench.serving import bench_serving
    from primegpt.run.folder import latest_run

    found, waits = bench_serving(run or latest_run(), clients=clients, tokens=tokens, turns=turns, say=to_stderr)
    print(found.as_json() if as_json else found.as_markdown())
    to_stderr(waits.describe())


def _print(found: "Sequence[Comparison]", as_json: bool) -> None:
    if as_json:
        show_json([comparison.as_dict() for comparison in found])
    else:
        print("\n\n".join(comparison.as_markdown() for comparison in found))


def _numbers(text: str, flag: str) -> list[int]:
    """`1,16` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag} {text}: not whole numbers with commas between them", "as in 1,16") from None
