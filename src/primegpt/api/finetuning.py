"""Fine-tuning: a trained model goes on with another text, all of its weights or low-rank adapters beside them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from primegpt.api.bases import Base, open_base
from primegpt.api.configuring import texts_to_read, with_minutes, written_recipe
from primegpt.api.runs import Run, Say, to_stderr
from primegpt.api.training import begin
from primegpt.config import Config, DataConfig, Layer, resolve
from primegpt.data.template import vocabulary
from primegpt.errors import ConfigError
from primegpt.model.size import parameter_count
from primegpt.run.folder import next_run_path
from primegpt.tokenizers.base import SpecialTokens, Tokenizer
from primegpt.training.precision import choose_device
from primegpt.training.trainer import Observer

RANK = 8  # of --lora, when no rank is given
LARGE = 50_000_000  # parameters; a larger model is moved more gently
# Where the text and its pieces come from is of the new text; how records are laid out is of the model.
LAYOUT = ("template", "prompt_field", "response_field", "genre_field", "emotion_field", "structure", "drop_labels")


def finetune(
    base: str | Path,
    *sources: str | Path | Config,
    lora: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    minutes: float | None = None,
    checkpoint: str | int = "best",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    observer: Observer | None = None,
    say: Say = to_stderr,
    started: float | None = None,
) -> Run:
    """Train the model of `base` (a run, or a folder of Transformers) further on `sources`, as a new run.

    The tokenizer stays, with new ids at its end where a template needs them. `lora` trains adapters in place of all
    weights; the run holds the merged weights, so it is a run like any other, and `adapter/` in PEFT's files. The base
    is left as it is; a copy of its weights lies in `base/`. Other arguments are as in `train`.
    """
    started = time.monotonic() if started is None else started
    flags = Layer(with_minutes(settings or {}, minutes))
    opened = open_base(base, checkpoint, say)
    opened, config = configure(opened, [str(s) if isinstance(s, Path) else s for s in sources], flags, lora=lora)
    path = Path(out) if out else next_run_path(f"{Path(base).name}-tuned")
    return begin(path, config, base=opened, overwrite=overwrite, observer=observer, say=say, started=started)


def configure(base: Base, sources: Sequence[str | Config], flags: Layer, *, lora: bool = False) -> tuple[Base, Config]:
    """The configuration of a run from `base`, which gets a tokenizer with the ids that the new text needs.

    defaults < what the base was < a TOML file < flags. Raises ConfigError where the network itself would change.
    """
    asked = written_recipe(sources) or texts_to_read(sources, flags)
    rank = {"lora": {"rank": RANK}} if lora else {}
    known = resolve(defaults(base, Config()), rank, asked, flags)
    tokenizer = with_ids_for(base.tokenizer, vocabulary(known.data, known.tokenizer.special_tokens))
    config = resolve(defaults(base, known), rank, asked, flags)
    config = config.with_values(tokenizer={"kind": tokenizer.kind})
    refuse_other_network(base, config)
    return replace(base, tokenizer=tokenizer), config.with_values(model={"vocab_size": tokenizer.vocab_size})


def defaults(base: Base, known: Config) -> dict[str, Any]:
    """What a fine-tuning run is unless one says otherwise; of `known`, only whether there are adapters matters.

    Learning rates are an order of magnitude below those of training from scratch; adapters, which start from nothing,
    take larger ones (docs/experiments.md).
    """
    old, large = base.config, parameter_count(base.config.model) > LARGE
    trained = old.plan.step_seconds > 0
    full, thin = (5e-5, 3e-4) if large else (3e-4, 2e-3)
    window = 1024 if choose_device("auto") == "cuda" else 256
    return {
        "model": old.model.model_dump(exclude_unset=True) | {"vocab_size": old.model.vocab_size},
        "data": old.data.model_dump(include=set(LAYOUT)) if old.data.template != DataConfig().template else {},
        "train": {
            "optimizer": "adamw",
            "learning_rate": thin if known.lora.rank else full,
            "schedule": "cosine",
            "warmup_steps": 10,
            "weight_decay": 0.01,
            "batch_size": old.train.batch_size if trained else 4,
            "sequence_length": old.train.sequence_length if trained else min(old.model.block_size, window),
        },
        "generate": old.generate.model_dump(exclude_unset=True, exclude={"start_document"}),
    }


def with_ids_for(tokenizer: Tokenizer, wanted: SpecialTokens) -> Tokenizer:
    """`tokenizer` if it has the control tokens that are `wanted`, else with ids for what is missing at its end."""
    if set(wanted.get("control", ())) <= tokenizer.special_tokens.keys():
        return tokenizer
    return tokenizer.with_special_tokens(
        {kind: names for kind, names in wanted.items() if kind not in tokenizer.special_kinds}
    )


def refuse_other_network(base: Base, config: Config) -> None:
    """Raise ConfigError if `config` asks for another network than the base's; its dropout may change."""
    old, new = base.config.model, config.model
    for name in type(old).model_fields:
        if name not in ("dropout", "vocab_size") and getattr(old, name) != getattr(new, name):
            raise ConfigError(
                f"model.{name} = {getattr(new, name)!r}, but {base.name} has {getattr(old, name)!r}",
                "fine-tuning keeps the network: leave it out, or train from scratch",
            )
