"""Copies for decoding are the same model, within what their number format can say."""

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch import nn

from primegpt.inference.quantize import (
    Int4Linear,
    Int8Linear,
    PackedLinear,
    SummedLinear,
    for_decoding,
    in_groups,
    rows_of_layout,
)
from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT

MakeModel = Callable[..., GPT]
SHAPES = [(64, 32), (96, 48), (7, 5), (2304, 32)]


@pytest.fixture(autouse=True)
def no_gradients() -> None:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [(1, 1), (3, 1), (2, 20)])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("kind", "dtype", "error"),
    [
        (PackedLinear, torch.float32, 1e-6),
        (PackedLinear, torch.bfloat16, 5e-3),
        (Int8Linear, torch.float32, 9e-3),
        (SummedLinear, torch.float32, 1e-6),
        (SummedLinear, torch.bfloat16, 5e-3),
        (partial(SummedLinear, int8=True), torch.float32, 9e-3),
    ],
)
def test_products_are_those_of_the_weights(kind, dtype, error, shape, rows, threads) -> None:
    """Relative to the exact product, in fp64; a wrong scale, offset or order of outputs is an error of about 1.

    int8: 48 weights N(0, 1) of an output reach 2.4 to either side, some 3: 2 * 3 / 254 / sqrt(12) = 0.7%.
    """
    torch.set_num_threads(threads)
    weight, bias, x = random(*shape), random(shape[0], 1)[:, 0], random(*rows, shape[1])
    exact = x.double() @ weight.double().T
    for b in (None, bias):
        layer = kind(nn.Parameter(weight.to(dtype)), None if b is None else nn.Parameter(b.to(dtype)))
        expected = exact if b is None else exact + b.double()
        for _ in range(2):
            found = layer(x.to(dtype))
            assert found.dtype == dtype
            assert (found.double() - expected).norm() / expected.norm() < error
            if not isinstance(layer, SummedLinear):
                break
            layer.pack()  # what several rows at once then go through


