"""Parts of an extension inside the network: their first values, their sizes, and what leaves them alone."""

import pytest
import torch

from primegpt import extend
from primegpt.config import LoRAConfig, ModelConfig
from primegpt.errors import UsageError
from primegpt.model.gpt import GPT
from primegpt.model.lora import add_lora
from primegpt.model.own import numbers
from primegpt.model.size import parameter_breakdown, parameter_count
from primegpt.serving.lens import attention

CODE = """
import torch
from torch import nn
from primegpt import extend
from primegpt.model.gpt import MLP, Attention, Linear

@extend.norm("dyt")
class DyT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.slope = nn.Parameter(torch.full((1,), 0.5))
    def forward(self, x):
        return torch.tanh(self.slope * x)

@extend.mlp("deep")
class Deep(MLP):  # c_fc and c_proj are of ours, `more` is torch's
    def __init__(self, config):
        super().__init__(config)
        self.more = nn.Linear(config.mlp_size, config.mlp_size)
    def forward(self, x):
        return self.c_proj(self.more(self.c_fc(x)).relu())

@extend.attention("uniform")
class Uniform(nn.Module):  # knows nothing of queries
    def __init__(self, config):
        super().__init__()
        self.c_proj = Linear(config.n_embd, config.n_embd, bias=False)
    def forward(self, x, view, past=None):
        return self.c_proj(x.cumsum(1))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ModelConfig:
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(CODE, encoding="utf-8")
    own = {"norm": "dyt", "mlp": "deep", "attention": "uniform", "extension": extend.load(path).sha256}
    sizes = {"n_layer": 3, "n_head": 2, "n_embd": 64, "block_size": 16, "vocab_size": 50, "embedding_norm": True}
    return ModelConfig(**own, **sizes, qk_norm=True)


def test_first_values_are_the_parts_own_but_for_our_layers(config):
    block = GPT(config, seed=1).h[0]
    assert block.ln_1.slope.tolist() == [0.5]
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05)  # 2 branches of 3 blocks
    assert block.attn.c_proj.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05)
    bound = 256**-0.5  # of nn.Linear: U(-1/√in, 1/√in)
    assert block.mlp.more.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert block.mlp.c_fc.bias.abs().max().item() == 0.0


def test_the_seed_alone_decides_and_nothing_else_is_shifted(config):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = GPT(config, seed=1).weights()
    assert torch.equal(torch.rand(3), expected)
    again, other = GPT(config, seed=1).weights(), GPT(config, seed=2).weights()
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    name = "h.1.mlp.more.weight"
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first["h.2.mlp.more.weight"])


def test_sizes_are_those_of_the_model(config):
    config = config.model_copy(update={"extension_parameters": numbers(config)})
    count, model = parameter_breakdown(config), GPT(config)
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())
    assert count.attention == sum(p.numel() for block in model.h for p in block.attn.parameters())
    assert count.mlp == sum(p.numel() for block in model.h for p in block.mlp.parameters())
    assert count.norms == 2 * 3 + 2


def test_adapters_leave_them_alone(config):
    model = add_lora(GPT(config), LoRAConfig(rank=2))
    assert not any(p.requires_grad for p in model.parameters())


def test_an_attention_without_maps_says_so(config):
    with pytest.raises(UsageError, match="attention 'uniform' is of an extension and tells no maps"):
        attention(GPT(config).eval(), [1, 2, 3], 0)


def test_a_part_whose_file_was_not_loaded():
    with pytest.raises(UsageError, match="the file of SHA-256 aaaaaaaaaaaa…, which has parts of this model, was not"):
        GPT(ModelConfig(norm="dyt", extension="a" * 64, vocab_size=10, n_layer=1, n_head=1, n_embd=8))
    with pytest.raises(UsageError, match="there is no norm 'no_such_norm'"):
        GPT(ModelConfig(norm="no_such_norm", vocab_size=10, n_layer=1, n_head=1, n_embd=8))
