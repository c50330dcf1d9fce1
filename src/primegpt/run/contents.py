"""What the files of a run say, held against its checkpoints, whose every byte is hashed.

config.toml can be edited, and a disk can flip a bit in it; a checkpoint knows what it was trained with.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from primegpt.config import Config, Layer, read_saved, saved
from primegpt.errors import ConfigError, RunFolderError
from primegpt.run.atomic import reason
from primegpt.run.checkpoint import STATE, Checkpoint
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say

NAMED = 5  # settings told by name; of more than that, the number

# What a checkpoint was trained with and can go on without. All other settings of these sections shape the weights or
# the prepared text: with another value nothing of the checkpoint would fit.
FREE = {
    "model": {"dropout"},
    "tokenizer": set[str](),
    "data": {"sources", "base_text", "val_tokens", "stride", "isolate_documents", "prompt_dropout", "mask_prompt"},
    "lora": {"dropout"},
    "reinforce": {"epsilon", "epsilon_high", "val_prompts"},
    "plan": set[str](),
}
# Whose state, and whose best loss, are in the checkpoint.
FIXED_IN_TRAINING = {
    f"train.{name}" for name in ("optimizer", "objective", "beta", "label_smoothing", "simpo_gamma", "sft_weight")
}
CHOSEN_BY_PLAN = {  # before step 1, and not again
    *("train.attention", "train.max_steps", "train.sequence_length", "train.keep_checkpoints", "data.val_tokens"),
    *(f"train.{event}_interval" for event in ("eval", "sample", "checkpoint", "log")),
}
# Conditions of a session, told as such: threads, which several ranks share out, and whether there is a compiler.
COMPARED_ELSEWHERE = {"train.threads", "train.compile"}

RECORD = ("source_fingerprint", "train_fingerprint", "val_fingerprint", "tokenizer_fingerprint", "folder")

Changes = Mapping[str, tuple[object, object]]


def trained_with(checkpoint: Checkpoint) -> Config | None:
    """The configuration of the run when `checkpoint` was saved; None in what earlier versions imported."""
    return None if checkpoint.config is None else saved(Layer(checkpoint.config, str(checkpoint.path / STATE)))


def config_in_use(folder: RunFolder, warn: Say, checkpoint: Checkpoint | None, *, note: Say | None = None) -> Config:
    """The configuration to use `checkpoint` with: its own, but for how to generate, which config.toml says.

    What config.toml has otherwise is a line to `warn`, of how to generate to `note`, if that is given. Without
    a checkpoint it is all that is known.
    """
    written = read_saved(folder.config_path)
    trained = trained_with(checkpoint) if checkpoint else None
    if trained is None or checkpoint is None:
        return written
    changes = {name: change for name, change in trained.changes(written).items() if name not in COMPARED_ELSEWHERE}
    if ours := {name: change for name, change in changes.items() if _is_fixed(name)}:
        warn(f"{folder.config_path}: {_told(ours)}; {checkpoint.path.name} was trained with the former, which is used")
    if theirs := {name: change for name, change in changes.items() if name.startswith("generate.")}:
        (note or warn)(f"{folder.config_path}: {_told(theirs)}, which is used")
    return trained.model_copy(update={"generate": written.generate})


def changes_since(folder: RunFolder, checkpoint: Checkpoint, config: Config) -> Changes:
    """The settings in which `config`, as config.toml has it, goes on from `checkpoint` otherwise than before.

    Raises ConfigError, naming each, for those with which it cannot go on.
    """
    trained = trained_with(checkpoint)
    changes = {} if trained is None else trained.changes(config)
    changes = {name: change for name, change in changes.items() if name not in COMPARED_ELSEWHERE}
    unset = {name for name in CHOSEN_BY_PLAN & changes.keys() if changes[name][1] in (None, "auto")}
    refused = {name: change for name, change in changes.items() if _is_fixed(name) or name in unset}
    if refused or changes.keys() & FIXED_IN_TRAINING:
        refused |= {name: changes[name] for name in changes.keys() & FIXED_IN_TRAINING}
        raise ConfigError(
            f"{folder.config_path} was edited or damaged: {_told(refused)}",
            f"put it back as it was ({checkpoint.path / STATE} has it all), or start a new run",
        )
    return changes


def require_plan(folder: RunFolder, config: Config) -> None:
    """Raise ConfigError if `config` leaves open what the plan had chosen, as a file that was cut short does."""
    settings = config.model_dump()
    names = {name: name.split(".") for name in sorted(CHOSEN_BY_PLAN)}
    if missing := [name for name, (section, key) in names.items() if settings[section][key] in (None, "auto")]:
        raise ConfigError(
            f"{folder.config_path} does not say {_listed(missing)}: it was edited, or cut short",
            "put it back as it was, or start a new run",
        )


def data_record(
    folder: RunFolder, warn: Say, checkpoint: Checkpoint | None, needed: Collection[str] = RECORD
) -> dict[str, Any] | None:
    """data.json, or what `checkpoint` knows of the text where that says otherwise, with a line to `warn`.

    None for a run without a text, an imported one. Raises RunFolderError where neither tells what is `needed`.
    """
    state = checkpoint.state if checkpoint else {}
    known = state.get("data")
    try:
        written = _record_in(folder.data_path, needed)
    except RunFolderError as error:
        if checkpoint and not known and not folder.data_path.exists() and "train" not in state:
            return None
        if not known:
            raise
        warn(f"{error.what}; what the checkpoint knows of the text is used")
        return known
    told = {"folder", "preparation"}  # a place, and what a run of an earlier version does not say
    differing = [name for name, value in (known or {}).items() if name not in told and written.get(name) != value]
    if differing:
        warn(f"{folder.data_path} has another {_listed(differing)} than the checkpoint, whose is used")
    return written | (known or {})


def _record_in(path: Path, needed: Collection[str]) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if missing := [name for name in needed if not isinstance(record.get(name), str)]:
            raise ValueError(f"it has no {_listed(missing)}")
        if not isinstance(record, dict):
            raise ValueError("it is no object")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {reason(error)}", "put it back from a copy") from error
    except (ValueError, RecursionError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged: {error}", "put it back from a copy") from error
    return record


def said_changes(changes: Changes) -> list[str]:
    """Each change as a line."""
    return [f"{name} was {_value(was)}, is {_value(now)}" for name, (was, now) in changes.items()]


def _is_fixed(name: str) -> bool:
    section, _, key = name.partition(".")
    return section in FREE and key not in FREE[section]


def _told(changes: Changes) -> str:
    return _listed(said_changes(changes))


def _listed(items: Collection[str]) -> str:
    named = list(items)[:NAMED]
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(named) + more


def _value(value: object) -> str:
    text = "unset" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
