"""config.json and generation_config.json of a Transformers folder, from and to our configuration.

A setting that would change the function and that we do not have is refused by name, never skipped.
"""

from collections.abc import Mapping
from typing import Any

from primegpt.config import GenerateConfig, ModelConfig, resolve
from primegpt.errors import ConfigError, UsageError, nearest
from primegpt.interop.families import FAMILIES, GPT2, LLAMA, QWEN3, Family
from primegpt.tokenizers.base import Tokenizer

ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
GPT2_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
MAX_SIZE = 2**31  # of any dimension: what is larger is not meant
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
    biases = {"attention_bias": c.bias, "mlp_bias": c.bias} if family is LLAMA else {"attention_bias": False}
    return common | {
        "max_position_embeddings": c.block_size,
        "hidden_size": c.n_embd,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_size,
        "intermediate_size": c.mlp_size,
        "rms_norm_eps": c.norm_eps,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "rope_theta": c.rope_theta,  # where Transformers looked before version 5
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        **biases,
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
            raise UsageError(f"{where} has {key}: {reason}", "only plain GPT-2, Qwen3 and Llama folders are imported")
    name = values.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UsageError(f"{where}: model_type = {name!r} cannot be imported", nearest(str(name), FAMILIES))
    family = FAMILIES[name]
    settings = _Settings(values, where)
    layer = _gpt2(settings) if family is GPT2 else _llama(settings, family)
    try:
        model = resolve({"model": {"preset": family.preset, **layer}}).model
    except ConfigError as error:
        raise UsageError(f"{where} describes no model that can be: {error}") from error
    assert not family.differences(model), family.differences(model)
    return family, model


def read_generation_settings(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Our [generate] section from a generation_config.json; what is not said there keeps our defaults."""
    found = {key: values[key] for key in ("max_new_tokens", "start_document") if values.get(key) is not None}
    if values.get("do_sample") is True:
        found |= {key: values[key] for key in ("temperature", "top_p") if values.get(key) is not None}
        if values.get("top_k") is not None:
            found["top_k"] = values["top_k"] or MAX_SIZE  # 0 there means all of them
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
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
            raise UsageError(f"{self.where}: {key} = {value!r} is not a size", "check the file")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UsageError(f"{self.where}: {key} = {value!r} is not a number", "check the file")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise UsageError(f"{self.where}: {key} = {value!r} is neither true nor false", "check the file")
        return value

    def require(self, key: str, default: Any, *allowed: Any) -> None:
        """Refuse a setting that changes the function to one that we do not have."""
        value = self.values.get(key, default)
        if value not in allowed:
            expected = " or ".join(repr(item) for item in allowed)
            raise UsageError(f"{self.where}: {key} = {value!r} is not supported", f"primegpt has {expected} only")


def _gpt2(settings: _Settings) -> dict[str, Any]:
    settings.require("activation_function", "gelu_new", "gelu_new", "gelu_pytorch_tanh")
    settings.require("scale_attn_weights", True, True)
    settings.require("scale_attn_by_inverse_layer_idx", False, False)
    settings.require("add_cross_attention", False, False)
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
    settings.require("hidden_act", "silu", "silu")
    settings.require("use_sliding_window", False, False)
    for kind in settings.values.get("layer_types") or []:
        if kind != "full_attention":
            what = f"{settings.where}: layer_types has {kind!r}, which is not supported"
            raise UsageError(what, "primegpt has full attention only")
    bias = settings.flag("attention_bias", False)
    if family is QWEN3:
        settings.require("attention_bias", False, False)
    elif settings.flag("mlp_bias", False) != bias:
        raise UsageError(f"{settings.where}: attention_bias and mlp_bias differ", "primegpt has both or neither")
    width, heads = settings.size("hidden_size"), settings.size("num_attention_heads")
    return {
        "vocab_size": settings.size("vocab_size"),
        "block_size": settings.size("max_position_embeddings"),
        "n_embd": width,
        "n_layer": settings.size("num_hidden_layers"),
        "n_head": heads,
        "n_kv_head": settings.size("num_key_value_heads", 32 if family is QWEN3 else heads),
        "head_dim": settings.size("head_dim", 128 if family is QWEN3 else max(1, width // heads)),
        "intermediate_size": settings.size("intermediate_size"),
        "norm_eps": settings.number("rms_norm_eps", 1e-6),
        "rope_theta": _rope_theta(settings),
        "bias": bias,
        "qk_norm": family is QWEN3,
        "tie_embeddings": settings.flag("tie_word_embeddings", False),
    }


def _rope_theta(settings: _Settings) -> float:
    """The base of the rotation. Any rescaling of it for longer contexts is another function, and is refused."""
    base = settings.number("rope_theta", 10000.0)
    for key in ("rope_parameters", "rope_scaling"):
        rope = settings.values.get(key) or {}
        if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type", "default")) != "default":
            kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, Mapping) else rope
            what = f"{settings.where}: {key} asks for {kind!r} rotary positions, which are not supported"
            raise UsageError(what, "primegpt has plain ones only")
        inner = _Settings(rope, f"{settings.where}, {key}")
        inner.require("partial_rotary_factor", 1.0, 1.0, None)
        for unknown in rope.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}:
            raise UsageError(f"{inner.where}: {unknown} is not supported", "primegpt has plain rotary positions only")
        base = inner.number("rope_theta", base)
    settings.require("partial_rotary_factor", 1.0, 1.0, None)
    return base
