"""Models in the configurations of known ones, with random weights: Transformers' logits are ours.

They have two blocks here and a small vocabulary, else all of their sizes; PRIMEGPT_WHOLE_MODELS=1 gives them all blocks
and ids, which takes minutes for each and up to 12 GB.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from primegpt import api
from primegpt.model.cache import KVCache
from primegpt.model.gpt import rotary_frequencies, rotary_table
from primegpt.tokenizers import store
from primegpt.tokenizers.char import CharTokenizer

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

WHOLE = bool(os.environ.get("PRIMEGPT_WHOLE_MODELS"))
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
STRETCHED = LLAMA3 | {"factor": 7.0, "original_max_position_embeddings": 64}


def llama(model_type: str, width: int, inner: int, layers: int, heads: int, kv: int, V: int, T: int, **more) -> dict:
    return {
        "model_type": model_type, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": V, "max_position_embeddings": T, **more,
    }  # fmt: skip


def rope(theta: float, **stretch: object) -> dict:
    return {"rope_parameters": {"rope_type": "default", **stretch, "rope_theta": theta}}


KNOWN = {
    "SmolLM2-135M": llama(
        "llama", 576, 1536, 30, 9, 3, 49152, 8192, rms_norm_eps=1e-5, tie_word_embeddings=True, **rope(1e5)
    ),
    "Qwen2.5-0.5B": llama("qwen2", 896, 4864, 24, 14, 2, 151936, 32768, tie_word_embeddings=True, **rope(1e6)),
    "Qwen3-0.6B": llama(
        "qwen3", 1024, 3072, 28, 16, 8, 151936, 40960, head_dim=128, tie_word_embeddings=True, **rope(1e6)
    ),
    "Llama-3.2-1B": llama(
        "llama", 2048, 8192, 16, 32, 8, 128256, 131072, head_dim=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
        **rope(5e5, original_max_position_embeddings=8192, **LLAMA3),
    ),
    "TinyLlama-1.1B": llama("llama", 2048, 5632, 22, 32, 4, 32000, 2048, rms_norm_eps=1e-5, **rope(1e4)),
    "Mistral-7B, an eighth": llama(
        "mistral", 1024, 3584, 8, 8, 2, 32000, 32768, head_dim=128, rms_norm_eps=1e-5, sliding_window=4096, **rope(1e4)
    ),
    "nanochat d12": llama("nanochat", 768, 3072, 12, 6, 6, 65536, 2048, **rope(1e4)),
    "distilgpt2": {"model_type": "gpt2", "n_layer": 6, "vocab_size": 50257},
    "biases in attention": llama(
        "llama", 64, 96, 2, 4, 2, 512, 256, attention_bias=True, **rope(1e4, rope_type="linear", factor=3.0)
    ),
    "qwen3 with biases": llama("qwen3", 64, 96, 2, 4, 2, 512, 256, attention_bias=True, **rope(1e4, **STRETCHED)),
    "a head of its own": {
        "model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "n_inner": 100, "vocab_size": 512,
        "activation_function": "gelu_fast", "tie_word_embeddings": False,
    },
}  # fmt: skip
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MEASURED = """
import re, sys, time
import torch
from primegpt import api
from primegpt.interop import gguf_import, huggingface
def peak():  # ru_maxrss would count what the process before this one held
    return 1024 * int(re.search(r"VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())[1])
base, start = peak(), time.monotonic()
api.import_model(sys.argv[1], sys.argv[2], say=lambda line: None)
print(time.monotonic() - start, peak() - base)
"""


def config_of(name: str) -> "transformers.PretrainedConfig":
    values = dict(KNOWN[name])
    if not WHOLE:
        layers = "n_layer" if values["model_type"] == "gpt2" else "num_hidden_layers"
        values |= {"vocab_size": 512, layers: 2}
    return transformers.AutoConfig.for_model(**values)


def save_theirs(name: str, folder: Path, dtype: torch.dtype, tokenizer: CharTokenizer) -> None:
    """A model of that configuration in which attention matters, norms and biases too; in shards."""
    config = config_of(name)
    generator = torch.Generator().manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    for key, parameter in theirs.named_parameters():
        if parameter.dim() == 1:
            parameter.normal_(float(key.endswith("weight")), 0.2, generator=generator)
        else:
            loud = 2.0 if any(part in key for part in ("q_proj", "k_proj")) else 1.0
            table = any(part in key for part in ("embed", "wte", "wpe", "lm_head"))
            std = 0.05 if table else loud * max(parameter.shape) ** -0.5
            parameter.normal_(0.0, std, generator=generator)
    theirs.save_pretrained(folder, max_shard_size="1GB" if WHOLE else "10MB")
    store.save(tokenizer, folder)


def letters(count: int) -> CharTokenizer:
    """A tokenizer with `count` ids."""
    kept = [i for i in range(0x100, 0x100 + count + 4096) if not 0xD800 <= i < 0xE000]
    return CharTokenizer(map(chr, kept[: count - CharTokenizer("a").vocab_size + 1]))


@torch.inference_mode()
def their_logits(folder: Path, ids: torch.Tensor, starts: list[int]) -> list[torch.Tensor]:
    """Logits of `ids` as they stand from each start on; at once, and with a cache in two parts."""
    theirs, found = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), []
    for start in starts:
        at = positions(start, ids.size(1))
        whole = theirs(ids, position_ids=at).logits
        first = theirs(ids[:, :30], position_ids=at[:, :30], use_cache=True)
        second = theirs(ids[:, 30:], position_ids=at[:, 30:], past_key_values=first.past_key_values).logits
        torch.testing.assert_close(torch.cat((first.logits, second), 1), whole, atol=1e-4, rtol=0)
        found.append(whole)
    return found


def positions(start: int, T: int) -> torch.Tensor:
    return torch.arange(start, start + T).unsqueeze(0)


@pytest.mark.parametrize("name", KNOWN)
@torch.inference_mode()
def test_a_known_configuration_gives_the_same_logits(name, tmp_path):
    dtype = DTYPES[list(KNOWN).index(name) % 3]
    tokenizer = letters(config_of(name).vocab_size)
    save_theirs(name, tmp_path / "theirs", dtype, tokenizer)
    arguments = [sys.executable, "-c", MEASURED, str(tmp_path / "theirs"), str(tmp_path / "run")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, memory = map(float, done.stdout.split())
    ids = torch.randint(tokenizer.vocab_size, (1, 48), generator=torch.Generator().manual_seed(1))
    opened = api.load(tmp_path / "run", device="cpu")
    model, config = opened.model, opened.config.model
    starts = [0, config.block_size // 2, config.block_size - ids.size(1)]
    expected = their_logits(tmp_path / "theirs", ids, starts)
    largest = max(weight.numel() for weight in model.weights().values()) * 4
    print(f"{name}: {dtype}, {seconds:.0f} s, {memory / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB", end="")
    assert memory < 3 * largest + 2e8
    own = model.rotary
    for start, theirs in zip(starts, expected, strict=True):
        model.rotary = own
        theirs = theirs[..., : tokenizer.vocab_size]
        if start and config.position == "rope" and config.rope_type == "default":
            far = (model(ids, positions=positions(start, ids.size(1))) - theirs).abs().max()
            print(f"; with our own frequencies {far:.1e}", end="")
            assert far < 5e-3  # a third of them differs in the last bit, and a far position magnifies it
            model.rotary = rotary_table(config.model_copy(update={"rope_type": "linear", "rope_factor": 1.0}))
        ours = model(ids, positions=positions(start, ids.size(1)))
        cache = KVCache(config, 1, ids.size(1))
        parts = [model(ids[:, a:b], positions=positions(start + a, b - a), cache=cache) for a, b in ((0, 30), (30, 48))]
        assert theirs.std() > 0.3
        print(f"; from {start}: {(ours - theirs).abs().max():.1e} of {theirs.std():.1f}", end="")
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.cat(parts, 1), theirs, atol=1e-4, rtol=0)
    print()


@pytest.mark.parametrize("name", ["Qwen2.5-0.5B", "biases in attention", "qwen3 with biases", "Mistral-7B, an eighth"])
@torch.inference_mode()
def test_what_came_in_goes_back_out_as_what_it_was(name, tmp_path):
    tokenizer = letters(512)
    save_theirs(name, tmp_path / "theirs", torch.float32, tokenizer)
    api.import_model(tmp_path / "theirs", tmp_path / "run", say=lambda line: None)
    api.export(tmp_path / "run", tmp_path / "back", say=lambda line: None)
    before, after = (transformers.AutoModelForCausalLM.from_pretrained(tmp_path / at) for at in ("theirs", "back"))
    assert type(before) is type(after)
    ids = torch.randint(512, (1, 48))
    assert after.config.rope_parameters == before.config.rope_parameters
    assert torch.equal(before(ids).logits, after(ids).logits)


def test_frequencies_are_theirs_to_the_bit(random_model):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    sizes = {"head_dim": 64, "rope_theta": 5e5, "rope_type": "llama3", "rope_factor": 32.0}
    ours = rotary_frequencies(random_model("llama", **sizes).config)
    config = transformers.AutoConfig.for_model(**KNOWN["Llama-3.2-1B"])
    assert torch.equal(ours, ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0])
