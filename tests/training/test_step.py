"""The parts of an optimizer step that runs do not show."""

import pytest
import torch

from primegpt.training.step import DTYPES, Precision, seed_dropout


@pytest.mark.parametrize("name", DTYPES)
def test_only_fp16_scales_its_loss_and_only_products_are_in_16_bits(name):
    precision = Precision(name, "cpu")
    assert precision.scaler.is_enabled() == (name == "fp16")
    with precision.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == DTYPES[name]
        assert (
            torch.nn.functional.cross_entropy(torch.ones(2, 3), torch.ones(2, dtype=torch.long)).dtype == torch.float32
        )


def test_dropout_draws_what_torch_would() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    seed_dropout(5, "cpu")
    assert torch.equal(torch.rand(4), expected)
    assert not torch.equal(torch.rand(4), expected)
