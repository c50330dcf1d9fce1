"""A whole run's configuration, one typed tree, and the order in which its sources win.

    defaults < zero-config recipe < preset < TOML file < command-line flags

A layer is a plain nested dict that holds only what it sets: `{"model": {"n_layer": 6}}`. `resolve` merges layers,
checks every key and value, and says in one line what is wrong, where, and what was probably meant.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from primegpt.config.sections import (
    BUDGETS,
    LEARNT,
    DataConfig,
    GenerateConfig,
    LoRAConfig,
    ModelConfig,
    PlanRecord,
    Section,
    TokenizerConfig,
    TrainConfig,
)
from primegpt.errors import ConfigError, nearest


class Config(Section):
    """A whole run."""

    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    lora: LoRAConfig = LoRAConfig()
    generate: GenerateConfig = GenerateConfig()
    plan: PlanRecord = PlanRecord()

    @property
    def sequence_length(self) -> int:
        """Tokens of a training window."""
        return self.train.sequence_length or self.model.block_size

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.train.batch_size * self.train.gradient_accumulation_steps * self.sequence_length

    def problems(self) -> Iterator[str]:
        """What is wrong between fields of all sections."""
        yield from self.model.problems()
        yield from self.data.problems()
        yield from self.train.problems()
        yield from self.lora.problems()
        if (self.train.sequence_length or 0) > self.model.block_size:
            yield (
                f"train.sequence_length = {self.train.sequence_length} is above "
                f"model.block_size = {self.model.block_size}; lower the first or raise the second"
            )

    def with_values(self, **sections: Mapping[str, Any]) -> "Config":
        """A copy with some values replaced: `config.with_values(train={"max_steps": 10})`."""
        return resolve(self.model_dump(exclude_unset=True), sections)


# A preset is a layer: the switches of an architecture and the optimisation that suits it. Sizes stay the user's.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "gpt2": {},  # the defaults are GPT-2's block
    "qwen3": {
        "model": {
            "bias": False,
            "norm": "rmsnorm",
            "norm_eps": 1e-6,
            "position": "rope",
            "mlp": "swiglu",
            "qk_norm": True,
        }
    },
    "prime": {
        "model": {
            "bias": False,
            "norm": "rmsnorm",
            "norm_gain": False,
            "norm_eps": 1e-6,
            "position": "rope",
            "mlp": "relu2",
            "qk_norm": True,
            "embedding_norm": True,
            "residual_init": "zero",
            "tie_embeddings": False,
        },
        "train": {"optimizer": "muon", "learning_rate": 3e-3, "schedule": "linear"},
    },
}


class Layer(NamedTuple):
    """One source of configuration: nested values, and where they came from, for error messages."""

    values: Mapping[str, Any]
    origin: str = ""


def preset_name(*layers: Layer | Mapping[str, Any]) -> str:
    """The preset that `layers` ask for (the last word counts), whichever layer it stands in."""
    name = ModelConfig().preset
    for layer in layers:
        values = layer.values if isinstance(layer, Layer) else layer
        model = values.get("model", {})
        name = model.get("preset", name) if isinstance(model, Mapping) else name
    if name not in PRESETS:
        raise ConfigError(f"model.preset = {name!r} is not a preset", nearest(str(name), PRESETS))
    return name


def resolve(*layers: Layer | Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> Config:
    """Merge `layers` (later ones win) above the preset that they name, above the zero-config `recipe`.

    Raises ConfigError, one line with every problem found, for an unknown key, a bad value or a contradiction.
    """
    named = [layer if isinstance(layer, Layer) else Layer(layer) for layer in layers]
    preset = PRESETS[preset_name(recipe or {}, *named)]
    merged: dict[str, Any] = {}
    for layer in (Layer(recipe or {}), Layer(preset), *named):
        _check(layer)
        if BUDGETS & layer.values.get("train", {}).keys():  # `--minutes 1` takes the place of a recipe's max_steps
            merged["train"] = {key: value for key, value in merged.get("train", {}).items() if key not in BUDGETS}
        if "path" in layer.values.get("tokenizer", {}):  # likewise a ready tokenizer that of one to be learnt
            merged["tokenizer"] = {k: v for k, v in merged.get("tokenizer", {}).items() if k not in LEARNT}
        merged = _merge(merged, layer.values)
    config = Config.model_validate(merged)
    if problems := list(config.problems()):
        raise ConfigError(" · ".join(problems))
    return config


def read_saved(path: str | Path) -> Config:
    """What `write_toml` wrote. A key that is not there is younger: it is as its section has it, not as the preset."""
    return resolve(Config().model_dump(mode="json", exclude_none=True), read_toml(path))


def read_toml(path: str | Path) -> Layer:
    """The layer in a TOML file. Raises ConfigError if it cannot be read or parsed."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return Layer(tomllib.load(file), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", "name a readable .toml file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def write_toml(config: Config) -> str:
    """The resolved configuration as TOML text; unset values are left out."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def explain(error: ValidationError, origin: str = "") -> ConfigError:
    """Pydantic's report as one line: the key, the file, what was expected or probably meant."""
    prefix = f"{origin}: " if origin else ""
    return ConfigError(prefix + " · ".join(dict.fromkeys(_explain_one(item) for item in error.errors())))


def _check(layer: Layer) -> None:
    """Validate one layer by itself, so that a message can name the source of a bad value."""
    try:
        Config.model_validate(layer.values)
    except ValidationError as error:
        raise explain(error, layer.origin) from None


def _explain_one(item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(part for part in location if part in _known_names())
    if item["type"] == "extra_forbidden":
        name, parent = location[-1], location[:-1]
        fields = Config.model_fields if not parent else type(getattr(Config(), parent[0])).model_fields
        return f"unknown key {'.'.join(location)!r}; {nearest(name, fields)}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{key or '.'.join(location)} = {item['input']!r}: {message}"


def _known_names() -> set[str]:
    sections = {name: type(getattr(Config(), name)) for name in Config.model_fields}
    return set(sections).union(*(section.model_fields for section in sections.values()))


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`low` overlaid with `high`, section by section."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
