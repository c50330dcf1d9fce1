"""The same weights give the same logits, the same rules keep the same tokens, and both write the same text."""

import pytest
import torch
from torch import Tensor

from primegpt.config import GenerateConfig, resolve
from primegpt.generation.generator import Generator
from primegpt.generation.logits import filtered
from primegpt.model.gpt import GPT

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

GPT2_SHAPES = [
    {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48, "vocab_size": 101},
    {"n_layer": 3, "n_head": 2, "n_embd": 24, "block_size": 33, "vocab_size": 128, "intermediate_size": 40},
    {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 20, "vocab_size": 65},
]
QWEN3_SHAPES = [
    {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48, "vocab_size": 101},
    {"n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "head_dim": 16, "block_size": 64, "vocab_size": 80},
    {"n_layer": 2, "n_head": 6, "n_kv_head": 1, "n_embd": 24, "head_dim": 10, "intermediate_size": 50,
     "block_size": 40, "vocab_size": 70, "rope_theta": 1e6, "tie_embeddings": False},
]  # fmt: skip


def randomised(model: GPT) -> GPT:
    """Every weight N(0, 0.2), gains N(1, 0.2)."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = parameter.dim() == 1 and name.endswith("weight")
            parameter.normal_(float(gain), 0.2, generator=generator)
    return model.eval()


def gpt2_twin(model: GPT) -> torch.nn.Module:
    """Transformers' GPT-2 with the weights of `model`; theirs stores matrices transposed."""
    c = model.config
    twin = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head,
            n_inner=c.mlp_size, layer_norm_epsilon=c.norm_eps, bos_token_id=0, eos_token_id=None,
        )
    )  # fmt: skip
    weights = model.weights()
    weights["wte.weight"] = weights["wte.weight"][: c.vocab_size]
    theirs = {f"transformer.{name}": w.T if "c_" in name and w.dim() == 2 else w for name, w in weights.items()}
    return loaded(twin, theirs | {"lm_head.weight": weights["wte.weight"]})


def qwen3_twin(model: GPT) -> torch.nn.Module:
    """Transformers' Qwen3 with the weights of `model`; theirs keeps query, key and value projections apart."""
    c = model.config
    twin = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=c.vocab_size, hidden_size=c.n_embd, intermediate_size=c.mlp_size, num_hidden_layers=c.n_layer,
            num_attention_heads=c.n_head, num_key_value_heads=c.kv_heads, head_dim=c.head_size,
            max_position_embeddings=c.block_size, rms_norm_eps=c.norm_eps, tie_word_embeddings=c.tie_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
            bos_token_id=0, eos_token_id=None,
        )
    )  # fmt: skip
    weights = model.weights()
    embedding = weights["wte.weight"][: c.vocab_size]
    head = weights["lm_head.weight"][: c.vocab_size] if "lm_head.weight" in weights else embedding
    theirs = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": head,
        "model.norm.weight": weights["ln_f.weight"],
    }
    names = {
        "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "attn.c_proj": "self_attn.o_proj",
        "attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm",
        "mlp.c_gate": "mlp.gate_proj", "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj",
    }  # fmt: skip
    for layer in range(c.n_layer):
        ours, other = f"h.{layer}.", f"model.layers.{layer}."
        theirs |= {f"{other}{new}.weight": weights[f"{ours}{old}.weight"] for old, new in names.items()}
        sizes = [heads * c.head_size for heads in (c.n_head, c.kv_heads, c.kv_heads)]
        for kind, part in zip("qkv", weights[f"{ours}attn.c_attn.weight"].split(sizes), strict=True):
            theirs[f"{other}self_attn.{kind}_proj.weight"] = part
    return loaded(twin, theirs)


def loaded(twin: torch.nn.Module, weights: dict[str, Tensor]) -> torch.nn.Module:
    """`twin` with exactly `weights`: none missing, none unexpected."""
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not [name for name in missing if not name.endswith((".attn.bias", ".masked_bias"))]
    return twin.eval()


TWINS = [("gpt2", shape, gpt2_twin) for shape in GPT2_SHAPES] + [("qwen3", shape, qwen3_twin) for shape in QWEN3_SHAPES]


@pytest.mark.parametrize(("preset", "shape", "twin"), TWINS)
@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@torch.inference_mode()
def test_logits_are_theirs(preset: str, shape: dict, twin, kernel: str) -> None:
    model = randomised(GPT(resolve({"model": {"preset": preset, **shape}}).model)).use_attention(kernel)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (3, model.config.block_size), generator=generator)
    ours, theirs = model(ids), twin(model)(ids).logits
    assert ours.std() > 0.3  # not trivially equal
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


class Ids:
    """A tokenizer of bare ids, none of them special but an end of text that the model lacks a use for."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.eot_id = vocab_size, -1
        self.special_tokens, self.special_kinds = {}, {}

    def decode_bytes(self, ids: list[int]) -> bytes:
        return "".join(f"{id} " for id in ids).encode()

    def decode(self, ids: list[int]) -> str:
        return self.decode_bytes(ids).decode()

    def encode(self, text: str) -> list[int]:
        return [int(id) for id in text.split() if id.isdigit()]


@pytest.mark.parametrize(("preset", "shape", "twin"), TWINS)
def test_greedy_text_is_theirs(preset: str, shape: dict, twin) -> None:
    model = randomised(GPT(resolve({"model": {"preset": preset, **shape}}).model))
    prompt, n = [3, 1, 4, 1, 5], model.config.block_size - 5
    (ours,) = Generator(model, Ids(model.config.vocab_size)).generate(
        [prompt], GenerateConfig(temperature=0.0, max_new_tokens=n)
    )[0]
    theirs = twin(model).generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=n, min_new_tokens=n, pad_token_id=0
    )
    assert [*prompt, *ours.ids] == theirs[0].tolist()


def test_the_rules_keep_what_their_processors_keep() -> None:
    """500 random cases, half of them full of ties, where the order among equals decides."""
    generator = torch.Generator().manual_seed(2)
    for case in range(500):
        pick = torch.rand(3, generator=generator)
        settings = GenerateConfig(
            temperature=[0.1, 0.7, 1.0, 2.0][int(pick[0] * 4)],
            top_k=[1, 5, 20, 1000][int(pick[1] * 4)],
            top_p=[0.05, 0.5, 0.9, 0.99][int(pick[2] * 4)],
        )
        logits = torch.randn(4, 60, generator=generator) * 3
        logits = logits.round() if case % 2 else logits
        rules = [
            transformers.TemperatureLogitsWarper(settings.temperature),
            transformers.TopKLogitsWarper(settings.top_k),
            transformers.TopPLogitsWarper(settings.top_p),
        ]
        theirs = logits
        for rule in rules:
            theirs = rule(None, theirs)
        ours = filtered(logits, settings)
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), atol=1e-5, rtol=1e-5)
