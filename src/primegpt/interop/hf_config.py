"""config.json and generation_config.json of a Transformers folder, from and to our configuration.

A setting that would change the function and that we do not have is refused by name, never skipped.
"""

from collections.abc import Mapping
from typing import Any

from primegpt.config import GenerateConfig, ModelConfig, resolve
from primegpt.errors import ConfigError, UsageError, nearest, quoted
from primegpt.interop.families import FAMILIES, GPT2, LLAMA, MISTRAL, NANOCHAT, QWEN2, QWEN3, Family
from primegpt.tokenizers.base import Tokenizer

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "nanochat": "NanoChatForCausalLM",
}
GPT2_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh")  # names of one function
WINDOW = 4096  # how far attention slides where a file says only that it does
ROPE_KEYS = {  # rope_type there -> its settings, and ours
    "default": {},
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
        "original_max_position_embeddings": "rope_original_context",
    },
}
REFUSED_KEYS = {
    "auto_map": "it asks for code of its own to be run",
    "quantization_config": "its weights are quantized",
    "custom_pipelines": "it asks for code of its own to be run",
}


# Out


def model_settings(config: ModelConfig, family: Family, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json for a model of that family."""
    c, end = config, tokenizer.eot_id
    common = {
        "architectures": [ARCHITECTURES[family.name]],
        "model_type": family.name,
        "dtype": "float32",
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_embeddings,
        "bos_token_id": end if tokenizer.bos_id is None else tokenizer.bos_id,
        "eos_token_id": end,
        "pad_token_id": end if tokenizer.pad_id is None else tokenizer.pad_id,
        "use_cache": True,
    }
    if family is GPT2:
        return common | {
            "n_positions": c.block_size,
            "n_embd": c.n_embd,
            "n_layer": c.n_layer,
            "n_head": c.n_head,
            "n_inner": c.mlp_size,
            "layer_norm_epsilon": c.norm_eps,
            "activation_function": "gelu_new",
            **dict.fromkeys(GPT2_DROPOUTS, c.dropout),
        }
    own: dict[str, Any] = {"hidden_act": "relu2" if family is NANOCHAT else "silu"}
    if family.attention_bias is None:
        own["attention_bias"] = c.biased_attention == "all"
    if family is LLAMA:
        own["mlp_bias"] = c.bias
    elif family is NANOCHAT:
        own["final_logit_softcapping"] = c.logit_softcap
    elif family is MISTRAL:
        own["sliding_window"] = None
    rope = {"rope_type": c.rope_type, **{key: getattr(c, name) for key, name in ROPE_KEYS[c.rope_type].items()}}
    if c.rope_type != "default":
        own["rope_scaling"] = rope  # where Transformers looked before version 5, as for rope_theta
    return common | {
        "max_position_embeddings": c.block_size,
        "hidden_size": c.n_embd,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_size,
        "intermediate_size": c.mlp_size,
        "rms_norm_eps": c.norm_eps,
        "attention_dropout": 0.0,
        "rope_theta": c.rope_theta,
        "rope_parameters": {**rope, "rope_theta": c.rope_theta},
        **own,
    }


def generation_settings(settings: GenerateConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json: the run's defaults under Transformers' names."""
    end = tokenizer.eot_id
    found: dict[str, Any] = {
        "bos_token_id": end if tokenizer.bos_id is None else tokenizer.bos_id,
        "eos_token_id": end,
        "pad_token_id": end if tokenizer.pad_id is None else tokenizer.pad_id,
        "max_new_tokens": settings.max_new_tokens,
        "do_sample": settings.temperature > 0,
    }
    if settings.temperature > 0:
        every = settings.top_k >= tokenizer.vocab_size
        top_k = 0 if every else settings.top_k  # unsaid, Transformers would take 50
        found |= {"temperature": settings.temperature, "top_k": top_k, "top_p": settings.top_p}
        found |= {"min_p": settings.min_p} if settings.min_p > 0 else {}
    if settings.repetition_penalty != 1:
        found["repetition_penalty"] = settings.repetition_penalty
    if settings.start_document is not None:
        found["start_document"] = settings.start_document  # nothing to Transformers; ours on the way back
    return found


# In


def read_model_settings(values: Mapping[str, Any], where: str) -> tuple[Family, ModelConfig]:
    """The family and the model that a config.json describes; `where` names the file in errors.

    Raises UsageError for an architecture or a setting that we do not have, or a size that cannot be.
    """
    for key, reason in REFUSED_KEYS.items():
        if values.get(key):
            raise UsageError(f"{where} has {key}: {reason}", "only plain weights are imported")
    name = values.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        asked = name if isinstance(name, str) else ""
        raise UsageError(f"{where}: model_type = {quoted(name)} cannot be imported", nearest(asked, FAMILIES))
    family = FAMILIES[name]
    settings = _Settings(values, where)
    layer = _gpt2(settings) if family is GPT2 else _llama(settings, family)
    try:
        model = resolve({"model": {"preset": family.preset, **layer}}).model
    except ConfigError as error:
        raise UsageError(f"{where} describes no model that can be: {error}") from error
    if differences := family.differences(model):
        raise UsageError(f"{where} describes no {family.title}: {', '.join(differences)}", "check the file")
    return family, model


_ALWAYS = ("max_new_tokens", "repetition_penalty", "start_document")  # settings that have the same names here
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")  # and those that count where tokens are drawn


def read_generation_settings(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Our [generate] section from a generation_config.json; what is not said there keeps our defaults."""
    settings = _Settings(values, where)
    found = {key: values[key] for key in _ALWAYS if values.get(key) is not None}
    if settings.flag("do_sample", False):
        found |= {key: values[key] for key in _SAMPLING if values.get(key) is not None}
    elif values.get("do_sample") is False:
        found["temperature"] = 0.0
    try:
        resolve({"generate": found})
    except ConfigError as error:
        raise UsageError(f"{where}: {error}") from error
    return found


class _Settings:
    """Typed access to a config.json of unknown origin."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def size(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{self.where}: {key} = {quoted(value)} is not a size", "check the file")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:  # NaN is not
            raise UsageError(f"{self.where}: {key} = {quoted(value)} is not a number", "check the file")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise UsageError(f"{self.where}: {key} = {quoted(value)} is neither true nor false", "check the file")
        return value

    def require(self, key: str, default: Any, *allowed: Any) -> None:
        """Refuse a setting that changes the function to one that we do not have."""
        value = self.values.get(key, default)
        if value not in allowed:
            expected = " or ".join(repr(item) for item in allowed)
            raise UsageError(f"{self.where}: {key} = {quoted(value)} is not supported", f"primegpt has {expected} only")


def _gpt2(settings: _Settings) -> dict[str, Any]:
    settings.require("activation_function", "gelu_new", *GELUS)
    settings.require("scale_attn_weights", True, True)
    settings.require("scale_attn_by_inverse_layer_idx", False, False)
    settings.require("add_cross_attention", False, False)
    settings.require("is_causal", True, True)
    width = settings.size("n_embd")
    dropouts = {settings.number(key, 0.1) for key in GPT2_DROPOUTS}
    return {
        "vocab_size": settings.size("vocab_size"),
        "block_size": settings.size("n_positions"),
        "n_embd": width,
        "n_layer": settings.size("n_layer"),
        "n_head": settings.size("n_head"),
        "intermediate_size": settings.size("n_inner", 4 * width),
        "norm_eps": settings.number("layer_norm_epsilon", 1e-5),
        "dropout": dropouts.pop() if len(dropouts) == 1 else 0.0,
        "tie_embeddings": settings.flag("tie_word_embeddings", True),
    }


def _llama(settings: _Settings, family: Family) -> dict[str, Any]:
    activation = "relu2" if family is NANOCHAT else "silu"
    settings.require("hidden_act", activation, activation)
    settings.require("partial_rotary_factor", 1.0, 1.0, None)
    settings.require("is_causal", True, True)
    width, heads = settings.size("hidden_size"), settings.size("num_attention_heads")
    mlp_bias = family is LLAMA and settings.flag("mlp_bias", False)
    decided = family.attention_bias is None  # by the file, else by the family
    biased = "all" if decided and settings.flag("attention_bias", False) else family.attention_bias or "none"
    return {
        "vocab_size": settings.size("vocab_size"),
        "block_size": _context(settings, family),
        "n_embd": width,
        "n_layer": settings.size("num_hidden_layers"),
        "n_head": heads,
        "n_kv_head": settings.size("num_key_value_heads", _kv_heads(settings, family, heads)),
        "head_dim": settings.size("head_dim", 128 if family is QWEN3 else max(1, width // heads)),
        "intermediate_size": settings.size("intermediate_size"),
        "norm_eps": settings.number("rms_norm_eps", 1e-6),
        **_rope(settings),
        "bias": mlp_bias,
        "attention_bias": None if biased == ("all" if mlp_bias else "none") else biased,
        "logit_softcap": _softcap(settings) if family is NANOCHAT else None,
        "tie_embeddings": settings.flag("tie_word_embeddings", False),
    }


_KV_HEADS = {"qwen2": 32, "qwen3": 32, "mistral": 8}  # where a file does not say


def _kv_heads(settings: _Settings, family: Family, heads: int) -> int:
    """Heads of keys and values where no number is given: null is as many as of queries, nothing what the class has."""
    return heads if "num_key_value_heads" in settings.values else _KV_HEADS.get(family.name, heads)


def _context(settings: _Settings, family: Family) -> int:
    """The positions that attend to all before them. Where attention slides, none beyond the window does."""
    longest = settings.size("max_position_embeddings")
    slides = family is MISTRAL
    if family in (QWEN2, QWEN3):
        slides = settings.flag("use_sliding_window", False)
    else:
        settings.require("use_sliding_window", False, False)
    slides = slides and settings.values.get("sliding_window", WINDOW) is not None
    kinds = settings.values.get("layer_types")
    for kind in kinds if isinstance(kinds, list) else [] if kinds is None else [kinds]:
        if kind != "full_attention" and not (slides and kind == "sliding_attention"):
            what = f"{settings.where}: layer_types has {quoted(kind)}, which is not supported"
            raise UsageError(what, "primegpt has full attention only")
    return min(longest, settings.size("sliding_window", WINDOW)) if slides else longest


def _softcap(settings: _Settings) -> float | None:
    """Where nothing is said NanoChat has one; null is none."""
    asked = settings.values.get("final_logit_softcapping", 15.0)
    return None if asked is None else settings.number("final_logit_softcapping", 15.0)


def _rope(settings: _Settings) -> dict[str, Any]:
    """How positions turn. A stretch that we do not have is another function, and is refused."""
    base = settings.number("rope_theta", 10000.0)
    found: dict[str, Any] = {"rope_theta": base}
    for key in ("rope_parameters", "rope_scaling"):  # of both the last one counts, base and all
        if rope := settings.values.get(key):
            kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, Mapping) else rope
            if not isinstance(kind, str) or kind not in ROPE_KEYS:
                what = f"{settings.where}: {key} asks for {quoted(kind)} rotary positions, which are not supported"
                raise UsageError(what, f"primegpt has {', '.join(ROPE_KEYS)}")
            inner = _Settings(rope, f"{settings.where}, {key}")
            found = {"rope_theta": inner.number("rope_theta", base), **_stretch(inner, kind, settings)}
    return found


def _stretch(rope: _Settings, kind: str, settings: _Settings) -> dict[str, Any]:
    rope.require("partial_rotary_factor", 1.0, 1.0, None)
    for unknown in rope.values.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor", *ROPE_KEYS[kind]}:
        raise UsageError(f"{rope.where}: {quoted(unknown)} is not supported", "the function would be another one")
    found: dict[str, Any] = {"rope_type": kind}
    for theirs, ours in ROPE_KEYS[kind].items():
        if theirs == "original_max_position_embeddings":  # beside `rope` it counts for more than in it
            found[ours] = settings.size(theirs, rope.size(theirs, settings.size("max_position_embeddings")))
        elif rope.values.get(theirs) is None:
            raise UsageError(f"{rope.where} has no {theirs}", "check the file")
        else:
            found[ours] = rope.number(theirs, 1.0)
    return found
