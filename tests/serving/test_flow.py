"""What each part adds to a guess: the parts add up to what the model computes, for every kind of network."""

import pytest
import torch

from primegpt import extend
from primegpt.config import LoRAConfig, ModelConfig
from primegpt.inference.context import Row
from primegpt.model.gpt import GPT
from primegpt.model.lora import add_lora
from primegpt.serving import flow as flows
from primegpt.serving import lens

STRICT = """
import torch
from primegpt import extend

@extend.norm("strict")
class Strict(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(config.n_embd))

    def forward(self, x):
        B, T, C = x.shape
        return self.gain * x / x.square().mean(-1, keepdim=True).sqrt()
"""
OWN = """
import torch
from torch import nn
from primegpt import extend
from primegpt.model.gpt import MLP, RMSNorm

@extend.attention("mean")
class Mean(nn.Module):
    def __init__(self, config):
        super().__init__()
    def forward(self, x, view, past=None):
        return x.cumsum(1) / torch.arange(1, x.size(1) + 1)[:, None]

@extend.mlp("twice")
class Twice(MLP):  # what `activations` says is not what it does
    def forward(self, x):
        return 2 * super().forward(x)

@extend.norm("shift")
class Shift(RMSNorm):
    def __init__(self, config):
        super().__init__(config.n_embd)
    def forward(self, x):
        return torch.tanh(x)
"""
KINDS = {
    "gpt2": {"preset": "gpt2"},
    "untied": {"preset": "gpt2", "tie_embeddings": False},
    "llama": {"preset": "llama", "n_kv_head": 2},
    "qwen2": {"preset": "qwen2", "n_kv_head": 1},
    "qwen3": {"preset": "qwen3", "n_kv_head": 2, "head_dim": 16},
    "prime": {"preset": "prime"},
    "capped": {"preset": "prime", "logit_softcap": 2.0, "embedding_norm": True},
    "no gains": {"preset": "gpt2", "norm_gain": False, "bias": False},
}


@pytest.fixture(params=KINDS)
def model(random_model, request):
    return random_model(**KINDS[request.param])


@pytest.fixture
def ids() -> list[int]:
    return torch.randint(100, (150,), generator=torch.Generator().manual_seed(3)).tolist()


def close(one, other):
    return torch.allclose(one, other, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 20, 64, 150])
def test_the_parts_add_up_to_the_last_hidden_state_and_the_logits_are_those_of_look(model, ids, length):
    found = flows.flow(model, ids[:length])
    window = torch.tensor([Row(ids[:length], 64).window])
    trace = model.trace(window)
    assert close(found.parts.sum(0), trace.hidden[-1][0, -1])
    assert close(found.stream, torch.stack([state[0, -1] for state in trace.hidden]))
    assert close(found.logits, trace.logits[0, -1])
    assert close(found.logits, lens.next_logits(model, ids[:length]))
    assert torch.equal(found.token, model.wte.weight.detach()[ids[length - 1]])
    assert (found.position is None) == (model.config.position == "rope")
    if found.position is not None:
        assert close(found.token + found.position, found.parts[0])


def test_the_shares_of_all_parts_add_up_to_every_logit(model, ids):
    found, all_ids = flows.flow(model, ids[:20]), torch.arange(100)
    every = flows.shares(model, found.parts, found.stream[-1])
    raw = every.sum(0) + flows.constant(model, all_ids)
    cap = model.config.logit_softcap
    assert close(raw if cap is None else cap * torch.tanh(raw / cap), found.logits)
    some = torch.tensor([7, 3])
    assert close(flows.shares(model, found.parts, found.stream[-1], some), every[:, some])


def test_a_part_left_out_takes_its_share_with_it(model, ids):
    """The share is what the logit lacks without the part, with the norm's divisor as it was."""
    found = flows.flow(model, ids[:20])
    final = found.stream[-1]
    centred = final - final.mean() if isinstance(model.ln_f, torch.nn.LayerNorm) else final
    length = centred.square().mean().add(model.ln_f.eps).sqrt()

    def logit(stream):
        stream = stream - stream.mean() if isinstance(model.ln_f, torch.nn.LayerNorm) else stream
        normed = stream / length * (1.0 if model.ln_f.weight is None else model.ln_f.weight)
        weight = model.wte.weight if model.lm_head is None else model.lm_head.weight
        return normed @ weight[5]

    own = flows.shares(model, found.parts, final, torch.tensor([5]))
    for part, share in zip(found.parts, own, strict=True):
        assert close(logit(final) - logit(final - part), share[0])


