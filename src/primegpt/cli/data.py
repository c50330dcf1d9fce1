"""Commands on data, before a training and after: `primegpt data`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from primegpt.cli.shared import (
    Checkpoint,
    Json,
    Preparing,
    Reading,
    Rewards,
    Sampling,
    given_sampling,
    given_settings,
    show,
    show_json,
    show_rows,
)
from primegpt.errors import shortened

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
def songbook(out: Path, songs: int = 8000, alignment: float | None = None, seed: int = 0, pairs: bool = False) -> None:
    """Write the built-in corpus of song lyrics to a file.

    Parameters
    ----------
    out
        A .jsonl (all that is known of each song) or a .txt.
    songs
        How many.
    alignment
        The share of songs that are written to their prompt, 0 to 1; 1 when not given.
    seed
        Another seed is another book.
    pairs
        To each prompt two songs, for preference tuning: `chosen` was written to it, `rejected` was not.
    """
    from primegpt.jobs import data

    show(data.write_songbook(out, songs=songs, alignment=alignment, seed=seed, pairs=pairs))


@app.command
def tasks(
    *,
    kind: Literal["add", "sort", "count", "spell", "copy"],
    out: Path,
    records: int = 2000,
    level: tuple[int, ...] = (1,),
    held_out: bool = False,
    seed: int = 0,
) -> None:
    """Write questions that have one right answer, as conversations: with the reward `exact`, accuracy means something.

    Parameters
    ----------
    kind
        add: two numbers. sort: letters. count: a letter among others. spell: a word. copy: letters.
    out
        A .jsonl.
    records
        How many, all different.
    level
        From 1: digits of a number (add), more letters (the others). Several give questions of each.
    held_out
        Questions of the tenth that no file without this has, whatever its seed.
    seed
        Another seed is another choice of questions.
    """
    from primegpt.jobs import data

    show(data.write_tasks(out, kind=kind, records=records, levels=level, held_out=held_out, seed=seed))


@app.command
def instruct(
    *sources: str,
    out: Path | None = None,
    labels: Literal["record", "text", "none"] = "record",
    preview: int = 0,
    seed: int = 0,
    as_json: Json = False,
    settings: Annotated[Reading | None, Parameter(name="*")] = None,
) -> None:
    """Write an instruction for each text from its own words, labels and form: prompts for texts that have none.

    Run again after it was stopped, it goes on.

    Parameters
    ----------
    sources
        As for `train`. Of records with `lyrics` these are the text, unless --data.text_field names another field.
    out
        A .jsonl: `prompt`, labels, `themes`, `length`, and the text as `lyrics` (with section headers) or `response`.
    labels
        Genre and emotion: record has those of the text's own record, text those in whose words of the songbook it
        speaks, none has none.
    preview
        Show so many, and write no file.
    seed
        Another seed is another wording.
    """
    from primegpt.jobs.instructing import instruct

    asked: dict[str, Any] = {"out": out, "labels": labels, "preview": preview, "seed": seed}
    made = instruct(*sources, **asked, settings=given_settings(settings))
    if as_json:
        show_json({**made.facts, "previews": made.previews})
        return
    show_rows([(name, _shown(value)) for name, value in made.facts.items()], 20)
    for record in made.previews:
        text = record.get("lyrics") or record.get("response") or ""
        show(f"» {record['prompt']}\n{shortened(text)}\n")


@app.command
def sample(
    run: Path,
    prompts: str,
    *,
    reward: Rewards,
    out: Path | None = None,
    num_samples: int = 4,
    keep: Literal["best", "pairs"] = "best",
    at_least: float | None = None,
    limit: int | None = None,
    preview: int = 0,
    checkpoint: Checkpoint = "best",
    as_json: Json = False,
    sampling: Annotated[Sampling | None, Parameter(name="*")] = None,
    settings: Annotated[Reading | None, Parameter(name="*")] = None,
) -> None:
    """Write several answers to each prompt with a run, and keep what a reward prefers, to train on.

    Run again after it was stopped, it goes on.

    Parameters
    ----------
    run
        The run folder.
    prompts
        Records with a prompt, as the run was trained on: .jsonl and the like.
    out
        A .jsonl.
    num_samples
        Answers to each prompt.
    keep
        best: the prompt with its best answer. pairs: `prompt`, `chosen` and `rejected`, the best and the worst, unless
        they are worth the same.
    at_least
        Leave out prompts whose best answer is worth less.
    limit
        The first so many prompts.
    preview
        Show the answers to so many prompts and what they are worth, and write no file.
    """
    from primegpt.jobs.sampling import sample

    asked: dict[str, Any] = {"reward": reward, "out": out, "num_samples": num_samples, "keep": keep}
    asked |= {"at_least": at_least, "limit": limit, "preview": preview, "checkpoint": checkpoint}
    made = sample(run, prompts, **asked, settings=given_settings(settings), **given_sampling(sampling))
    if as_json:
        show_json({**made.facts, "previews": made.previews})
        return
    show_rows([(name.replace("_", " "), _figure(value)) for name, value in made.facts.items()], 20)
    for each in made.previews:
        show(f"» {each['prompt']}")
        show_rows([(f"{sample['reward']:.3f}", shortened(sample["text"].strip())) for sample in each["samples"]], 8)


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else _shown(value)
