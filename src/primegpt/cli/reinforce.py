"""`primegpt reinforce`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from primegpt.cli.main import unheeded_output
from primegpt.cli.shared import Epochs, Minutes, Overwrite, ReinforceSettings, Rewards, given_settings, show_next
from primegpt.errors import UsageError
from primegpt.run.folder import RunFolder

Started = Annotated[float, Parameter(parse=False)]


def reinforce(
    base: str | None = None,
    /,
    *prompts: str,
    reward: Rewards = (),
    lora: bool = False,
    out: Path | None = None,
    overwrite: Overwrite = False,
    resume: Path | None = None,
    checkpoint: str = "best",
    minutes: Minutes = None,
    epochs: Epochs = None,
    settings: Annotated[ReinforceSettings | None, Parameter(name="*")] = None,
    started: Started = 0.0,
) -> None:
    """Let a tuned model write to prompts, and make likelier what a reward puts above the rest, as a new run.

    Parameters
    ----------
    base
        A run folder, or a model of Transformers, that answers prompts already.
    prompts
        Files of records (.jsonl, .csv, .parquet), whose answers are not needed; `songbook`; or one recipe: a
        CONFIG.toml, or a name (reinforce-songs).
    reward
        words, themes, genre, emotion, rhyme, sections, length, exact, regex:PATTERN, or FILE.py:function; given several
        times, their sum, in which 0.5*rhyme counts half.
    lora
        Train low-rank adapters in place of all weights.
    out
        The run folder; runs/BASE-rewarded-N when not given.
    resume
        Go on with this run, exactly where it stopped; with a budget, extend it.
    checkpoint
        Of the base: best, last, or a step.
    """
    from primegpt import api

    given = given_settings(settings, minutes=minutes, epochs=epochs)
    if resume is not None:
        if base or reward or out or overwrite:
            raise UsageError("--resume goes on with a run as it was configured", "give it no base and no folder")
        with unheeded_output():
            api.resume(resume, settings=given)
        return
    if base is None:
        raise UsageError("no model was named", "primegpt reinforce RUN PROMPTS --reward words")
    if out:
        RunFolder(out).refuse_unless_free(overwrite)
    with unheeded_output():
        run = api.reinforce(
            base,
            *prompts,
            reward=reward,
            lora=lora,
            out=out,
            overwrite=overwrite,
            checkpoint=checkpoint,
            settings=given,
            started=started,
        )
    show_next(run.folder.path)
