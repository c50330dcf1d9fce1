"""The divergence of two models, against all texts that one of them can write, each with its probability."""

from dataclasses import asdict
from itertools import product

import pytest
import torch

from primegpt.errors import DataError
from primegpt.evaluation.divergence import Drawn, divergence, divergences

V, END, BANNED, LONGEST = 5, 0, 1, 3
ALLOWED = [END, 2, 3, 4]


@pytest.fixture
def models(random_model):
    model, other = (random_model(vocab_size=V, block_size=8) for _ in range(2))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    return model, other


def all_texts() -> list[Drawn]:
    """Every text of at most LONGEST tokens that can follow a prompt: ended, or cut."""
    letters = ALLOWED[1:]
    ended = [list(ids) for n in range(LONGEST) for ids in product(letters, repeat=n)]
    cut = [list(ids) for ids in product(letters, repeat=LONGEST)]
    return [Drawn([2, 4], ids, True) for ids in ended] + [Drawn([2, 4], ids, False) for ids in cut]


def log_probability(model, text: Drawn) -> float:
    """By the definition, token after token, over the ids that may be written."""
    seen, total = list(text.context), 0.0
    for id in [*text.ids, *([END] if text.ended else [])]:
        with torch.inference_mode():
            logits = model(torch.tensor([seen]))[0, -1].double()
        total += (logits[id] - logits[ALLOWED].logsumexp(0)).item()
        seen.append(id)
    return total


def test_in_the_mean_it_is_the_divergence_of_whole_answers(models):
    model, other = models
    texts = all_texts()
    p, q = (torch.tensor([log_probability(each, text) for text in texts]).double() for each in models)
    assert p.exp().sum().item() == pytest.approx(1)
    exact = (p.exp() * (p - q)).sum().item()
    found = torch.stack([each.sum() for each in divergences(model, other, texts, torch.tensor([BANNED]))])
    assert (p.exp() * found).sum().item() == pytest.approx(exact, rel=1e-4)
    assert exact > 0.01


def test_it_is_a_mean_over_tokens_and_nothing_from_itself(models):
    model, other = models
    texts, banned = all_texts(), torch.tensor([BANNED])
    parts = list(divergences(model, other, texts, banned))
    found = divergence(model, other, texts, banned)
    assert found.tokens == sum(len(text.ids) + text.ended for text in texts) == sum(map(len, parts))
    assert found.per_token == pytest.approx(torch.cat(parts).mean().item())
    assert found.per_answer == pytest.approx(sum(each.sum().item() for each in parts) / len(texts))
    assert found.interval[0] < found.per_token < found.interval[1]
    assert divergence(model, model, texts, banned).per_token == 0


def test_of_a_long_text_what_is_within_the_block_counts(models):
    whole, cut = ([Drawn([2, 3], [4] * n, False)] for n in (30, 7))  # a block of 8 after which one more is asked for
    (a,), (b,) = (list(divergences(*models, text, torch.tensor([BANNED]))) for text in (whole, cut))
    assert len(a) == 7
    torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("error")
def test_texts_of_which_nothing_is_within_the_block_count_for_nothing(models):
    banned, beyond = torch.tensor([BANNED]), Drawn([2] * 9, [3, 4], False)
    texts = all_texts()[:3]
    more, alone = (asdict(divergence(*models, some, banned)) for some in ([beyond, *texts, beyond], texts))
    assert {name: pytest.approx(value, rel=1e-4) for name, value in alone.items()} == more  # sums round with the rows
    with pytest.raises(DataError, match="no token of these texts"):
        divergence(*models, [beyond], banned)