@pytest.mark.parametrize("layer", [0, 1])
def test_the_heads_of_a_block_add_up_to_its_attention(model, ids, layer):
    found, one = flows.flow(model, ids[:20]), flows.inner(model, ids[:20], layer)
    assert close(one.before, found.stream[layer])
    assert close(one.attention, found.parts[1 + 2 * layer])
    assert close(one.mlp, found.parts[2 + 2 * layer])
    assert one.heads.shape == (4, 32)
    assert close(one.heads.sum(0) + one.bias, one.attention)
    assert close(one.weights, model.trace(torch.tensor([ids[:20]])).maps[layer][0, :, -1])
    with torch.no_grad():
        assert close(model.h[layer].mlp.c_proj(one.neurons.clone()), one.mlp)


def test_a_head_adds_nothing_once_its_columns_of_the_output_matrix_are_zero(random_model, ids):
    model = random_model("qwen3", n_kv_head=2, head_dim=16)
    before = flows.inner(model, ids[:20], 1)
    with torch.no_grad():
        model.h[1].attn.c_proj.weight[:, 2 * 16 : 3 * 16] = 0.0
    after = flows.inner(model, ids[:20], 1)
    assert close(after.heads[2], torch.zeros(32))
    assert close(before.attention - after.attention, before.heads[2])


def test_adapters_count_as_part_of_what_they_are_beside(random_model, ids):
    model = add_lora(random_model(), LoRAConfig(rank=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(2))
    one = flows.inner(model, ids[:20], 1)
    trace = model.trace(torch.tensor([ids[:20]]))
    assert close(one.heads.sum(0) + one.bias, one.attention)
    assert close(flows.flow(model, ids[:20]).parts.sum(0), trace.hidden[-1][0, -1])


def test_the_guesses_end_in_what_the_model_says(model, ids):
    found = flows.flow(model, ids[:20])
    said = flows.guesses(model, found.stream)
    assert close(said[-1], found.logits.softmax(-1))
    lensed, which = lens.logit_lens(model, ids[:20], 3)
    assert close(said.gather(-1, which[:, -1]), lensed[:, -1])


def test_norms_of_an_extension_are_given_what_they_are_promised(tmp_path, ids):
    """(B, T, C), wherever they are called."""
    (tmp_path / "mine.py").write_text(STRICT, encoding="utf-8")
    own = {"norm": "strict", "extension": extend.load(tmp_path / "mine.py").sha256}
    model = GPT(ModelConfig(**own, n_layer=2, n_head=2, n_embd=32, block_size=64, vocab_size=100)).eval()
    found = flows.flow(model, ids[:20])
    said = flows.guesses(model, found.stream)
    assert close(said[-1], found.logits.softmax(-1))
    lensed, which = lens.logit_lens(model, ids[:20], 3)
    assert close(said.gather(-1, which[:, -1]), lensed[:, -1])


def test_of_parts_of_an_extension_only_what_they_add_is_known(tmp_path, ids):
    (tmp_path / "mine.py").write_text(OWN, encoding="utf-8")
    own = {"attention": "mean", "mlp": "twice", "norm": "shift", "extension": extend.load(tmp_path / "mine.py").sha256}
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 64, "vocab_size": 100}
    model = GPT(ModelConfig(**own, **sizes)).eval()
    found, one = flows.flow(model, ids[:20]), flows.inner(model, ids[:20], 1)
    assert close(found.parts.sum(0), model.trace(torch.tensor([ids[:20]])).hidden[-1][0, -1])
    assert close(one.mlp, found.parts[4])
    assert (one.weights, one.heads, one.bias, one.neurons) == (None, None, None, None)
    assert flows.shares(model, found.parts, found.stream[-1]) is None
