"""What is to be trained: the configuration that texts or a recipe, and flags, ask for."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from primegpt import extend
from primegpt.config import (
    BUDGETS,
    PREFERENCES,
    Config,
    Layer,
    ReadingConfig,
    Settings,
    TrainConfig,
    check,
    merge,
    preset_name,
    read_toml,
    recipe_path,
    refuse_all_but,
    refuse_idle,
    resolve,
)
from primegpt.data.audit import GUARDED, TOKENS_PER_PARAMETER
from primegpt.data.preparing.prepare import record_lengths
from primegpt.data.reading.sources import source_bytes
from primegpt.device import choose_device, choose_precision
from primegpt.errors import ConfigError, DataError, DiskError, MismatchError
from primegpt.jobs.own_rewards import in_use
from primegpt.model.own import numbers
from primegpt.parallel.distributed import ranks_of
from primegpt.planning.law import STATED_RATES
from primegpt.planning.rate import training_rate
from primegpt.planning.recipe import TextFacts, guessed, tokenizer_for, tuned, zero_config
from primegpt.run.extensions import trust
from primegpt.terminal import Say
from primegpt.tokenizers.base import Tokenizer

COUNTED = set(BUDGETS) - {"minutes"}


def configure(sources: Sequence[str | Config], flags: Layer, facts: TextFacts | None = None) -> Config:
    """The configuration that `sources` and command-line `flags` ask for.

    A bare text gets the zero-config recipe, for its `facts` where these are known, else for a guess by its size.
    """
    if recipe := written_recipe(sources):
        config = resolve(recipe, flags)
        refuse_idle(recipe, merge(recipe))
        refuse_idle(flags, config)
        return config
    texts = texts_to_read(sources, flags)
    model, train = flags.values.get("model", {}), flags.values.get("train", {})
    asked = merge(flags, texts)  # what is wrong with it is said before the text is looked at
    if problems := [*asked.data.problems(), *asked.train.problems()]:  # the sizes of a model are not known yet
        raise ConfigError(" · ".join(problems))
    data, device = asked.data, choose_device(asked.train.device)
    width = asked.model.n_embd if "n_embd" in model else None
    preset = preset_name({"model": {"preset": "prime"}}, flags)
    context = train.get("sequence_length") or model.get("block_size")
    context_by_records = data.template != "text" and not context and not facts  # facts: they were cut to one already
    counted = any(train.get(budget) for budget in COUNTED)

    size = source_bytes(data.sources, songs=data.songs, at_most=data.max_bytes)
    tokenizer = tokenizer_for(size, records=data.template != "text")
    rate = rate_for(asked.train, device, counted=counted)
    # A run of counted steps has no average of its weights, and no early end.
    least = TOKENS_PER_PARAMETER if counted else GUARDED
    facts = facts or guessed(size, merge(flags, texts, recipe={"tokenizer": tokenizer}).tokenizer, least)
    chosen = partial(
        zero_config, facts, tokenizer, device, asked.train.minutes, preset, width=width, context=context, rate=rate
    )
    recipe = chosen(records=None if data.template == "text" else ())
    if context_by_records:
        known = resolve(flags, texts, recipe=recipe)
        recipe = chosen(records=record_lengths(known.data, known.tokenizer))
    as_measured = device == "cpu" and preset == "prime" and train.get("optimizer", "muon") == "muon"
    as_measured &= "learning_rate" not in train  # whoever asks for one means the head's too
    config = resolve(flags, texts, recipe=recipe)
    refuse_idle(flags, config)
    return resolve(tuned(config), flags, texts, recipe=recipe) if as_measured else config


def rate_for(train: TrainConfig, device: str, *, counted: bool) -> float:
    """What the law tells the time of steps by: measured here, or stated where nothing may depend on a measurement.

    Steps that are `counted` are to be the same anywhere, and ranks have to agree. Ranks of one CPU share it.
    """
    ranks = ranks_of(os.environ)
    if counted or ranks:
        on_gpus = device == "cuda"
        return STATED_RATES["cuda" if on_gpus else "cpu"] * (ranks.size if ranks and on_gpus else 1)
    return training_rate(device, choose_precision(train.precision, device), train.threads, train.minutes)


def reading(
    sources: Sequence[str | Path],
    settings: Settings,
    recipe: Layer | None = None,
    also: Sequence[str] = (),
) -> Config:
    """How `sources` are read, or those of `recipe`, by a command that does not train on them.

    `settings` win over the recipe. Raises ConfigError for those that such a command has no use for, but for `also`.
    """
    wanted = (*(f"data.{name}" for name in ReadingConfig.model_fields), *also)
    refuse_all_but(wanted, settings, "only training uses it: leave it out")
    flags = Layer(settings)
    texts = texts_to_read([str(source) for source in sources], flags) if sources or not recipe else {}
    config = resolve(recipe or {}, flags, texts)
    refuse_idle(flags, config)
    return config


def written_recipe(sources: Sequence[str | Config]) -> Layer | None:
    """What `sources` ask for if they are one configuration, or one recipe (a .toml file, a name); None for texts."""
    if len(sources) == 1 and isinstance(sources[0], Config):
        return Layer(sources[0].model_dump(exclude_unset=True))
    for source in sources:
        if not isinstance(source, Config) and (path := recipe_path(source)):
            if len(sources) > 1:
                raise ConfigError(f"{source} stands beside other sources", "name texts in its [data] sources instead")
            return read_toml(path)
    return None


OF_A_NETWORK = {"n_layer", "n_embd", "n_head", "n_kv_head", "head_dim", "intermediate_size", "block_size"}
BATCH = {"sequence_length", "batch_size", "gradient_accumulation_steps", "learning_rate"}  # which go with a network


def is_chosen(sources: Sequence[str | Config], flags: Layer) -> bool:
    """Whether the network is the zero-config recipe's, by minutes alone."""
    model, train = flags.values.get("model", {}), flags.values.get("train", {})
    asked = OF_A_NETWORK & model.keys() or any(train.get(name) is not None for name in BATCH | COUNTED)
    return not asked and not written_recipe(sources)


