"""`primegpt train` and `primegpt demo`."""

import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from primegpt.config import (
    BUDGETS,
    DataConfig,
    GenerateConfig,
    LoRAConfig,
    ModelConfig,
    Section,
    TokenizerConfig,
    TrainConfig,
)
from primegpt.errors import UsageError
from primegpt.run.folder import RunFolder

Started = Annotated[float, Parameter(parse=False)]


class Settings(Section):
    """Every configuration key as a flag: --section.key value."""

    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    generate: GenerateConfig = GenerateConfig()


class FinetuneSettings(Settings):
    """The same, and the adapters'."""

    lora: LoRAConfig = LoRAConfig()


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
        Go on with this run, exactly where it stopped; with a budget, extend it.
    minutes
        Wall-clock budget of the whole command, 3 when no budget is given.
    tokens
        Training tokens, as a budget.
    epochs
        Passes over the text, as a budget.
    """
    from primegpt import api

    given = given_settings(settings, minutes=minutes, tokens=tokens, epochs=epochs)
    if resume is None and sources and was_restarted(out):
        resume, sources, out, given = out, (), None, {}
    if resume is not None:
        if sources or out or overwrite or given.keys() - {"train"} or given.get("train", {}).keys() - BUDGETS:
            remedy = "give it no source and no setting but a budget"
            raise UsageError("--resume goes on with a run as it was configured", remedy)
        if is_first_rank():  # here and below: before torch is loaded, which takes seconds
            RunFolder.open(resume).refuse_if_in_use()
        api.resume(resume, settings=given)
        return
    if out and is_first_rank():
        RunFolder(out).refuse_unless_free(overwrite)
    run = api.train(*sources, out=out, overwrite=overwrite, settings=given, started=started)
    print(f"next       primegpt generate {run.folder.path}")


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
    overwrite: bool = False,
    checkpoint: str = "best",
    minutes: float | None = None,
    tokens: int | None = None,
    epochs: float | None = None,
    settings: Annotated[FinetuneSettings | None, Parameter(name="*")] = None,
    started: Started = 0.0,
) -> None:
    """Go on with a trained model on another text, as a new run; the base stays as it is.

    Parameters
    ----------
    base
        A run folder, or a model of Transformers: a folder, or an id on the Hugging Face hub.
    sources
        Texts, as for `train`; or one CONFIG.toml.
    lora
        Train low-rank adapters in place of all weights; --lora.rank and so on set them up.
    out
        The run folder; runs/BASE-tuned-N when not given.
    overwrite
        Replace the run that is there.
    checkpoint
        Of the base: best, last, or a step.
    minutes
        Wall-clock budget of the whole command, 3 when no budget is given.
    tokens
        Training tokens, as a budget.
    epochs
        Passes over the text, as a budget.
    """
    from primegpt import api

    given = given_settings(settings, minutes=minutes, tokens=tokens, epochs=epochs)
    run = api.finetune(
        base, *sources, lora=lora, out=out, overwrite=overwrite, checkpoint=checkpoint, settings=given, started=started
    )
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
