"""A whole run's configuration, one typed tree, and the order in which its sources win.

    defaults < zero-config recipe < preset < TOML file < command-line flags

A layer is a plain nested dict that holds only what it sets: `{"model": {"n_layer": 6}}`. `resolve` merges layers,
checks every key and value, and says in one line what is wrong, where, and what was probably meant.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from primegpt.config.sections import (
    BUDGETS,
    LEARNT,
    MAX_STEP_TOKENS,
    PREFERENCES,
    TOKENIZER_KINDS,
    DataConfig,
    GenerateConfig,
    LoRAConfig,
    ModelConfig,
    Place,
    PlanRecord,
    ReinforceConfig,
    Section,
    SourceConfig,
    TokenizerConfig,
    TrainConfig,
    built_in_choices,
    own_choices,
)
from primegpt.errors import ConfigError, nearest, quoted

MAX_TOML_BYTES = 2**24
Settings = Mapping[str, Any]  # values by section and key, as whoever calls gives them; and `extension`
RECIPES = Path(__file__).parents[1] / "recipes"  # that come with the package
FILLED_IN = ("extension", "extension_parameters")  # by the program: not what a misspelt key was meant to be
MOST_PROBLEMS = 20  # that one line names


class Config(Section):
    """A whole run. A default that is an object would be copied each time: sections are made where they are missed."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    lora: LoRAConfig = Field(default_factory=LoRAConfig)
    reinforce: ReinforceConfig = Field(default_factory=ReinforceConfig)
    generate: GenerateConfig = Field(default_factory=GenerateConfig)
    plan: PlanRecord = Field(default_factory=PlanRecord)
    extension: Place | None = None
    """A Python file with parts of your own, which is run: docs/extending.md."""

    @property
    def own(self) -> dict[str, str]:
        """The choices that are of the extension: `model.norm` and the like, and the names."""
        sections = {"model": self.model, "train": self.train}
        return {f"{name}.{key}": own for name, section in sections.items() for key, own in own_choices(section).items()}

    def with_built_in_parts(self) -> "Config":
        """What it would be without an extension, whose parts nobody knows before it has run."""
        defaults: dict[str, dict[str, Any]] = {"model": {"extension_parameters": {}}}
        for key in self.own:
            section, _, name = key.partition(".")
            defaults.setdefault(section, {})[name] = getattr(getattr(Config(), section), name)
        sections = {name: getattr(self, name).model_copy(update=values) for name, values in defaults.items()}
        return self.model_copy(update=sections)

    @property
    def sequence_length(self) -> int:
        """Tokens of a training window."""
        return self.train.sequence_length or self.model.block_size

    @property
    def forward_rows(self) -> int:
        """Rows of a forward pass for each row of a micro-batch: a pair has two."""
        return 2 if self.train.objective in PREFERENCES else 1

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
        if self.lora.rank and self.model.mlp != "swiglu" and set(self.lora.targets) == {"mlp.c_gate"}:
            yield "lora.targets has mlp.c_gate alone, which only model.mlp = 'swiglu' has; nothing would learn"
        if (self.train.sequence_length or 0) > self.model.block_size:
            yield (
                f"train.sequence_length = {self.train.sequence_length} is above "
                f"model.block_size = {self.model.block_size}; lower the first or raise the second"
            )
        if self.tokens_per_step > MAX_STEP_TOKENS:
            yield (
                f"train.batch_size * train.gradient_accumulation_steps * sequence_length = {self.tokens_per_step:,} "
                f"tokens of one step, which may have {MAX_STEP_TOKENS:,}; lower one of them"
            )

    def changes(self, other: "Config") -> dict[str, tuple[Any, Any]]:
        """The settings that `other` has otherwise, by name (`train.seed`): their values here, and there."""
        mine, theirs = (config.model_dump(mode="json") for config in (self, other))
        return {
            f"{section}.{key}": (value, theirs[section][key])
            for section, values in mine.items()
            if section != "extension"  # where the file lay; what is in it is model.extension
            for key, value in values.items()
            if value != theirs[section][key]
        }

    def with_values(self, **sections: Mapping[str, Any]) -> "Config":
        """A copy with some values replaced: `config.with_values(train={"max_steps": 10})`."""
        return resolve(self.model_dump(exclude_unset=True), sections)


