"""Optimizers against plain loops and linear algebra."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from primegpt.config import resolve
from primegpt.errors import CheckpointError
from primegpt.model.gpt import GPT
from primegpt.training.optimizers import (
    Muon,
    Optimizers,
    decays,
    is_matrix_of_block,
    newton_schulz,
    orthogonalise_all,
)

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 30}


def make(preset="gpt2", **train):
    config = resolve({"model": {"preset": preset, **SIZES}, "train": train})
    return config, GPT(config.model, seed=1)


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_only_matrices_decay():
    _, model = make()
    decayed = {name for name, p in model.named_parameters() if decays(name, p)}
    assert "wte.weight" in decayed
    assert "h.0.attn.c_attn.weight" in decayed
    assert not {name for name in decayed if "ln_" in name or name.endswith("bias")}
    assert len(decayed) == 2 + 4 * SIZES["n_layer"]  # wte, wpe; per block qkv, proj, fc, proj


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("preset", ["gpt2", "qwen3", "prime"])
def test_every_parameter_has_exactly_one_place(preset, optimizer):
    config, model = make(preset, optimizer=optimizer)
    placed = [p for m in Optimizers(model, config.train).members for group in m.param_groups for p in group["params"]]
    assert sorted(map(id, placed)) == sorted(map(id, model.parameters()))


def test_muon_moves_the_matrices_of_blocks_only():
    _, model = make("prime")
    names = {name for name, p in model.named_parameters() if is_matrix_of_block(name, p)}
    assert all(name.startswith("h.") for name in names)
    assert len(names) == 4 * SIZES["n_layer"]


def test_a_head_of_its_own_has_a_rate_of_its_own():
    """The same schedule for both. A tied head is the embedding, and learns like one."""
    config, model = make("prime", optimizer="muon", learning_rate=0.02, head_learning_rate=0.005)
    optimizers = Optimizers(model, config.train)
    optimizers.set_learning_rate(0.5)
    gradients(model, 1)
    tables = model.wte.weight, model.lm_head.weight
    before = [table.detach().clone() for table in tables]
    optimizers.step()  # the first step of Adam is as long as its rate
    moved = [(table - old).abs().median().item() for table, old in zip(tables, before, strict=True)]
    assert moved == pytest.approx([0.01, 0.0025], rel=1e-3)
    config, tied = make("gpt2", learning_rate=0.02, head_learning_rate=0.005)
    assert {group["lr"] for group in Optimizers(tied, config.train).members[0].param_groups} == {0.02}


def test_twenty_steps_of_adamw_equal_a_plain_loop():
    config, model = make(learning_rate=1e-2, weight_decay=0.1)
    reference = copy.deepcopy(model)
    optimizers = Optimizers(model, config.train)
    decayed = [p for p in reference.parameters() if p.dim() >= 2]
    rest = [p for p in reference.parameters() if p.dim() < 2]
    plain = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=1e-2, betas=(0.9, 0.95), fused=False, foreach=False,
    )  # fmt: skip
    for step in range(20):
        gradients(model, step)
        gradients(reference, step)
        optimizers.step()
        plain.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_adamw_is_torchs_to_the_bit():
    config, model = make(learning_rate=1e-2, weight_decay=0.1)
    reference = copy.deepcopy(model)
    optimizers = Optimizers(model, config.train)
    names = {p: name for name, p in model.named_parameters()}
    theirs = dict(reference.named_parameters())
    ours = optimizers.members[0].param_groups
    groups = [group | {"params": [theirs[names[p]] for p in group["params"]]} for group in ours]
    plain = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    for step in range(5):
        gradients(model, step)
        gradients(reference, step)
        model.h[0].attn.c_attn.weight.grad = reference.h[0].attn.c_attn.weight.grad = None  # frozen
        optimizers.step()
        plain.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, theirs[name])
    kept = {f"{name}/{kind}": value for name, p in theirs.items() for kind, value in plain.state[p].items()}
    state = optimizers.state()
    assert state.keys() == kept.keys()
    assert all(torch.equal(value, kept[key]) for key, value in state.items())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_compiler_is_not_imported_for_an_optimizer(optimizer):
    """It takes a second, in which a small network makes a hundred steps."""
    told = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_optimizers import Optimizers, gradients, make
config, model = make("prime", optimizer={optimizer!r})
optimizers = Optimizers(model, config.train)
gradients(model, 1)
optimizers.step()
optimizers.zero_grad()
print("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True).stdout.split() == ["False"]


@pytest.mark.parametrize("shape", [(16, 16), (64, 16)])
def test_newton_schulz_approaches_the_polar_factor(shape):
    """U Vᵀ of the SVD has all singular values 1; the quintic brings them near, without turning the matrix."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    got = newton_schulz(x, 5, torch.float32)
    singular = torch.linalg.svdvals(got)
    assert singular.min() > 0.5
    assert singular.max() < 1.3
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    alignment = ((u @ vh) * got).sum((1, 2)) / got.norm(dim=(1, 2)) / shape[1] ** 0.5
    assert alignment.min() > 0.97


