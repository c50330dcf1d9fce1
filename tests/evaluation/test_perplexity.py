"""Every target once, with the context it should have; the same figure for any batch size."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from primegpt.evaluation.perplexity import evaluate_loss, sliding_windows


def documents():
    random = np.random.default_rng(0)
    return [random.integers(0, 100, size).astype(np.uint16) for size in (1, 2, 9, 40, 64, 65, 130)]


@pytest.mark.parametrize(("length", "stride"), [(16, None), (16, 16), (16, 5), (16, 1), (64, 48), (200, None)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_target_is_asked_for_once(length, stride, batch_size):
    asked = []
    for batch in sliding_windows(documents(), length=length, batch_size=batch_size, stride=stride):
        assert batch.ids.size(1) <= length
        asked += batch.targets[batch.targets >= 0].tolist()
    assert asked == [id for document in documents() for id in document[1:]]


def test_the_loss_is_the_mean_by_its_definition(random_model):
    """Token by token: the last `length` tokens of a window of the right phase, one forward pass each."""
    model, document, length, stride = random_model(), documents()[-1], 16, 5
    losses = []
    for target in range(1, len(document)):
        window = max(0, math.ceil((target - length) / stride))  # the first window that reaches it
        context = torch.from_numpy(document[window * stride : target].astype(np.int64))
        with torch.inference_mode():
            losses.append(F.cross_entropy(model(context[None])[0, -1:], torch.tensor([int(document[target])])).item())
    batches = sliding_windows([document], length=length, batch_size=3, stride=stride)
    result = evaluate_loss(model, batches, text_bytes=500)
    assert result.targets == len(losses)
    assert result.loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(sum(losses) / math.log(2) / 500, rel=1e-5)


@pytest.mark.parametrize("preset", ["gpt2", "prime"])
def test_the_batch_size_changes_nothing(random_model, preset):
    model = random_model(preset, dropout=0.3).train()
    losses = [
        evaluate_loss(model, sliding_windows(documents(), length=32, batch_size=size, stride=20)).loss
        for size in (1, 4, 32)
    ]
    assert losses[1:] == pytest.approx(losses[:1] * 2, abs=1e-5)
    assert model.training


def test_perplexity_of_a_known_text(random_model, shared_data):
    """Tiny Shakespeare (its first 60,000 characters) under batches of 1, 4 and 32."""
    text = (shared_data / "tinyshakespeare.txt").read_bytes()[:60_000]
    stream = np.frombuffer(text, np.uint8)
    model = random_model(vocab_size=256, n_embd=16)
    perplexities = [
        evaluate_loss(model, sliding_windows([stream], length=64, batch_size=size)).perplexity for size in (1, 4, 32)
    ]
    assert perplexities[1:] == pytest.approx(perplexities[:1] * 2, rel=1e-5)
