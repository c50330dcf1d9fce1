"""Rows that begin alike: their log-probabilities and gradients are the whole model's, however little is computed."""

import pytest
import torch
from torch import Tensor

from primegpt.model.continuations import continuations, log_probabilities
from primegpt.model.gpt import GPT
from primegpt.model.loss import IGNORED
from primegpt.training.assemble import RecomputedBlock

ASKED = [(3, 9), (3, 20), (3, 5), (0, 4), (5, 5), (5, 8), (19, 20)]  # of each row's targets; nothing of the fifth


def rows() -> tuple[Tensor, Tensor]:
    """Ids and targets (7, 20): three rows begin alike, one has no prompt, one is a prompt but for a token."""
    generator = torch.Generator().manual_seed(1)
    ids, targets = torch.randint(50, (2, 7, 20), generator=generator)
    ids[1:3, :3] = ids[0, :3]
    for row, (first, last) in enumerate(ASKED):
        targets[row, :first] = IGNORED
        targets[row, last:] = IGNORED
    return ids, targets


def gradients(model: GPT, logprobs: Tensor) -> list[Tensor]:
    model.zero_grad()
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(2))
    (logprobs * weights).sum().backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@pytest.mark.parametrize("preset", ["gpt2", "qwen3", "prime"])
def test_they_are_those_of_whole_rows(random_model, preset: str, kernel: str) -> None:
    model = random_model(preset, vocab_size=50, block_size=20).double().use_attention(kernel)
    ids, targets = rows()

    def rule(logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor([49]), -9.0) / 0.8

    whole = model(ids, targets=targets, logprobs=True, rule=rule)
    shared = log_probabilities(model, ids, targets, rule)
    assert (shared - whole).abs().max() < 1e-5
    assert (shared[targets == IGNORED] == 0).all()
    for one, other in zip(gradients(model, shared), gradients(model, whole), strict=True):
        assert (one - other).abs().max() < 2e-5


def test_blocks_may_be_computed_twice(random_model) -> None:
    model = random_model("qwen3", vocab_size=50)
    kept = gradients(model, log_probabilities(model, *rows()))
    for block in model.h:
        block.__class__ = RecomputedBlock
    recomputed = gradients(model, log_probabilities(model, *rows()))
    assert all(torch.equal(one, other) for one, other in zip(kept, recomputed, strict=True))


def test_a_prompt_is_read_once() -> None:
    ids, targets = rows()
    cut = continuations(ids, targets)
    assert cut.rows.squeeze(1).tolist() == [0, 1, 2, 3, 5, 6]
    assert cut.prompt_of.tolist() == [0, 0, 0, 1, 2, 3]
    assert cut.sizes.tolist() == [3, 3, 3, 0, 5, 19]
    assert cut.prompts[0, :3].tolist() == ids[0, :3].tolist()
    assert cut.targets[5][cut.targets[5] != IGNORED].tolist() == targets[6, 19:].tolist()


def test_where_nothing_is_asked_there_is_nothing(random_model) -> None:
    ids, targets = rows()
    assert not log_probabilities(random_model(vocab_size=50), ids, torch.full_like(targets, IGNORED)).any()