def texts_to_read(sources: Sequence[str | Config], flags: Layer) -> Layer:
    """The texts named as sources and by --data.sources. Raises ConfigError if there is none, or for wrong `flags`."""
    check(flags)
    texts = [*map(str, sources), *flags.values.get("data", {}).get("sources", ())]
    if not texts:
        raise ConfigError("no text to train on", "name a file, a folder, or `songbook`")
    return Layer({"data": {"sources": texts}})


def with_extension(config: Config, say: Say) -> Config:
    """`config` with the extension that it names loaded, and what is filled in from it.

    It runs, and may run from now on: whoever trains has named it. Raises ExtensionError where it fails or has not all
    parts that are chosen, MismatchError where it is not the file that `config` was made with.
    """
    expected = config.model.extension
    if expected and extend.has_run(expected):  # of a base, or of a run in this process
        extension = extend.loaded(expected)
    elif config.extension:
        extension = extend.load(config.extension)
        if expected not in ("", extension.sha256):
            what = f"{config.extension} is not the file that this configuration was made with"
            raise MismatchError(what, "leave model.extension out to take it as it is now")
    elif expected or config.model.extension_parameters:
        raise ConfigError("model.extension is filled in from a file, and none is named", "say extension = 'FILE.py'")
    else:
        return config
    if not config.own and not in_use(config, extension):
        say(f"{'warning':<10} nothing of {config.extension} is in use, which has {extension}")
        return config.with_values(model={"extension": "", "extension_parameters": {}})
    extend.require_names(config, extension)
    try:
        trust(extension.sha256, extension.path)
    except DiskError as error:
        say(f"{'warning':<10} {error}; `primegpt trust RUN` will be needed to open the run")
    config = config.with_values(model={"extension": extension.sha256})
    return config.with_values(model={"extension_parameters": numbers(config.model)})


def require_pairs(config: Config, *, is_finetuned: bool) -> None:
    """Raise ConfigError unless pairs meet an objective that compares them, in a model that has learnt to answer."""
    template, objective = config.data.template, config.train.objective
    if (template == "preference" or objective in PREFERENCES) and not is_finetuned:
        what = "pairs of answers are for a model that has learnt to answer"
        raise ConfigError(what, "`primegpt finetune RUN PAIRS --train.objective dpo` goes on from one")
    if template == "preference" and objective not in PREFERENCES:
        what = f"data.template = 'preference' has pairs, which train.objective = {objective!r} does not compare"
        raise ConfigError(what, "say --train.objective dpo, ipo or simpo")
    if template != "preference" and objective in PREFERENCES:
        what = f"train.objective = {objective!r} compares pairs, and data.template = {template!r} has none"
        raise ConfigError(what, "leave data.template out")
    if template == "preference" and any(source.template for source in config.data.source.values()):
        raise ConfigError("plain text has no second answer to be compared with", "give pairs alone as sources")


def with_minutes(settings: Settings, minutes: float | None) -> dict[str, Any]:
    """`settings` with `minutes` as the budget, where they are given. Raises ConfigError for wrong `settings`."""
    check(Layer(settings))
    merged = {section: dict(values) if isinstance(values, Mapping) else values for section, values in settings.items()}
    if minutes is not None:
        merged.setdefault("train", {})["minutes"] = minutes
    return merged


def run_name(config: Config) -> str:
    """The name of a run folder: its first source's, without what a file system or a shell could stumble over."""
    stem = Path(config.data.sources[0]).stem if config.data.sources else "run"
    return "".join(c if c.isalnum() or c in "._" else "-" for c in stem).strip("-.") or "run"


def settings_of(config: Config) -> dict[str, Any]:
    """Every setting by its name, `train.batch_size`, as plain JSON; what was measured left out."""
    sections = config.model_dump(mode="json", exclude={"plan", "extension"})  # what is in it, the model's section says
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def require_text(config: Config) -> None:
    """Refuse a text that cannot fill one window, before anything is written: a token is at least a byte."""
    length = config.sequence_length
    size = source_bytes(config.data.sources, songs=config.data.songs, at_most=config.data.max_bytes)
    if size is not None and size <= length:
        raise DataError(
            f"{', '.join(config.data.sources)}: {size} bytes are fewer than one context of {length} tokens",
            "add text, or lower --model.block_size",
        )


def fill_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """`model.vocab_size` and the kind from the tokenizer. Raises MismatchError if the configuration says otherwise."""
    if config.model.vocab_size not in (0, tokenizer.vocab_size):
        raise MismatchError(
            f"model.vocab_size = {config.model.vocab_size}, but the tokenizer has {tokenizer.vocab_size} ids",
            "leave model.vocab_size out: it is the tokenizer's",
        )
    return config.with_values(model={"vocab_size": tokenizer.vocab_size}, tokenizer={"kind": tokenizer.kind})