@pytest.mark.parametrize("preset", ["gpt2", "qwen3", "prime"])
@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("bf16", 0.05), ("int8", 0.05), ("int4", 0.3)])
def test_a_copy_computes_the_models_function(random_model: MakeModel, preset: str, precision, error: float) -> None:
    model, ids = random_model(preset), torch.arange(40).view(1, 40)
    before = {name: weight.clone() for name, weight in model.weights().items()}
    twin, expected = for_decoding(model, precision), model(ids)
    cache = KVCache(model.config, 1, 40, twin.wte.weight.dtype)
    stepwise = torch.cat([twin(ids[:, t : t + 1], cache=cache) for t in range(40)], dim=1)
    for found in (twin(ids), stepwise):
        assert (found.float().softmax(-1) - expected.softmax(-1)).abs().sum(-1).mean() < error
    assert all(torch.equal(weight, before[name]) for name, weight in model.weights().items())
    assert not any(isinstance(module, nn.Linear) for module in twin.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_a_copy_in_fp32_for_compiled_steps_takes_no_memory_of_its_own(random_model: MakeModel) -> None:
    model = random_model(n_embd=128)
    own = {p.data_ptr() for p in model.parameters()}
    twin = for_decoding(model, summed=True)
    assert {p.data_ptr() for p in twin.parameters()} == own
    assert not any(layer.several for layer in twin.modules() if isinstance(layer, SummedLinear))


def test_matrices_worth_it_are_packed_and_held_once(random_model: MakeModel) -> None:
    model = random_model(n_embd=256, vocab_size=100)  # the head is too small to be packed
    twin = for_decoding(model)
    worth = {name for name, layer in twin.named_modules() if isinstance(layer, PackedLinear) and layer.plain is None}
    assert worth == {
        f"h.{n}.{layer}" for n in (0, 1) for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    own = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in twin.parameters()} < own  # neither packed nor plain twice


def test_int8_holds_its_weights_once() -> None:
    layer = Int8Linear(nn.Parameter(random(3072, 768)), None)
    if layer.packed is None:
        pytest.skip("FBGEMM is for x86 alone; the product without it holds the bytes themselves")
    assert layer.plain is None
    assert sum(part.nbytes for part in vars(layer).values() if isinstance(part, torch.Tensor)) < 5 * 3072


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("peak", [1, 30])
def test_a_product_in_int8_is_that_of_the_rounded_weights(shape, peak) -> None:
    """In fp64. 14 bits of N(0, 1), or of 30 times the others, which reach 3: 2 * 3 / 16384 / sqrt(12) = 0.01%."""
    weight, bias, x = random(*shape), random(shape[0], 1)[:, 0], random(9, shape[1])
    x[:, 0] *= peak
    scale = weight.double().abs().amax(dim=1, keepdim=True) / 127
    exact = x.double() @ ((weight.double() / scale).round() * scale).T + bias.double()
    found = Int8Linear(nn.Parameter(weight), nn.Parameter(bias))(x)
    assert (found.double() - exact).norm() / exact.norm() < 3e-4
    step = SummedLinear(nn.Parameter(weight), nn.Parameter(bias), int8=True)
    for row in range(9):  # compiled steps are the same function
        torch.testing.assert_close(step(x[row : row + 1])[0], found[row], atol=2e-5 * peak, rtol=0)


def test_without_fbgemm_compiled_steps_are_the_same_function_too(monkeypatch) -> None:
    def none(*_):
        raise RuntimeError("not on this processor")

    monkeypatch.setattr("primegpt.inference.quantize.packed_bytes", none)
    weight, x = random(64, 96), random(9, 96)
    step = SummedLinear(nn.Parameter(weight), None, int8=True)
    assert isinstance(step.several, Int8Linear)
    assert step.several.packed is None
    together = step(x)
    for row in range(9):
        torch.testing.assert_close(step(x[row : row + 1])[0], together[row], atol=2e-5, rtol=0)


@pytest.mark.parametrize("values", [(127, 64), (127, -64), (-127, 64), (-127, -64)])
def test_sums_in_int8_do_not_overflow(values) -> None:
    """Each weight and each digit at its end, as many as fit: sums of 16 bits between, as older CPUs have, would."""
    level, digit = values
    layer = Int8Linear(nn.Parameter(torch.full((32, 66_000), level / 127)), None)
    x = torch.full((2, 66_000), digit / 64)
    assert torch.allclose(layer(x), x.double().sum(-1, keepdim=True).float() * level / 127, rtol=1e-6)


def test_zeros_stay_zeros_and_what_is_no_number_stays_none_in_int8() -> None:
    layer = Int8Linear(nn.Parameter(random(64, 32)), None)
    x = torch.stack([torch.zeros(32), random(32, 1)[:, 0], torch.full((32,), float("nan"))])
    x[1, 5] = float("inf")
    found = layer(x)
    assert torch.equal(found[0], torch.zeros(64))
    assert not found[1:].isfinite().any()


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_without_fbgemm_is_the_same_weights(shape) -> None:
    weight, x = nn.Parameter(random(*shape)), random(2, 9, shape[1])
    with patch.object(torch.ops.quantized, "linear_prepack", side_effect=RuntimeError):
        plain = Int8Linear(weight, None)
    assert plain.packed is None
    torch.testing.assert_close(plain(x), Int8Linear(weight, None)(x), atol=3e-3, rtol=0)


FOUR_BIT = [(64, 32), (80, 96), (16, 64), (2304, 32)]  # whole blocks of the kernel, and what is left of one


@pytest.mark.parametrize("shape", FOUR_BIT)
@pytest.mark.parametrize("rows", [(1, 1), (3, 1), (2, 20)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_product_in_int4_is_that_of_the_levels_and_of_the_weights_within_their_steps(shape, rows, threads) -> None:
    """Beside the weights: 32 of N(0, 1) span some 4.1, in 15 steps, each an even error: 4.1 / 15 / sqrt(12) = 8%."""
    torch.set_num_threads(threads)
    weight, bias, x = random(*shape), random(shape[0], 1)[:, 0], random(*rows, shape[1]).bfloat16().float()
    levels, scales = in_groups(weight, 32)
    scale, offset = scales.double().permute(1, 0, 2).split(1, dim=2)
    rounded = ((levels.double().view(shape[0], -1, 32) - 8) * scale + offset).view(shape)
    found = Int4Linear(nn.Parameter(weight), nn.Parameter(bias))(x)
    assert found.dtype == torch.float32
    for matrix, error in ((rounded, 5e-3), (weight.double(), 0.1)):
        exact = x.double() @ matrix.T + bias.double()
        assert (found.double() - exact).norm() / exact.norm() < error


def test_levels_are_nearer_than_those_between_the_least_and_the_greatest_weight() -> None:
    def squares(rounds: int) -> float:
        levels, scales = in_groups(weight, 32, rounds)
        scale, offset = scales.float().permute(1, 0, 2).split(1, dim=2)
        return ((levels.view(256, -1, 32) - 8) * scale + offset - weight.view(256, -1, 32)).square().sum().item()

    weight = random(256, 256)
    assert squares(0) > squares(1) > squares(2) > squares(3)
    assert squares(3) < 0.88 * squares(0)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30])
def test_groups_of_equal_weights_stay_what_they_are(value: float) -> None:
    levels, scales = in_groups(torch.full((16, 32), value), 32)
    found = (levels - 8) * scales.float()[0, :, :1] + scales.float()[0, :, 1:]
    assert torch.allclose(found, torch.full((16, 32), value), rtol=2**-8, atol=0.0)


@pytest.mark.parametrize("kind", [Int4Linear, Int8Linear])
def test_a_row_in_int4_or_int8_is_the_same_bits_alone_and_among_others(kind) -> None:
    layer, x = kind(nn.Parameter(random(208, 96)), None), random(300, 96)
    assert torch.equal(torch.cat([layer(x[row : row + 1]) for row in range(300)]), layer(x))
    assert torch.equal(torch.cat([layer(part) for part in x.split(7)]), layer(x))


@pytest.mark.parametrize("summed", [False, True])
def test_matrices_that_int4_does_not_fit_are_int8(random_model: MakeModel, summed: bool) -> None:
    twin = for_decoding(random_model(n_embd=48, n_head=3, n_layer=1), "int4", summed=summed)
    kinds = {name: type(layer) for name, layer in twin.named_modules() if name.endswith(("c_attn", "c_proj", "c_fc"))}
    eight = SummedLinear if summed else Int8Linear
    assert kinds.pop("h.0.mlp.c_proj") is Int4Linear  # rows of 192
    assert set(kinds.values()) == {eight}
    assert type(twin.lm_head) is eight


def test_int4_takes_five_bits_a_weight() -> None:
    layer = Int4Linear(nn.Parameter(random(3072, 768)), None)
    assert layer.weight.nbytes + layer.scales.nbytes == 5 * 3072 * 768 // 8


def test_a_torch_without_the_packed_product_multiplies_plainly(random_model: MakeModel) -> None:
    weight, x = nn.Parameter(random(2304, 32).bfloat16()), random(2, 32).bfloat16()
    with patch.object(torch.ops.mkldnn, "_linear_pointwise", side_effect=NotImplementedError):
        layer = PackedLinear(weight, None)
    assert layer.packed is None
    assert torch.equal(layer(x), nn.functional.linear(x, weight))


@pytest.mark.parametrize("amx", [False, True])
def test_weights_laid_out_for_many_rows_multiply_any_number(amx: bool) -> None:
    weight = nn.Parameter(random(2304, 96).bfloat16())
    with patch.object(torch.cpu, "_is_amx_tile_supported", lambda: amx, create=True):
        assert rows_of_layout(torch.bfloat16) == (128 if amx else 1)
        assert rows_of_layout(torch.float32) == 1
        layer = PackedLinear(weight, None)
    for rows in (1, 3, 16, 200):
        x = random(rows, 96).bfloat16()
        torch.testing.assert_close(layer(x), nn.functional.linear(x, weight), atol=0.1, rtol=0.02)