def test_muon_in_batches_equals_one_matrix_at_a_time():
    shapes = [(16, 16), (16, 16), (48, 16), (16, 48), (48, 16)]
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(s, generator=generator) for s in shapes]
    grads = [torch.randn(s, generator=generator) for s in shapes]

    def run(groups):
        params = [torch.nn.Parameter(t.clone()) for t in start]
        for group in groups:
            muon = Muon([params[i] for i in group], lr=0.1, weight_decay=0.1)
            for scale in (1.0, -0.5, 2.0):
                for i in group:
                    params[i].grad = grads[i] * scale
                muon.step()
        return params

    for together, alone in zip(run([range(5)]), run([[i] for i in range(5)]), strict=True):
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_muon_is_its_formula(shape):
    """Six steps of one matrix, a row at a time, in fp64: momentum, the polar factor's stand-in, rows evened out."""
    generator = torch.Generator().manual_seed(0)
    start, *grads = torch.randn(7, *shape, generator=generator, dtype=torch.float64)
    grads[0].zero_()  # as the first gradient behind a projection that starts at zero
    parameter = torch.nn.Parameter(start.clone())
    muon = Muon([parameter], lr=0.1, momentum=0.9, beta2=0.8, weight_decay=0.2, dtype=torch.float64)
    expected, momentum, squares = start.clone(), torch.zeros(shape, dtype=torch.float64), [0.0] * shape[0]
    for step, gradient in enumerate(grads, 1):
        parameter.grad = gradient
        muon.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        x = 0.1 * gradient + 0.9 * momentum
        tall = x if shape[0] >= shape[1] else x.T
        polar = newton_schulz(tall[None], 5, torch.float64)[0]
        direction = (polar if shape[0] >= shape[1] else polar.T).double()
        squares = [0.8 * old + 0.2 * float(row @ row) for old, row in zip(squares, direction, strict=True)]
        corrected = [square / (1 - 0.8**step) for square in squares]
        rows = [row / max(square, 1e-12) ** 0.5 for row, square in zip(direction, corrected, strict=True)]
        even = torch.stack(rows)
        even *= direction.norm() / max(even.norm(), 1e-12)
        expected = expected * (1 - 0.1 * 0.2) - 0.1 * max(1, shape[0] / shape[1]) ** 0.5 * even
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(even.norm(dim=1), direction.norm(dim=1), rtol=0.02)  # evening out did something


def test_queries_keys_and_values_are_matrices_of_their_own():
    """The step of a fused matrix is that of three on top of one another, as long as the whole one's shape says."""
    train = {"optimizer": "muon", "muon_learning_rate": 0.1, "weight_decay": 0.0}
    config = resolve({"model": {"preset": "prime", **SIZES, "n_kv_head": 1}, "train": train})
    model = GPT(config.model, seed=1)
    gradients(model, 0)
    weight = model.h[0].attn.c_attn.weight  # (2 x 8 + 8 + 8, 16)
    before, x = weight.detach().clone(), (0.05 + 0.95 * 0.05) * weight.grad
    Optimizers(model, config.train).step()
    piled = torch.cat([orthogonalise_all([part], 5, torch.float32)[0] for part in x.split([16, 8, 8])])
    piled *= (piled.norm() / (len(piled) ** 0.5)) / piled.norm(dim=1, keepdim=True)  # rows even at the first step
    torch.testing.assert_close(before - weight, 0.1 * 2**0.5 * piled, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_state_comes_back_by_name(optimizer):
    config, model = make("prime", optimizer=optimizer)
    first = Optimizers(model, config.train)
    for step in range(3):
        gradients(model, step)
        first.step()
    saved = {name: tensor.clone() for name, tensor in first.state().items()}
    twin = GPT(config.model, seed=9).load_weights(model.weights())
    second = Optimizers(twin, config.train)
    second.load_state(saved)
    for m, o in ((model, first), (twin, second)):
        gradients(m, 7)
        o.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    older = {name: tensor for name, tensor in saved.items() if not name.endswith("/row_square")}
    third = Optimizers(GPT(config.model, seed=9).load_weights(model.weights()), config.train)
    third.load_state(older)  # of a run from before rows were evened out, which goes on with it
    for p in third.names:
        p.grad = torch.ones_like(p)
    third.step()
    assert all(p.isfinite().all() for p in third.names)
    assert set(third.state()) == set(saved)
    untouched = Optimizers(GPT(config.model), config.train)
    with pytest.raises(CheckpointError, match="belongs to no parameter"):
        untouched.load_state({"nowhere/exp_avg": torch.zeros(1)})
