"""README.md of a run that is published: what it is, what it has learnt from, how, and how well.

Nothing of the text itself is told, and not where it lies: of paths only the last part. The licence is left to whoever
publishes.
"""

from collections.abc import Iterable, Mapping
from pathlib import PureWindowsPath
from typing import Any

import primegpt
from primegpt.config import resolve
from primegpt.model.size import human_count, human_seconds, parameter_count
from primegpt.report.history import History, number
from primegpt.report.run_facts import Rows, model_rows, plan_rows, text_rows, tokenizer_rows

FRONT = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- primegpt
---
"""
LICENCE = "No licence has been chosen yet. Whoever publishes this model does so, as `license: …` in the first lines."
CARRIED = "See the licence in this repository, which came with the model that this one began from."
# Of what a report shows, the rows that quote no text and name no path.
# Settings that are not told: they quote the text, or follow from others.
UNTOLD = {"model.vocab_size", "train.sample_prompts", "generate.stop_strings", "generate.start_document"}
DATA_ROWS = ("split", "size", "tokens", "near-duplicates", "repeated text", "split leakage")
DATA_ROWS += ("fingerprint, training", "fingerprint, validation")
PLAN_ROWS = ("step", "optimizer", "machine", "expected", "took", "early stopping")


def model_card(run: History, repo: str, architecture: str, licensed: bool) -> str:
    """The text of README.md for `run` under the name `repo`; `licensed` says that a licence lies beside it."""
    model = run.config.model
    what = f"{human_count(parameter_count(model))} parameters, {model.n_layer} layers, {model.n_embd} wide"
    sections = [
        f"{FRONT}\n# {repo.rpartition('/')[2]}",
        f"A language model of the architecture {architecture}: {what}, a context of {model.block_size:,} tokens. "
        f"Made with primegpt {primegpt.__version__}.",
        _block("python", f'from transformers import pipeline\n\nprint(pipeline("text-generation", "{repo}")("Once"))'),
        "## Result",
        _table(_result_rows(run)),
        "## Data",
        _table([("sources", ", ".join(map(shown_source, run.config.data.sources))), *_only(DATA_ROWS, text_rows(run))]),
        "## Model",
        _table([*model_rows(run), *((f"tokenizer, {name}", value) for name, value in tokenizer_rows(run))]),
        "## Plan and command",
        _table(_only(PLAN_ROWS, plan_rows(run))),
        *_command(run),
        "## Licence",
        CARRIED if licensed else LICENCE,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def shown_source(source: str) -> str:
    """A source as the world may know it: of a path, only its last part."""
    return source if source.startswith("hf:") else PureWindowsPath(source).name or source  # splits at / and at \


def recipe(run: History) -> dict[str, dict[str, Any]]:
    """The settings in which a run differs from its preset's, as sections of a TOML file. Paths are cut to names."""
    preset = run.config.model.preset
    found: dict[str, dict[str, Any]] = {"model": {"preset": preset}}
    for name, (_, value) in resolve({"model": {"preset": preset}}).changes(run.config).items():
        section, _, key = name.partition(".")
        if section == "plan" or value is None or name in UNTOLD:
            continue
        if name == "data.sources":
            value = [shown_source(source) for source in value]
        elif name == "data.source":
            value = {shown_source(source): _said(each) for source, each in value.items()}
        elif name in ("data.base_text", "tokenizer.path"):
            value = shown_source(value)
        found.setdefault(section, {})[key] = value
    return found


def _said(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that were left open, for which TOML has no word."""
    return {name: value for name, value in settings.items() if value is not None}


def _result_rows(run: History) -> Rows:
    told = run.summary()
    rows: Rows = []
    if told["tokens"]:
        rows += [("tokens seen", human_count(told["tokens"])), ("steps", f"{told['steps']:,}")]
    if told["seconds"]:
        rows.append(("time", human_seconds(told["seconds"])))
    train = run.last("train/loss")
    if train is not None:
        rows.append(("loss in training, at the end", f"{train:.4f} {told['loss_unit']}"))
    if told["best_loss"] is not None:
        rows.append(("best evaluation", f"{told['best_loss']:.4f} {told['loss_unit']}, step {told['best_step']:,}"))
    if told["final_loss"] is not None:
        per_byte = f", {told['final_bits_per_byte']:.4f} bits per byte" if told["final_bits_per_byte"] else ""
        rows.append(("on all the validation text", f"{told['final_loss']:.4f} {told['loss_unit']}{per_byte}"))
    return rows or [("measured", "nothing: it was imported, and has not been trained since")]


def _command(run: History) -> list[str]:
    import tomli_w

    if not number(run.last("tokens")):
        return ["`primegpt import` made it of a model of others."]
    verb = "finetune BASE" if run.config.plan.base else "train"
    base = " on the model that it began from" if run.config.plan.base else ""
    return [
        f"`primegpt {verb} recipe.toml`{base}, where recipe.toml is this:",
        _block("toml", tomli_w.dumps(recipe(run)).strip()),
    ]


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _only(names: Iterable[str], rows: Rows) -> Rows:
    return [(name, value) for name, value in rows if name in names]


def _table(rows: Rows) -> str:
    """Rows as a Markdown table; those without a value are left out."""
    told = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows if value]
    return "\n".join(["| | |", "| --- | --- |", *told]) if told else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