# A preset is a layer: the switches of an architecture and the optimisation that suits it. Sizes stay the user's.
_LLAMA = {"bias": False, "norm": "rmsnorm", "norm_eps": 1e-6, "position": "rope", "mlp": "swiglu"}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "gpt2": {},  # the defaults are GPT-2's block
    "llama": {"model": _LLAMA},
    "mistral": {"model": _LLAMA},
    "qwen2": {"model": _LLAMA | {"attention_bias": "qkv"}},
    "qwen3": {"model": _LLAMA | {"qk_norm": True}},
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
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(
            f"model.preset = {quoted(name)} is not a preset", nearest(name if isinstance(name, str) else "", PRESETS)
        )
    return name


def resolve(*layers: Layer | Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> Config:
    """Merge `layers` (later ones win) above the preset that they name, above the zero-config `recipe`.

    Raises ConfigError, one line with every problem found, for an unknown key, a bad value or a contradiction.
    """
    config = merge(*layers, recipe=recipe)
    if problems := list(config.problems()):
        raise ConfigError(" · ".join(problems))
    return config


def merge(*layers: Layer | Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> Config:
    """`resolve`, of layers that may contradict each other until others come on top."""
    named = [layer if isinstance(layer, Layer) else Layer(layer) for layer in layers]
    preset = PRESETS[preset_name(recipe or {}, *named)]
    merged: dict[str, Any] = {}
    extended = any(layer.values.get("extension") for layer in named)
    for layer in (Layer(recipe or {}), Layer(preset), *named):
        check(layer)
        if not extended:
            refuse_own(layer)
        if BUDGETS & layer.values.get("train", {}).keys():  # `--minutes 1` takes the place of a recipe's max_steps
            merged["train"] = {key: value for key, value in merged.get("train", {}).items() if key not in BUDGETS}
        if "path" in layer.values.get("tokenizer", {}):  # likewise a ready tokenizer that of one to be learnt
            merged["tokenizer"] = {k: v for k, v in merged.get("tokenizer", {}).items() if k not in LEARNT}
        kind = TOKENIZER_KINDS.get(layer.values.get("tokenizer", {}).get("kind"))
        if kind and kind.learnt and not kind.vocab_size:  # its size is the text's, not that of pieces
            merged["tokenizer"] = {k: v for k, v in merged.get("tokenizer", {}).items() if k != "vocab_size"}
        merged = _merge(merged, layer.values)
    return Config.model_validate(merged)


def read_saved(path: str | Path) -> Config:
    """What `write_toml` wrote, as `saved` has it."""
    return saved(read_toml(path))


def saved(layer: Layer) -> Config:
    """A whole configuration as it was saved. A key that is not there is younger: as its section has it, not the preset.

    Raises ConfigError as `resolve` does.
    """
    return resolve(Config().model_dump(mode="json", exclude_none=True), layer)


def recipe_names() -> list[str]:
    """The recipes that come with the package: `char-10m` and so on."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe_path(source: str | Path) -> Path | None:
    """The file of a recipe, named by its path (.toml) or as one that comes with the package; None for what is neither.

    A file or folder of the user's goes before a recipe of the same name.
    """
    if str(source).endswith(".toml"):
        return Path(source)
    is_ours = str(source) in recipe_names() and not Path(source).exists()
    return RECIPES / f"{source}.toml" if is_ours else None


def read_toml(path: str | Path) -> Layer:
    """The layer in a TOML file. Raises ConfigError if it cannot be read or parsed."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOML_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        is_ours = isinstance(error, FileNotFoundError) and path.stem in recipe_names()
        remedy = f"the recipe of that name needs no path: {path.stem}" if is_ours else "name a readable .toml file"
        raise ConfigError(f"{path}: {reason}", remedy) from error
    if len(content) > MAX_TOML_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_TOML_BYTES >> 20} MB", "no configuration is: check the path")
    try:
        return Layer(tomllib.loads(content.decode("utf-8-sig")), str(path))  # Windows' editors begin with a BOM
    except UnicodeDecodeError as error:
        utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        place = "it is UTF-16" if utf16 else f"byte {error.start} (0x{content[error.start]:02x}) makes no character"
        raise ConfigError(f"{path} is not UTF-8: {place}", "save it as UTF-8, as TOML has to be") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: tables or lists are nested too deeply", "no key of a configuration is") from error
    except ValueError as error:  # TOMLDecodeError is one; so is that of an integer of thousands of digits
        long = "a number has thousands of digits" if "set_int_max_str_digits" in str(error) else error
        raise ConfigError(f"{path}: not valid TOML: {long}") from error


def write_toml(config: Config) -> str:
    """The resolved configuration as TOML text; unset values are left out."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def explain(error: ValidationError, origin: str = "") -> ConfigError:
    """Pydantic's report as one line: the key, the file, what was expected or probably meant."""
    prefix = f"{origin}: " if origin else ""
    found: dict[str, list[str]] = {}  # what a key has -> what is wrong with it: an alternative a reason
    for what, why in map(_explain_one, error.errors(include_url=False)):
        found.setdefault(what, []).append(why)
    problems = [what + ", or ".join(dict.fromkeys(reasons)) for what, reasons in found.items()]
    more = f" · and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
    return ConfigError(prefix + " · ".join(problems[:MOST_PROBLEMS]) + more)


def check(layer: Layer) -> None:
    """Validate one layer by itself, so that a message can name the source of a bad value. Raises ConfigError."""
    try:
        Config.model_validate(layer.values)
    except ValidationError as error:
        raise explain(error, layer.origin) from None


def refuse_own(layer: Layer) -> None:
    """Raise ConfigError if `layer` chooses a part by a name that is not built in."""
    for section, kind in (("model", ModelConfig), ("train", TrainConfig)):
        for key, known in built_in_choices(kind).items():
            value = layer.values.get(section, {}).get(key)
            if value is not None and value not in known:
                prefix = f"{layer.origin}: " if layer.origin else ""
                what = f"{prefix}{section}.{key} = {quoted(value)} is not built in"
                raise ConfigError(what, f"{nearest(value, known)}; a part of your own needs extension = 'FILE.py'")


def _explain_one(item: Any) -> tuple[str, str]:
    """The key and its value, and what is wrong with it."""
    location = [str(part) for part in item["loc"]]
    key = ".".join(part for part in location if part in _known_names())
    if item["type"] == "extra_forbidden":
        name, parent = location[-1], location[:-1]
        own = sections()[parent[0]].model_fields if parent else {}
        fields = [key for key in own if key not in FILLED_IN] if parent else list(Config.model_fields)
        if location[:2] == ["data", "source"]:  # where a file name of the command line has become two keys
            remedy = f"{nearest(name, SourceConfig.model_fields)}; flags name a source by its number, as data.source.2"
            return f"unknown key {quoted('.'.join(location))}; ", remedy
        return f"unknown key {quoted('.'.join(location))}; ", nearest(name, fields)
    message = item["msg"].removeprefix("Value error, ")
    value, out_of_bounds = item["input"], item["type"].startswith(("greater_than", "less_than"))
    shown = value if out_of_bounds and isinstance(value, str) else quoted(value)  # a number as it was typed
    return f"{key or quoted('.'.join(location))} = {shown}: ", message[0].lower() + message[1:]


def sections() -> dict[str, type[Section]]:
    """The sections of a configuration, by name: all but the extension."""
    values = {name: getattr(Config(), name) for name in Config.model_fields}
    return {name: type(value) for name, value in values.items() if isinstance(value, Section)}


def _known_names() -> set[str]:
    return set(Config.model_fields).union(*(section.model_fields for section in sections().values()))


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`low` overlaid with `high`, section by section."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
