"""The parts of an optimizer step that runs do not show."""

import torch

from primegpt.training.step import seed_dropout


def test_dropout_draws_what_torch_would() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    seed_dropout(5, "cpu")
    assert torch.equal(torch.rand(4), expected)
    assert not torch.equal(torch.rand(4), expected)
