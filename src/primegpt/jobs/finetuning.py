"""Fine-tuning: a trained model goes on with another text, all of its weights or low-rank adapters beside them."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from primegpt import extend
from primegpt.config import (
    LAYOUT,
    PREFERENCES,
    Config,
    DataConfig,
    Layer,
    Settings,
    merge,
    refuse_idle,
    resolve,
)
from primegpt.data.preparing.prepare import record_lengths
from primegpt.data.template import layout_name, vocabulary
from primegpt.device import choose_device
from primegpt.errors import ConfigError, listed
from primegpt.inference.run import Run
from primegpt.jobs.bases import Base, open_base, refuse_itself, require_base_text
from primegpt.jobs.configuring import require_pairs, texts_to_read, with_minutes, written_recipe
from primegpt.jobs.training import begin, refuse_rewards
from primegpt.model.size import lora_parameter_count, parameter_count
from primegpt.planning.recipe import context_and_rows
from primegpt.run.folder import next_run_path
from primegpt.terminal import Say, silent, to_stderr
from primegpt.tokenizers import store
from primegpt.tokenizers.base import SpecialTokens, Tokenizer
from primegpt.training.display import Observer

RANK = 8  # of --lora, when no rank is given
LARGE = 50_000_000  # parameters; a larger model is moved more gently
# Of all weights and of adapters, for a small and a large model: by whether preferences are learnt, or a text.
RATES = {False: ((3e-4, 2e-3), (5e-5, 3e-4)), True: ((1e-4, 1e-3), (5e-6, 3e-5))}


def finetune(
    base: str | Path,
    *sources: str | Path | Config,
    lora: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    minutes: float | None = None,
    checkpoint: str | int = "best",
    settings: Settings | None = None,
    observer: Observer | None = None,
    say: Say = to_stderr,
    quiet: bool = False,
    started: float | None = None,
) -> Run:
    """Train the model of `base` (a run, or a folder of Transformers) further on `sources`, as a new run.

    The tokenizer stays, with new ids at its end where a template needs them. `lora` trains adapters in place of all
    weights; the run holds the merged weights, so it is a run like any other, and `adapter/` in PEFT's files. The base
    is left as it is; a copy of its weights lies in `base/`. Other arguments are as in `train`.
    """
    started, say = time.monotonic() if started is None else started, silent if quiet else say
    flags = Layer(with_minutes(settings or {}, minutes))
    opened = open_base(base, checkpoint, say)
    opened, config = configure(opened, [str(s) if isinstance(s, Path) else s for s in sources], flags, lora=lora)
    require_base_text(opened, config)
    path = Path(out) if out else next_run_path(f"{Path(base).name}-tuned")
    refuse_itself(base, path)
    return begin(path, config, base=opened, overwrite=overwrite, observer=observer, say=say, started=started)


def configure(base: Base, sources: Sequence[str | Config], flags: Layer, *, lora: bool = False) -> tuple[Base, Config]:
    """The configuration of a run from `base`, which gets a tokenizer with the ids that the new text needs.

    defaults < what the base was < a TOML file < flags. Raises ConfigError where the network itself would change.
    """
    asked = written_recipe(sources) or texts_to_read(sources, flags)
    rank = {"lora": {"rank": RANK}} if lora else {}
    said = merge(rank, asked, flags)
    pairs = pairs_for(said)
    known = resolve(defaults(base, said), rank, pairs, asked, flags)
    refuse_rewards(known)
    if lora and not known.lora.rank:
        raise ConfigError("lora.rank = 0 trains all weights, and --lora none of them", "leave one of the two out")
    require_pairs(known, is_finetuned=True)
    tokenizer = with_ids_for(base.tokenizer, vocabulary(known.data, known.tokenizer.special_tokens))
    refuse_another_layout(base, known, tokenizer)
    window = window_for(base, known, merge(asked, flags), tokenizer)
    config = resolve(defaults(base, known), window, rank, pairs, asked, flags)
    refuse_idle(asked, merge(defaults(base, known), window, rank, pairs, asked))
    refuse_idle(flags, config)
    refuse_other_tokenizer(base, tokenizer, merge(asked, flags))
    refuse_other_network(base, config)
    if config.lora.rank and not lora_parameter_count(config):
        raise ConfigError("this network has no layer that adapters fit", "leave lora out, or name others: lora.targets")
    refuse_other_extension(base, merge(asked, flags))
    values = config.model_dump(exclude_unset=True, exclude={"tokenizer"})
    settled = {"tokenizer": {"kind": tokenizer.kind}, "model": {"vocab_size": tokenizer.vocab_size}}
    return replace(base, tokenizer=tokenizer), resolve(values, settled)


def defaults(base: Base, known: Config) -> dict[str, Any]:
    """What a fine-tuning run is unless one says otherwise; of `known`, only adapters and the objective matter.

    Learning rates are an order of magnitude below those of training from scratch; adapters, which start from nothing,
    take larger ones (docs/experiments.md). Those of preferences, which are soon exaggerated, are below both; of large
    models as cautious as TRL's, and not found by a search.
    """
    old, large = base.config, parameter_count(base.config.model) > LARGE
    trained, preference = old.plan.step_seconds > 0, known.train.objective in PREFERENCES
    full, thin = RATES[preference][large]
    window = 1024 if choose_device("auto") == "cuda" else 256
    extended = {"extension", "extension_parameters"} if not old.model.own else set()  # by what only training uses
    return {
        "extension": old.extension if old.model.own else None,
        "model": old.model.model_dump(exclude_unset=True, exclude=extended)
        | {"vocab_size": old.model.vocab_size}
        | ({"dropout": 0.0} if preference else {}),  # by which a model would differ from its reference
        "data": layout_of(base, fields=not preference),
        "train": {
            "optimizer": "adamw",
            "learning_rate": thin if known.lora.rank else full,
            "schedule": "cosine",
            "warmup_steps": 10,
            "weight_decay": 0.01,
            "batch_size": old.train.batch_size if trained else 4,
            "sequence_length": old.sequence_length if trained else min(old.model.block_size, window),
        },
        "generate": old.generate.model_dump(exclude_unset=True, exclude={"start_document"}),
    }


def layout_of(base: Base, *, fields: bool) -> dict[str, Any]:
    """How records are laid out, which is of the model; and in which `fields` they come, where these are the same."""
    data = base.config.data
    if data.template == DataConfig().template:
        return {}
    of_fields = {"prompt_field", "response_field"} if not fields else set()
    return data.model_dump(include=set(LAYOUT) - of_fields) | {"template": layout_name(data, base.tokenizer)}


def pairs_for(said: Config) -> dict[str, Any]:
    """The layer that reads pairs where the objective asks for them, and nothing else is `said`."""
    wanted = said.train.objective in PREFERENCES and "template" not in said.data.model_fields_set
    return {"data": {"template": "preference"}} if wanted else {}


def window_for(base: Base, known: Config, asked: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """The layer that makes the window long enough for the new text, where nothing else is `asked` for.

    A larger block that is asked for is the window, too. Records get the one that nearly all of them fit into; rotary
    positions go on beyond the base's block, learnt ones end there.
    """
    if "sequence_length" in asked.train.model_fields_set:
        return {}
    if "block_size" in asked.model.model_fields_set:
        return {"train": {"sequence_length": None}} if asked.model.block_size > base.config.model.block_size else {}
    if known.data.template == "text":
        return {}
    least = known.sequence_length
    lengths = record_lengths(known.data, known.tokenizer, tokenizer=tokenizer)
    context, rows = context_and_rows(lengths, known.train.batch_size * least, least, choose_device(known.train.device))
    if known.model.position == "learned":
        context = min(context, known.model.block_size)
    if context == least:
        return {}
    model = {"block_size": context} if context > known.model.block_size else {}
    return {"model": model, "train": {"sequence_length": context, "batch_size": rows}}


def with_ids_for(tokenizer: Tokenizer, wanted: SpecialTokens) -> Tokenizer:
    """`tokenizer` if it has the control tokens that are `wanted`, else with ids for what is missing at its end."""
    if set(wanted.get("control", ())) <= tokenizer.special_tokens.keys():
        return tokenizer
    return tokenizer.with_special_tokens(
        {kind: names for kind, names in wanted.items() if kind not in tokenizer.special_kinds}
    )


def refuse_another_layout(base: Base, known: Config, tokenizer: Tokenizer) -> None:
    """Raise ConfigError where pairs would be laid out as the tokenizer allows, and the base has learnt otherwise."""
    data = base.config.data
    if known.data.template != "preference" or not data.sources:  # or of others: only its tokens say what it has learnt
        return
    learnt, wanted = {data.of(n).template for n in range(len(data.sources))}, layout_name(known.data, tokenizer)
    if not learnt & {wanted, "preference"}:
        what = f"the tokenizer has the tokens of {wanted!r}, and {base.name} has learnt {listed(learnt)}"
        raise ConfigError(what, f"fine-tune it on answers first (--data.template {wanted}), then that run on pairs")


def refuse_other_tokenizer(base: Base, tokenizer: Tokenizer, asked: Config) -> None:
    """Raise ConfigError if `asked` is for another tokenizer than `tokenizer`, the base's with new ids at its end."""
    said = asked.tokenizer
    found: dict[str, tuple[object, object]] = {}  # what is asked for, and what there is
    if "kind" in said.model_fields_set:
        found["tokenizer.kind"] = said.kind, tokenizer.kind
    if said.vocab_size:
        found["tokenizer.vocab_size"] = said.vocab_size, base.tokenizer.vocab_size
    if said.path:
        found["tokenizer.path"] = store.load(said.path).fingerprint, base.tokenizer.fingerprint
    for kind, names in said.special_tokens.items():
        found[f"tokenizer.special_tokens.{kind}"] = names, tokenizer.special_kinds.get(kind, ())
    if asked.model.vocab_size:
        found["model.vocab_size"] = asked.model.vocab_size, tokenizer.vocab_size
    for key, (wanted, there) in found.items():
        if wanted != there:
            raise ConfigError(
                f"{key} asks for {wanted!r}, but the tokenizer of {base.name} has {there!r}",
                "fine-tuning keeps the tokenizer, whose ids the model has learnt: leave it out, or train from scratch",
            )


def refuse_other_extension(base: Base, asked: Config) -> None:
    """Raise ConfigError if `asked` is for another extension than the one that the base's network is of."""
    expected = base.config.model.extension if base.config.model.own else None
    if asked.extension and expected and extend.load(asked.extension).sha256 != expected:
        what = f"{asked.extension} is not the file that the network of {base.name} was trained with"
        raise ConfigError(what, "leave it out: its own copy is used")


def refuse_other_network(base: Base, config: Config) -> None:
    """Raise ConfigError if `config` asks for another network than the base's.

    Its dropout may change, its vocabulary is the tokenizer's, an extension is looked at by itself, and a longer block
    has the same weights: rotary positions have none, and learnt ones get rows.
    """
    old, new = base.config.model, config.model
    free = {
        "dropout",
        "vocab_size",
        "extension",
        "extension_parameters",
        *(["block_size"] if new.block_size > old.block_size else []),
    }
    for name in type(old).model_fields:
        if name not in free and getattr(old, name) != getattr(new, name):
            raise ConfigError(
                f"model.{name} = {getattr(new, name)!r}, but {base.name} has {getattr(old, name)!r}",
                "fine-tuning keeps the network: leave it out, or train from scratch",
            )
