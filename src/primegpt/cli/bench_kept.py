"""`primegpt bench all`, `compare` and `gpu`: many figures at once, which are kept in files."""

from pathlib import Path

from primegpt.cli.shared import Json, Turns, show, show_json
from primegpt.terminal import to_stderr


def bench_all(
    source: str | None = None,
    *,
    against: Path | None = None,
    only: str = "",
    out: Path | None = None,
    quick: bool = False,
    turns: Turns = 3,
    as_json: Json = False,
) -> None:
    """Every benchmark of our own by turns, as figures of this commit on this machine; beside another commit's if asked.

    Parameters
    ----------
    source
        A text file; the built-in songbook when not given.
    against
        A checkout of another commit, whose own code takes turns with this one's.
    only
        Which, with commas: small, medium, race, decode, startup, resume, tokenize.
    out
        A folder for the sheet of figures, as docs/benchmarks, named after the commit and the machine. Of two checkouts
        of one commit the first one's has `-before`.
    quick
        Tiny sizes: whether all runs, not how fast.
    """
    from primegpt.bench import sheet
    from primegpt.bench.suite import bench_all

    names = only.split(",") if only else ()
    sheets = bench_all(source, against=against, only=names, turns=turns, quick=quick, out=out, say=to_stderr)
    if as_json:
        show_json([each.model_dump() for each in sheets], indent=1)
    else:
        show(sheet.side_by_side(*sheets) if against else sheets[0].as_markdown())
    if out:  # last: what cannot be written has been shown
        for each in sheets:
            to_stderr(f"written: {each.write(out)}")


def compare(before: Path, after: Path, *, as_json: Json = False) -> None:
    """Two sheets of `bench all` side by side: how many times as good the second one's figures are.

    Parameters
    ----------
    before
        The file of the earlier commit.
    after
        That of the later one.
    """
    from primegpt.bench import sheet

    sheets = sheet.read_sheet(before), sheet.read_sheet(after)
    for doubt in sheet.doubts(*sheets):
        to_stderr(f"warning: {doubt}")
    if as_json:
        show_json(sheet.as_dict(*sheets))
    else:
        show(sheet.side_by_side(*sheets))


def bench_gpu(
    source: str | None = None,
    *,
    out: Path = Path("bench-gpu"),
    nanogpt: Path | None = None,
    only: str = "",
    minutes: float = 12,
    batch_size: int = 12,
    steps: int = 40,
    turns: Turns = 2,
    device: str = "cuda",
    quick: bool = False,
    as_json: Json = False,
) -> None:
    """One GPU in a quarter of an hour: whether it computes what it should, and how fast it trains GPT-2's 124M.

    Parameters
    ----------
    source
        A text file for the recipe; the built-in songbook when not given.
    out
        Where each result is written as soon as it is there; what is there already is not measured again.
    nanogpt
        A checkout of nanoGPT, whose own bench.py takes part.
    only
        Which, with commas: exactness, training, recipe, decoding, compiling, attention, loss.
    minutes
        Nothing is begun that would not end in this time.
    batch_size
        Windows of 1,024 tokens in a step.
    steps
        Optimizer steps a turn.
    device
        cpu with --quick, to see that all of it runs.
    quick
        Tiny sizes, whose figures mean nothing.
    """
    from primegpt.bench.gpu import bench_gpu

    report = bench_gpu(
        source,
        out=out,
        nanogpt=nanogpt,
        only=only.split(",") if only else (),
        minutes=minutes,
        batch_size=batch_size,
        steps=steps,
        turns=turns,
        device=device,
        quick=quick,
        say=to_stderr,
    )
    if as_json:
        show_json(report.as_dict(), indent=1)
    else:
        show(report.as_markdown(), end="")
    for what, names in (("failed", report.failed), ("left out", report.left_out)):
        if names:
            to_stderr(f"{what}: {', '.join(names)}; the same command goes on with them")
