"""`primegpt train` and `primegpt demo`."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from primegpt.cli.main import unheeded_output
from primegpt.cli.shared import (
    Epochs,
    FinetuneSettings,
    Minutes,
    Overwrite,
    Settings,
    Tokens,
    given_settings,
    show_next,
)
from primegpt.errors import UsageError
from primegpt.run.folder import RunFolder

Started = Annotated[float, Parameter(parse=False)]


def train(
    *sources: str,
    out: Path | None = None,
    overwrite: Overwrite = False,
    resume: Path | None = None,
    minutes: Minutes = None,
    tokens: Tokens = None,
    epochs: Epochs = None,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    started: Started = 0.0,
) -> None:
    """Train a GPT on a text, or by a recipe; with nothing else said, everything is chosen for the text and machine.

    Parameters
    ----------
    sources
        Text files, folders, globs, `-` for standard input, `songbook`; or one recipe: a CONFIG.toml, or
        the name of one that comes with primegpt: char-10m, demo, fineweb-edu-16m, gpt2-124m, imdb-pretrain,
        shakespeare-gpt2, songbook-instruct, tasks.
    out
        The run folder; runs/NAME-N when not given.
    resume
        Go on with this run, exactly where it stopped; with a budget, extend it.
    """
    from primegpt import api

    given = given_settings(settings, minutes=minutes, tokens=tokens, epochs=epochs)
    if resume is None and sources and was_restarted(out):
        resume, sources, out, given = out, (), None, {}
    if resume is not None:
        if sources or out or overwrite:
            raise UsageError("--resume goes on with a run as it was configured", "give it no source and no folder")
        if is_first_rank():  # here and below: before torch is loaded, which takes seconds
            RunFolder.open(resume).refuse_if_in_use()
        with unheeded_output():
            api.resume(resume, settings=given)
        return
    if out and is_first_rank():
        RunFolder(out).refuse_unless_free(overwrite)
    with unheeded_output():
        run = api.train(*sources, out=out, overwrite=overwrite, settings=given, started=started)
    show_next(run.folder.path)


def is_first_rank() -> bool:
    """Whether this process speaks for those that torchrun started with it."""
    return os.environ.get("RANK", "0") == "0"


def was_restarted(out: Path | None) -> bool:
    """Whether torchrun (--max-restarts) began this once before, and there is something to go on with."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return False
    if out is None:
        raise UsageError("torchrun has started this again, and it is not known which run to go on with", "give --out")
    return (out / "config.toml").is_file()


def finetune(
    base: str,
    /,
    *sources: str,
    lora: bool = False,
    out: Path | None = None,
    overwrite: Overwrite = False,
    checkpoint: str = "best",
    minutes: Minutes = None,
    tokens: Tokens = None,
    epochs: Epochs = None,
    settings: Annotated[FinetuneSettings | None, Parameter(name="*")] = None,
    started: Started = 0.0,
) -> None:
    """Go on with a trained model on another text, as a new run; the base stays as it is.

    Parameters
    ----------
    base
        A run folder, or a model of Transformers: a folder, or an id on the Hugging Face hub.
    sources
        Texts, as for `train`; or one recipe: a CONFIG.toml, or a name (lyrics-finetune, preference, shakespeare-gpt2).
    lora
        Train low-rank adapters in place of all weights; --lora.rank and so on set them up.
    out
        The run folder; runs/BASE-tuned-N when not given.
    checkpoint
        Of the base: best, last, or a step.
    """
    from primegpt import api

    given = given_settings(settings, minutes=minutes, tokens=tokens, epochs=epochs)
    with unheeded_output():
        run = api.finetune(
            base,
            *sources,
            lora=lora,
            out=out,
            overwrite=overwrite,
            checkpoint=checkpoint,
            settings=given,
            started=started,
        )
    show_next(run.folder.path)


def demo(out: Path | None = None, minutes: float = 2.0, started: Started = 0.0) -> None:
    """Build a songbook, train on it for two minutes on this CPU, and show songs appear out of noise.

    Parameters
    ----------
    out
        The run folder; runs/demo-N when not given.
    minutes
        Wall-clock budget of the whole command.
    """
    from primegpt import api

    with unheeded_output():
        api.demo(out=out, minutes=minutes, started=started)
