"""Functions with gradients by hand: values and gradients as autograd has them, in fp64 and in bf16."""

import pytest
import torch
from torch import Tensor

from primegpt.model.functions import RMSNorm, SquaredReLU


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def squared(x: Tensor) -> Tensor:
    return x.relu().square()


@pytest.mark.parametrize("function", [lambda x: RMSNorm.apply(x, 1e-5), SquaredReLU.apply])
def test_gradients_are_those_of_finite_differences(function) -> None:
    x = numbers(3, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(function, (x,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "formula"), [(lambda x: RMSNorm.apply(x, 1e-5), norm), (SquaredReLU.apply, squared)]
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
