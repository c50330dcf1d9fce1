"""Which settings matter only under others, so that none is accepted and then ignored.

Asked is only what the user says in this command: its flags, or a file of their own. A preset, a recipe chosen by the
program or the saved configuration of a run sets keys that do not matter, and no harm is done.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from primegpt.config.layers import Config, Layer, Settings, check
from primegpt.config.sections import PREFERENCES, SAMPLING, ReinforceConfig
from primegpt.errors import ConfigError, quoted


class Condition(NamedTuple):
    """What has to hold for a key to matter, as a test and in words."""

    holds: Callable[[Config], bool]
    words: str


def _is(key: str, *values: object) -> Condition:
    """That `section.key` has one of `values`."""
    section, name = key.split(".")
    words = " or ".join(f"{value!r}" for value in values).replace("'", '"')
    return Condition(lambda config: getattr(getattr(config, section), name) in values, f"{key} = {words}")


_SONGS, _PROMPTS = _is("data.template", "song"), _is("data.template", "song", "response")
_LABELS, _ASKED = _is("data.template", "song", "preference"), _is("data.template", "song", "response", "preference")
_TEXT = _is("data.template", "text")
_SOME_TEXT = Condition(
    lambda config: any(config.data.of(n).template == "text" for n in range(len(config.data.sources) or 1)), _TEXT.words
)
_SAMPLING = Condition(lambda config: config.generate.num_beams == 1, "sampling (generate.num_beams = 1)")
_BEAMS = Condition(lambda config: config.generate.num_beams > 1, "beam search (generate.num_beams above 1)")
_REWARDS = Condition(lambda config: config.reinforce.on, "rewards (`primegpt reinforce --reward`)")
_ADAPTERS = Condition(lambda config: config.lora.rank > 0, "adapters (--lora, or lora.rank above 0)")

CONDITIONS: dict[str, Condition] = {
    "model.rope_theta": _is("model.position", "rope"),
    "model.rope_type": _is("model.position", "rope"),
    "model.rope_factor": _is("model.rope_type", "linear", "llama3"),
    **{
        f"model.rope_{name}": _is("model.rope_type", "llama3")
        for name in ("low_freq_factor", "high_freq_factor", "original_context")
    },
    "tokenizer.vocab_size": Condition(
        lambda config: bool(config.tokenizer.path) or config.tokenizer.facts.learnt,
        "a tokenizer that is learnt (tokenizer.kind)",
    ),
    "data.weights": Condition(lambda config: len(config.data.sources) != 1, "several sources"),
    "data.text_field": _SOME_TEXT,
    "data.songs": Condition(lambda config: "songbook" in config.data.sources, "the source `songbook`"),
    "data.similarity": _is("data.duplicates", "near"),
    "data.stride": _TEXT,
    "data.isolate_documents": _TEXT,
    "data.prompt_field": _ASKED,
    "data.response_field": _PROMPTS,
    **{f"data.{name}": _LABELS for name in ("genre_field", "emotion_field", "genre", "emotion", "structure")},
    "data.prompt_dropout": _PROMPTS,
    "data.drop_labels": _SONGS,
    "data.pack": _is("data.template", "song", "response", "chat"),
    "data.mask_prompt": _is("data.template", "song", "response", "chat"),
    "train.beta": _is("train.objective", *PREFERENCES),
    "train.label_smoothing": _is("train.objective", "dpo", "simpo"),
    "train.simpo_gamma": _is("train.objective", "simpo"),
    "train.sft_weight": _is("train.objective", *PREFERENCES),
    "train.muon_learning_rate": _is("train.optimizer", "muon"),
    "train.head_learning_rate": Condition(
        lambda config: not config.model.tie_embeddings and not config.lora.rank,
        "a head that learns by itself (model.tie_embeddings = false, and no adapters)",
    ),
    "train.min_lr": Condition(
        lambda config: config.train.schedule != "constant", 'train.schedule = "cosine" or "linear" or "wsd"'
    ),
    "train.early_evaluations": Condition(lambda config: not config.reinforce.on, "training on text (no rewards)"),
    "train.average": Condition(
        lambda config: not config.lora.rank and not config.reinforce.on,
        "training all weights, on text (no adapters, no rewards)",
    ),
    **dict.fromkeys(("lora.alpha", "lora.dropout", "lora.targets"), _ADAPTERS),
    **{f"reinforce.{name}": _REWARDS for name in ReinforceConfig.model_fields if name != "reward"},
    "reinforce.use_bias_correction_kl": Condition(lambda config: config.reinforce.beta > 0, "reinforce.beta above 0"),
    **dict.fromkeys(("generate.length_penalty", "generate.early_stopping"), _BEAMS),
    "generate.start_document": _TEXT,
    **{f"generate.{name}": _SAMPLING for name in SAMPLING},
}


def refuse_idle(said: Layer, config: Config) -> None:
    """Raise ConfigError, in one line, if `said` sets a key that does not matter in `config`, which has it too."""
    if "plan" in said.values:  # the configuration that a run has saved, which sets everything
        return
    idle = [
        f"{shown} = {value!r} has no effect without {CONDITIONS[key].words}"
        for shown, key, value, where in _asked(said, config)
        if key in CONDITIONS and not CONDITIONS[key].holds(where)
    ]
    if idle:
        prefix = f"{said.origin}: " if said.origin else ""
        raise ConfigError(prefix + " · ".join(idle), "leave it out, or set both")


def refuse_all_but(wanted: Iterable[str], settings: Settings, remedy: str) -> None:
    """Raise ConfigError for a setting that a command has no use for; `wanted` are keys, or sections."""
    wanted = set(wanted)
    check(Layer(settings))
    for key, value in _keys(Layer(settings)):
        if not {key, key.partition(".")[0]} & wanted:
            raise ConfigError(f"{key} = {quoted(value)} has no effect here", remedy)


def _asked(said: Layer, config: Config) -> Iterator[tuple[str, str, Any, Config]]:
    """What is asked for: how it is spelt, its key, its value, and the configuration that it stands in."""
    for key, value in _keys(said):
        yield key, key, value, config
    for name, own in said.values.get("data", {}).get("source", {}).items():
        set_here = {key: value for key, value in config.data.source[name] if value}  # whose source others may name
        data = config.data.model_copy(update=set_here | {"source": {}})
        for key, value in own.items():
            yield f"data.source.{name}.{key}", f"data.{key}", value, config.model_copy(update={"data": data})


def _keys(layer: Layer) -> Iterator[tuple[str, Any]]:
    for section, values in layer.values.items():
        if not isinstance(values, Mapping):  # the extension
            if values is not None:
                yield section, values
            continue
        for name, value in values.items():
            if value is not None:
                yield f"{section}.{name}", value
