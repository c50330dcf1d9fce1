"""`primegpt train` and `primegpt demo`."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from primegpt.config import DataConfig, GenerateConfig, ModelConfig, Section, TokenizerConfig, TrainConfig
from primegpt.errors import UsageError

Started = Annotated[float, Parameter(parse=False)]


class Settings(Section):
    """Every configuration key as a flag: --section.key value."""

    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    generate: GenerateConfig = GenerateConfig()


def train(
    *sources: str,
    out: Path | None = None,
    overwrite: bool = False,
    resume: Path | None = None,
    minutes: float | None = None,
    tokens: int | None = None,
    epochs: float | None = None,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    started: Started = 0.0,
) -> None:
    """Train a GPT on a text, or by a recipe; with nothing else said, everything is chosen for the text and machine.

    Parameters
    ----------
    sources
        Text files, folders, globs, `-` for standard input, `songbook`; or one CONFIG.toml.
    out
        The run folder; runs/NAME-N when not given.
    overwrite
        Replace the run that is there.
    resume
        Go on with this run, exactly where it stopped.
    minutes
        Wall-clock budget of the whole command, 3 when no budget is given.
    tokens
        Training tokens, as a budget.
    epochs
        Passes over the text, as a budget.
    """
    from primegpt import api

    given = given_settings(settings, minutes=minutes, tokens=tokens, epochs=epochs)
    if resume is not None:
        if sources or given or out or overwrite:
            raise UsageError("--resume goes on with a run as it was configured", "give it no source and no setting")
        api.resume(resume)
        return
    run = api.train(*sources, out=out, overwrite=overwrite, settings=given, started=started)
    print(f"next       primegpt generate {run.folder.path}")


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

    api.demo(out=out, minutes=minutes, started=started)


def given_settings(settings: Settings | None, **budgets: float | None) -> dict[str, dict[str, Any]]:
    """What the command line sets, and nothing else, as a configuration layer."""
    given = settings.model_dump(exclude_unset=True) if settings else {}
    for name, value in budgets.items():
        if value is not None:
            given.setdefault("train", {})[name] = value
    return given
