"""What is to be trained: the configuration that texts or a recipe, and flags, ask for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primegpt.config import Config, Layer, preset_name, read_toml, resolve
from primegpt.data.sources import source_bytes
from primegpt.errors import ConfigError
from primegpt.training.precision import choose_device
from primegpt.training.recipe import recipe as zero_config
from primegpt.training.recipe import tuned


def configure(sources: Sequence[str | Config], flags: Layer) -> Config:
    """The configuration that `sources` and command-line `flags` ask for; a bare text gets the zero-config recipe."""
    if recipe := written_recipe(sources):
        return resolve(recipe, flags)
    texts = texts_to_read(sources, flags)
    model, train = flags.values.get("model", {}), flags.values.get("train", {})
    device = choose_device(train.get("device", "auto"))
    data = resolve(flags, texts, recipe={"model": {"n_head": 1}}).data  # refuses bad flags before the text is looked at
    preset = preset_name({"model": {"preset": "prime"}}, flags)
    size, records = source_bytes(data.sources, songs=data.songs), data.template != "text"
    recipe = zero_config(size, device, train.get("minutes"), preset, records=records, width=model.get("n_embd"))
    as_measured = device == "cpu" and preset == "prime" and train.get("optimizer", "muon") == "muon"
    as_measured &= "learning_rate" not in train  # whoever asks for one means the head's too
    config = resolve(flags, texts, recipe=recipe)
    return resolve(tuned(config), flags, texts, recipe=recipe) if as_measured else config


def written_recipe(sources: Sequence[str | Config]) -> Layer | None:
    """What `sources` ask for if they are one configuration, or one .toml file of it; None for texts."""
    if len(sources) == 1 and isinstance(sources[0], Config):
        return Layer(sources[0].model_dump(exclude_unset=True))
    files = [str(source) for source in sources if str(source).endswith(".toml")]
    if files and len(sources) > 1:
        raise ConfigError(f"{files[0]} stands beside other sources", "name texts in its [data] sources instead")
    return read_toml(files[0]) if files else None


def texts_to_read(sources: Sequence[str | Config], flags: Layer) -> Layer:
    """The texts named as sources and by --data.sources. Raises ConfigError if there is none."""
    texts = [*map(str, sources), *flags.values.get("data", {}).get("sources", ())]
    if not texts:
        raise ConfigError("no text to train on", "name a file, a folder, or `songbook`")
    return Layer({"data": {"sources": texts}})


def with_minutes(settings: Mapping[str, Mapping[str, Any]], minutes: float | None) -> dict[str, Any]:
    """`settings` with `minutes` as the budget, where they are given."""
    merged = {section: dict(values) for section, values in settings.items()}
    if minutes is not None:
        merged.setdefault("train", {})["minutes"] = minutes
    return merged


def run_name(config: Config) -> str:
    """The name of a run folder: its first source's, without what a file system or a shell could stumble over."""
    stem = Path(config.data.sources[0]).stem if config.data.sources else "run"
    return "".join(c if c.isalnum() or c in "._" else "-" for c in stem).strip("-.") or "run"
