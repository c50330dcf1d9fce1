"""Functions with gradients by hand: values and gradients as autograd has them, in fp64 and in bf16."""

import pytest
import torch
from torch import Tensor

from primegpt.model import kernels
from primegpt.model.kernels import GELU, RMSNorm, Rotation, SquaredReLU, View


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def squared(x: Tensor) -> Tensor:
    return x.relu().square()


def gelu(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


@pytest.mark.parametrize("function", [lambda x: RMSNorm.apply(x, 1e-5), SquaredReLU.apply, GELU.apply])
def test_gradients_are_those_of_finite_differences(function) -> None:
    x = numbers(3, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(function, (x,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        (lambda x: RMSNorm.apply(x, 1e-5), norm),
        (SquaredReLU.apply, squared),
        (GELU.apply, gelu),
        (kernels.gelu_formula, gelu),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_values_and_gradients_are_the_formula_in_fp64(function, formula, dtype, size) -> None:
    """Of numbers that are tiny (ε counts), usual and large, to a few units of rounding."""
    x = (size * numbers(5, 7, 64)[:, ::2]).to(dtype).requires_grad_()  # not contiguous, as heads are not
    exact = x.detach().double().requires_grad_()
    gradient = numbers(5, 4, 64, dtype=dtype)
    y, expected = function(x), formula(exact)
    y.backward(gradient)
    expected.backward(gradient.double())
    for found, wanted in ((y.detach(), expected.detach()), (x.grad, exact.grad)):
        assert found.dtype == dtype
        error = (found.double() - wanted).norm() / wanted.norm()
        assert error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("piece", [1, 100, 35 * 64])
def test_a_gelu_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    x = numbers(5, 7, 64).requires_grad_()
    expected = gelu(x), *torch.autograd.grad(gelu(x).sum(), x)
    monkeypatch.setattr(kernels, "PIECE", piece)
    torch.testing.assert_close((GELU.apply(x), *torch.autograd.grad(GELU.apply(x).sum(), x)), expected)


@pytest.mark.parametrize("layout", ["expanded", "transposed", "permuted input"])
def test_the_gradient_of_a_norm_takes_any_strides(layout: str) -> None:
    x = numbers(8, 8, 8).transpose(0, 2) if layout == "permuted input" else numbers(8, 8, 8)
    gradient = torch.ones(()).double().expand(8, 8, 8) if layout == "expanded" else numbers(8, 8, 8).transpose(1, 2)
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    RMSNorm.apply(found, 1e-5).backward(gradient)
    norm(expected).backward(gradient)
    torch.testing.assert_close(found.grad, expected.grad)


def test_the_gradient_of_a_norm_has_a_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch has not this kernel, and under a compiler."""
    monkeypatch.setattr("primegpt.model.kernels.KERNEL", None)
    x = numbers(3, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: RMSNorm.apply(x, 1e-5), (x,), eps=1e-6, atol=1e-5)


def angles(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines for `numbers(5, 7, 64)[:, ::2]`, of four places."""
    angle = numbers(4, 32)
    return torch.cat((angle.cos(), angle.cos()), -1).to(dtype), torch.cat((-angle.sin(), angle.sin()), -1).to(dtype)


def test_the_gradient_of_a_rotation_is_that_of_finite_differences() -> None:
    x = numbers(3, 4, 64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Rotation.apply(x, *angles(torch.float64)), (x,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotation_and_its_gradient_are_products_with_complex_numbers(dtype: torch.dtype) -> None:
    x, gradient = numbers(5, 7, 64)[:, ::2].to(dtype).requires_grad_(), numbers(5, 4, 64, dtype=dtype)
    y = Rotation.apply(x, *angles(dtype))
    y.backward(gradient)
    turn = torch.polar(torch.ones(4, 32, dtype=torch.float64), numbers(4, 32))
    for found, origin, by in ((y, x, turn), (x.grad, gradient, turn.conj())):
        a, b = origin.detach().double().chunk(2, dim=-1)
        turned = torch.complex(a, b) * by
        error = (found.detach().double() - torch.cat((turned.real, turned.imag), dim=-1)).norm() / turned.abs().norm()
        assert found.dtype == dtype
        assert error < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("lengths", [None, (9, 3, 7), (5, 5, 5)])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_single_queries_of_several_texts_in_bf16_are_the_formula_in_fp64(lengths, kv_heads: int) -> None:
    """Each text by itself, and all of them at once; without lengths every text sees all."""
    drawn = torch.Generator().manual_seed(0)
    q = torch.randn(3, 4, 1, 16, generator=drawn).bfloat16()
    k, v = torch.randn(2, 3, kv_heads, 9, 16, generator=drawn).bfloat16()
    mask = None if lengths is None else (torch.arange(9) < torch.tensor(lengths).unsqueeze(1)).view(3, 1, 1, 9)
    found = kernels.attention(q, k, v, View(None, mask, causal=False), "sdpa")
    keys, values = (t.double().repeat_interleave(4 // kv_heads, dim=1) for t in (k, v))
    scores = q.double() @ keys.transpose(-2, -1) / 4
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    torch.testing.assert_close(found.double(), scores.softmax(-1) @ values, atol=2e-2, rtol=2**-8)
    for row in range(3):
        seen = None if mask is None else mask[row : row + 1]
        alone = kernels.attention(*(t[row : row + 1] for t in (q, k, v)), View(None, seen, causal=False), "sdpa")
        assert torch.equal(alone, found[row : row + 1])
