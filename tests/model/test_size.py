"""Parameters and FLOPs against the model itself and torch's FLOP counter."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from primegpt.config import ModelConfig, resolve
from primegpt.errors import ConfigError
from primegpt.model import size
from primegpt.model.gpt import GPT


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    """Small models of every switch, presets or not."""
    n_kv_head, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n_head, head_size = n_kv_head * group, draw(st.sampled_from([2, 4, 8]))
    return ModelConfig(
        vocab_size=draw(st.integers(1, 200)),
        block_size=draw(st.integers(2, 40)),
        n_layer=draw(st.integers(1, 3)),
        n_head=n_head,
        n_kv_head=draw(st.sampled_from([n_kv_head, None])),
        n_embd=n_head * head_size,
        head_dim=draw(st.sampled_from([None, 6])),
        intermediate_size=draw(st.none() | st.integers(1, 80)),
        bias=draw(st.booleans()),
        attention_bias=draw(st.sampled_from([None, "none", "qkv", "all"])),
        norm=draw(st.sampled_from(["layernorm", "rmsnorm"])),
        norm_gain=draw(st.booleans()),
        position=draw(st.sampled_from(["learned", "rope"])),
        mlp=draw(st.sampled_from(["gelu", "swiglu", "relu2"])),
        qk_norm=draw(st.booleans()),
        embedding_norm=draw(st.booleans()),
        tie_embeddings=draw(st.booleans()),
    )


def preset(name: str, **sizes: Any) -> ModelConfig:
    return resolve({"model": {"preset": name, **sizes}}).model


# ---- parameters


def part_of(name: str) -> str:
    """The part that a parameter belongs to, read off its name."""
    if name.startswith(("wte", "wpe")):
        return "embedding"
    if "ln_" in name or "_norm" in name:
        return "norms"
    return next(part for part, key in (("attention", "attn"), ("mlp", "mlp"), ("head", "lm_head")) if key in name)


@settings(max_examples=80)
@given(model_configs())
def test_parameters_are_those_of_the_model(config: ModelConfig) -> None:
    counted = dict.fromkeys(("embedding", "attention", "mlp", "norms", "head"), 0)
    for name, parameter in GPT(config).named_parameters():
        counted[part_of(name)] += parameter.numel()
    parameters = size.parameter_breakdown(config)
    assert vars(parameters) == counted
    assert size.parameter_count(config) == parameters.total == sum(counted.values())
    assert parameters.non_embedding == parameters.total - counted["embedding"] - counted["head"]


def test_published_sizes() -> None:
    """GPT-2's sizes as published, plus 47 rows that pad its vocabulary to 50,304; Qwen3-0.6B's as on its model card."""
    gpt2 = preset("gpt2", vocab_size=50257)
    xl = preset("gpt2", vocab_size=50257, n_layer=48, n_head=25, n_embd=1600)
    qwen3_sizes = {"n_layer": 28, "n_head": 16, "n_kv_head": 8, "head_dim": 128, "intermediate_size": 3072}
    qwen3 = preset("qwen3", vocab_size=151_936, n_embd=1024, **qwen3_sizes)
    assert size.parameter_count(gpt2) == 124_439_808 + 47 * 768
    assert size.parameter_count(xl) == 1_557_611_200 + 47 * 1600
    assert size.parameter_count(qwen3) == 596_049_920


def test_an_unset_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        size.parameter_count(ModelConfig())
    with pytest.raises(ConfigError, match="tokenizer"):
        size.flops_per_token(ModelConfig(), 8)


# ---- FLOPs


@settings(max_examples=25)
@given(model_configs(), st.integers(1, 3))
def test_flops_are_those_that_torch_counts(config: ModelConfig, B: int) -> None:
    """Every matrix product of a forward pass, and of a backward pass after it, with the attention as written."""
    model, T = GPT(config).use_attention("explicit"), config.block_size
    ids = torch.zeros(B, T, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        logits = model(ids)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward.get_total_flops() == B * T * size.forward_flops_per_token(config, T)
    assert forward.get_total_flops() + backward.get_total_flops() == B * T * size.flops_per_token(config, T)


# ---- the rest


def test_no_torch_is_imported() -> None:
    """`primegpt info` answers at once."""
    program = "import sys, primegpt.model.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1K"),
        (10_650_000, "10.65M"),
        (124_475_904, "124.5M"),
        (999_949, "999.9K"),
        (999_951, "1M"),
        (1_557_686_400, "1.558B"),
        (15e12, "15T"),
        (2.5e15, "2500T"),
    ],
)
def test_human_count(count: float, text: str) -> None:
    assert size.human_count(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (512, "512 B"), (999_600, "1 MB"), (1_210_000_000, "1.21 GB"), (24e9, "24 GB"), (3.5e15, "3500 TB")],
)
def test_human_bytes(count: float, text: str) -> None:
    assert size.human_bytes(count) == text
