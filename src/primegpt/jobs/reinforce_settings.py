"""What a run that learns from rewards is configured with: its base's network and layout, and gentle steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from primegpt.config import Config, DataConfig, Layer, merge, refuse_idle, resolve
from primegpt.data.template import layout_name, vocabulary
from primegpt.errors import ConfigError
from primegpt.jobs.bases import Base
from primegpt.jobs.configuring import texts_to_read, written_recipe
from primegpt.jobs.finetuning import (
    LARGE,
    RANK,
    defaults,
    refuse_other_extension,
    refuse_other_network,
    refuse_other_tokenizer,
)
from primegpt.model.size import lora_parameter_count, parameter_count

LONGEST = 256  # tokens of a completion, unless more are asked for
MICRO_BATCH = 32  # rows
CLEANING = (
    "max_bytes", "duplicates", "similarity", "min_length", "max_length", "html", "whitespace", "non_ascii",
)  # fmt: skip
IDLE = {
    "train.tokens": "nobody knows how long completions will be: give --train.max_steps, --minutes or --epochs",
    "train.gradient_accumulation_steps": "a step has reinforce.prompts_per_step * reinforce.num_generations rows",
    "train.sequence_length": "set reinforce.max_new_tokens",
    "train.objective": "set reinforce.loss_type",
    "train.compile": "completions have another length at every step",
    "data.val_tokens": "set reinforce.val_prompts",
    "train.sample_prompts": "samples answer prompts that are held out",
    "data.weights": "prompts are drawn from all sources alike",
    "data.text_field": "set data.prompt_field",
    **dict.fromkeys(("data.prompt_dropout", "data.mask_prompt", "data.pack"), "answers are not learnt from"),
    **dict.fromkeys((f"data.{name}" for name in CLEANING), "prompts are taken as they are: clean them before"),
}


def configure(
    base: Base, prompts: Sequence[str | Config], flags: Layer, *, reward: Sequence[str] = (), lora: bool = False
) -> Config:
    """defaults < what the base was < a TOML file < flags. Raises ConfigError for what rewards have no use for."""
    asked = written_recipe(prompts) or texts_to_read(prompts, flags)
    own: dict[str, Any] = {"lora": {"rank": RANK}} if lora else {}
    own |= {"reinforce": {"reward": [in_full(name) for name in reward]}} if reward else {}
    known = merge(base_layer(base, Config()), asked, own, flags)
    if not known.reinforce.on:
        raise ConfigError("no reward was given", "say --reward words, or another: docs/alignment.md names them")
    config = resolve(base_layer(base, known), asked, own, flags)
    refuse_what_is_idle(merge(asked, flags))
    refuse_idle(asked, config)
    refuse_idle(flags, config)
    refuse_other_layout(base, config)
    refuse_other_tokenizer(base, base.tokenizer, merge(asked, flags))
    refuse_other_network(base, config)
    refuse_other_block(base, config)
    refuse_other_extension(base, merge(asked, flags))
    if config.lora.rank and not lora_parameter_count(config):
        raise ConfigError("this network has no layer that adapters fit", "leave lora out, or name others: lora.targets")
    return settled(config, base)


def in_full(reward: str) -> str:
    """A reward with the whole path of its file, so that the run can be gone on with from anywhere."""
    if ".py:" not in reward:
        return reward
    weight, star, name = reward.rpartition("*")
    path, _, function = name.strip().rpartition(":")
    return f"{weight}{star}{Path(path).absolute()}:{function}"


def base_layer(base: Base, known: Config) -> dict[str, Any]:
    """What a run is unless one says otherwise; of `known`, only whether there are adapters matters."""
    layer, large = defaults(base, known), parameter_count(base.config.model) > LARGE
    full, thin = (1e-6, 1e-5) if large else (3e-4, 1e-3)  # docs/experiments.md
    layer["train"] = {
        "optimizer": "adamw",
        "learning_rate": thin if known.lora.rank else full,
        "schedule": "constant",
        "weight_decay": 0.0,
        "batch_size": MICRO_BATCH,
        "precision": "fp32",
    }
    layer["generate"] = base.config.generate.model_dump(exclude_unset=True)
    layer["model"] |= {"dropout": 0.0}  # or the probabilities that learn would not be those that were drawn from
    return layer


def refuse_what_is_idle(asked: Config) -> None:
    """Raise ConfigError for settings that nothing heeds where completions are written anew at every step."""
    for key, remedy in IDLE.items():
        section, name = key.split(".")
        if getattr(getattr(asked, section), name) != getattr(getattr(Config(), section), name):
            raise ConfigError(f"{key} has no effect on what learns from rewards", remedy)


def refuse_other_layout(base: Base, config: Config) -> None:
    """Raise ConfigError for a template that the base has not learnt."""
    missing = set(vocabulary(config.data, {}).get("control", ())) - base.tokenizer.special_tokens.keys()
    layout = layout_name(base.config.data, base.tokenizer)
    if missing or (config.data.template != layout and layout != DataConfig().template):
        lacks = f"has no {', '.join(sorted(missing))}" if missing else f"answers as the template {layout} has it"
        raise ConfigError(
            f"data.template = {config.data.template!r}, but {base.name} {lacks}",
            "fine-tune it on records of that kind first: rewards choose among what a model writes already",
        )


def refuse_other_block(base: Base, config: Config) -> None:
    """Raise ConfigError for a longer context than the base's, which finetune would make rows of weights for."""
    old, new = base.config.model.block_size, config.model.block_size
    if old != new:
        what = f"model.block_size = {new}, but {base.name} has {old}"
        raise ConfigError(what, "leave it out, or give it a longer one with `primegpt finetune` first")


def settled(config: Config, base: Base) -> Config:
    """`config` with what follows from it: how long completions are, the rows of a micro-batch, the vocabulary."""
    reinforce, block = config.reinforce, config.model.block_size
    longest = reinforce.max_new_tokens or min(LONGEST, block // 2)
    if longest >= block:
        what = f"reinforce.max_new_tokens = {longest} leaves no room for a prompt in model.block_size = {block}"
        raise ConfigError(what, "lower it")
    rows = reinforce.rows_per_step
    size = max(n for n in range(1, min(config.train.batch_size, rows) + 1) if rows % n == 0)
    values = {
        "reinforce": {"max_new_tokens": longest},
        "train": {"batch_size": size, "gradient_accumulation_steps": rows // size, "sequence_length": block},
        "tokenizer": {"kind": base.tokenizer.kind},
        "model": {"vocab_size": base.tokenizer.vocab_size},
    }
    return resolve(config.model_dump(exclude_unset=True, exclude={"tokenizer"}), values)
