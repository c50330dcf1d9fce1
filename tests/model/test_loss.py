"""The summed cross-entropy against its definition in fp64, in one piece and in slices."""

import pytest
import torch
from torch import Tensor

from primegpt.model import size
from primegpt.model.loss import IGNORED, summed_cross_entropy, token_log_probabilities

V, C = 50, 8


def case(B: int = 3, T: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (B, T, C), a head (V, C) and targets (B, T), a third of which do not count."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, T, C, generator=generator).requires_grad_()
    head = torch.randn(V, C, generator=generator).requires_grad_()
    targets = torch.randint(V, (B, T), generator=generator)
    targets[torch.rand(B, T, generator=generator) < 0.33] = IGNORED
    return hidden, head, targets


def limit_logits(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    for name in ("MAX_LOGITS", "SLICE_LOGITS"):
        monkeypatch.setattr(size, name, limit)


def by_definition(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """-log(e^target / Σ e^logit) in fp64, added up one target at a time."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for b in range(targets.size(0)):
        for t in range(targets.size(1)):
            if targets[b, t] != -100:
                logits = head.double() @ hidden[b, t].double()
                total = total + logits.exp().sum().log() - logits[targets[b, t]]
                count += 1
    return total, count


def gradients(total: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [gradient.double() for gradient in torch.autograd.grad(total, inputs)]


@pytest.mark.parametrize("rows_at_once", [None, 1, 4, 20, 21])
def test_equals_the_definition_with_gradients(monkeypatch: pytest.MonkeyPatch, rows_at_once: int | None) -> None:
    """In slices of any size, the whole (21 rows) included, and never with more rows of logits than asked for."""
    if rows_at_once:
        limit_logits(monkeypatch, rows_at_once * V + 3)
    hidden, head, targets = case()
    sizes = []

    def logits(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return rows @ head.T

    total, count = summed_cross_entropy(hidden, targets, logits, V)
    forward = sizes.copy()
    expected, expected_count = by_definition(hidden, head, targets)
    assert (total.dtype, count.item()) == (torch.float32, expected_count)
    torch.testing.assert_close(total.double(), expected, atol=0, rtol=1e-6)
    for found, right in zip(gradients(total, hidden, head), gradients(expected, hidden, head), strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    assert (sum(forward), max(forward)) == (21, rows_at_once or 21)


@pytest.mark.parametrize("limit", [1 << 27, 3 * V])
def test_nothing_to_learn_is_zero(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    limit_logits(monkeypatch, limit)
    hidden, head, targets = case()
    total, count = summed_cross_entropy(hidden, torch.full_like(targets, IGNORED), lambda rows: rows @ head.T, V)
    assert (total.item(), count.item()) == (0.0, 0)
    assert all(not gradient.any() for gradient in gradients(total, hidden, head))


def test_an_ignored_position_gets_no_gradient() -> None:
    hidden, head, targets = case()
    total, _ = summed_cross_entropy(hidden, targets, lambda rows: rows @ head.T, V)
    (gradient,) = gradients(total, hidden)
    assert torch.equal(gradient.abs().sum(-1) > 0, targets != IGNORED)


def test_parts_of_a_batch_add_up() -> None:
    """A sum, not a mean: rows with different numbers of targets weigh the same however the batch is cut."""
    hidden, head, targets = case()
    whole = summed_cross_entropy(hidden, targets, lambda rows: rows @ head.T, V)
    parts = [
        summed_cross_entropy(hidden[b : b + 1], targets[b : b + 1], lambda rows: rows @ head.T, V) for b in (0, 1, 2)
    ]
    torch.testing.assert_close(sum(total for total, _ in parts), whole[0])
    assert sum(count.item() for _, count in parts) == whole[1].item()


@pytest.mark.parametrize("limit", [1 << 27, 1000 * V])
def test_sixteen_bit_logits_are_summed_in_fp32(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """In bf16, a sum of 4,000 losses would stand still once it passed a few hundred."""
    limit_logits(monkeypatch, limit)
    hidden, head, targets = (t.detach() for t in case(40, 100))
    total, count = summed_cross_entropy(hidden.bfloat16(), targets, lambda rows: rows @ head.bfloat16().T, V)
    exact = hidden.bfloat16() @ head.bfloat16().T
    expected = torch.nn.functional.cross_entropy(exact.double().flatten(0, 1), targets.flatten(), reduction="sum")
    assert total.dtype == torch.float32
    assert count > 2000
    torch.testing.assert_close(total.double(), expected, atol=0, rtol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[[1e4, 0.0, -1e4]]])
    total, _ = summed_cross_entropy(logits, torch.tensor([[1]]), lambda rows: rows, 3)
    assert total.item() == 1e4


@pytest.mark.parametrize("rows_at_once", [None, 1, 4, 20])
def test_log_probabilities_of_tokens_are_those_of_the_definition(monkeypatch, rows_at_once: int | None) -> None:
    """Each in its place, 0 where nothing is asked, and with the gradient of each by itself."""
    if rows_at_once:
        limit_logits(monkeypatch, rows_at_once * V)
    hidden, head, targets = case()
    found = token_log_probabilities(hidden, targets, lambda rows: rows @ head.T, V)
    every = (hidden.double() @ head.double().T).log_softmax(-1)  # (B, T, V)
    expected = every.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1) * (targets != IGNORED)  # (B, T)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=0, rtol=1e-6)
    weights = torch.randn(targets.shape, generator=torch.Generator().manual_seed(1))
    found, expected = (gradients((each * weights).sum(), hidden, head) for each in (found, expected))
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right, atol=1e-5, rtol=1e-5)


def test_slices_are_smaller_than_what_needs_none() -> None:
    """The limit itself in one piece; above it, rows that make a quarter of as many logits."""
    limit = size.MAX_LOGITS // V
    assert (size.rows_of_logits(limit, V), size.rows_of_logits(limit + 1, V)) == (limit, limit // 4)
    assert size.rows_of_logits(10, 2 * size.MAX_LOGITS) == 1
