"""Adapters: nothing changes at first, only they learn, and merged they are the same function."""

import pytest
import torch
from torch import Tensor

from primegpt.config import LORA_TARGETS, LoRAConfig, resolve
from primegpt.errors import ConfigError, MismatchError
from primegpt.model.gpt import GPT
from primegpt.model.lora import (
    adapter_weights,
    adapters,
    add_lora,
    load_adapters,
    merge_lora,
    merged_weights,
    trainable_share,
)


@pytest.fixture(params=["gpt2", "qwen3", "prime"])
def model(request, random_model) -> GPT:
    return random_model(request.param)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(100, (2, 12), generator=torch.Generator().manual_seed(3))


def shaken(model: GPT) -> GPT:
    """With adapters that do something, as after training."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for _, layer in adapters(model):
            layer.lora_b.normal_(0.0, 0.2, generator=generator)
    return model


def test_it_starts_as_the_model_it_adapts(model, ids):
    before = model(ids)
    assert torch.equal(add_lora(model, LoRAConfig(rank=8))(ids), before)


def test_merged_weights_are_the_adapters_output(model, ids):
    plain = model(ids)
    adapted = shaken(add_lora(model, LoRAConfig(rank=4, alpha=8)))
    expected = adapted(ids)
    assert (expected - plain).abs().max() > 0.1  # the adapters do something
    fresh = GPT(model.config).load_weights(merged_weights(model)).eval()
    torch.testing.assert_close(fresh(ids), expected, atol=1e-5, rtol=0)
    assert torch.equal(adapted(ids), expected)  # merging a copy leaves the adapters alone
    merged = merge_lora(model)
    torch.testing.assert_close(merged(ids), expected, atol=1e-5, rtol=0)
    assert merged.weights().keys() == fresh.weights().keys()
    assert trainable_share(merged) == 1.0


def test_the_change_is_alpha_over_rank_times_b_a(random_model):
    model = add_lora(random_model(), LoRAConfig(rank=2, alpha=6, targets=("mlp.c_fc",)))
    before = model.weights()["h.0.mlp.c_fc.weight"].clone()
    shaken(model)
    layer = dict(adapters(model))["h.0.mlp.c_fc"]
    expected = before.double() + 3 * (layer.lora_b.double() @ layer.lora_a.double())
    torch.testing.assert_close(merged_weights(model)["h.0.mlp.c_fc.weight"].double(), expected, atol=1e-6, rtol=0)


def test_only_the_adapters_learn(model, ids):
    add_lora(model, LoRAConfig(rank=2)).train()
    frozen = {name: p.clone() for name, p in model.named_parameters() if ".lora_" not in name}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(5):
        total, count = model(ids[:, :-1], targets=ids[:, 1:])
        losses.append((total / count).item())
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], before) for name, before in frozen.items())
    assert all(now[f"{name}.lora_b"].any() for name, _ in adapters(model))


def test_the_trainable_share_is_what_one_counts(random_model):
    model = random_model(n_layer=2, n_embd=32)
    full = sum(parameter.numel() for parameter in model.parameters())
    added = 2 * 4 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))  # layers x rank x (in + out)
    assert trainable_share(add_lora(model, LoRAConfig(rank=4))) == added / (full + added)


def test_targets_choose_layers(random_model):
    model = add_lora(random_model("qwen3"), LoRAConfig(rank=8, targets=("attn.c_attn", "mlp.c_gate")))
    assert {name.split(".", 2)[2] for name, _ in adapters(model)} == {"attn.c_attn", "mlp.c_gate"}
    assert len(list(adapters(model))) == 2 * model.config.n_layer
    assert {name.split(".", 2)[2] for name, _ in adapters(add_lora(random_model(), LoRAConfig(rank=8)))} < set(
        LORA_TARGETS
    )


def test_a_seed_gives_the_same_adapters(random_model):
    def first(seed: int) -> Tensor:
        return next(adapters(add_lora(random_model(), LoRAConfig(rank=8), seed)))[1].lora_a

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_dropout_acts_in_training_only(random_model, ids):
    model = shaken(add_lora(random_model(), LoRAConfig(rank=8, dropout=0.5)))
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rank": -1}, "rank"),
        ({"dropout": 1.0}, "dropout"),
        ({"targets": ("c_atn",)}, "c_atn"),
        ({"targets": ()}, "targets"),
    ],
)
def test_settings_that_make_no_sense_are_named(values, named):
    with pytest.raises(ConfigError, match=named):
        resolve({"lora": values})


def test_adapters_come_back_from_what_was_saved(model, random_model, ids):
    adapted = shaken(add_lora(model, LoRAConfig(rank=4)))
    saved = {name: weight.clone() for name, weight in adapter_weights(adapted).items()}
    other = add_lora(random_model(model.config.preset), LoRAConfig(rank=4), seed=9)
    assert not torch.equal(other(ids), adapted(ids))
    assert torch.equal(load_adapters(other, saved)(ids), adapted(ids))
    with pytest.raises(MismatchError, match="adapters"):
        load_adapters(add_lora(random_model(model.config.preset), LoRAConfig(rank=2)), saved)
