"""The sampling rules against brute force in plain Python."""

import math
import random
from itertools import accumulate

import pytest
import torch

from primegpt.config import GenerateConfig
from primegpt.inference.logits import choose, draw, filtered, min_p, penalise_repetition, probabilities, top_k, top_p

NO_RULES = GenerateConfig(temperature=1.0, top_k=0)


def kept(logits: torch.Tensor) -> list[set[int]]:
    return [{i for i, x in enumerate(row) if x > -math.inf} for row in logits.tolist()]


def brute_force(
    logits: list[float], settings: GenerateConfig, banned: set[int], seen: list[int]
) -> tuple[dict[int, float], float]:
    """The distribution {id: probability} by definition, and how near a token came to an edge of top-p or min-p."""
    for i in set(seen):
        logits[i] = (
            logits[i] * settings.repetition_penalty if logits[i] < 0 else logits[i] / settings.repetition_penalty
        )
    weights = {i: x / settings.temperature for i, x in enumerate(logits) if i not in banned}
    if settings.top_k:
        kth = sorted(weights.values())[-min(settings.top_k, len(weights))]
        weights = {i: x for i, x in weights.items() if x >= kth}
    peak = max(weights.values())
    weights = {i: math.exp(x - peak) for i, x in weights.items()}
    total, before, margin, chosen = sum(weights.values()), 0.0, 1.0, {}
    for i in sorted(weights, key=lambda i: -weights[i]):
        if settings.top_p < 1:
            margin = min(margin, abs(before - settings.top_p))
        if before < settings.top_p or settings.top_p == 1 or not chosen:
            chosen[i] = weights[i]
        before += weights[i] / total
    top = max(chosen.values())
    if settings.min_p:
        margin = min(margin, *(abs(weight / top - settings.min_p) for weight in chosen.values()))
    chosen = {i: weight for i, weight in chosen.items() if weight >= settings.min_p * top}
    total = sum(chosen.values())
    return {i: weight / total for i, weight in chosen.items()}, margin


def test_kept_sets_and_probabilities_equal_brute_force() -> None:
    """1,000 random cases of all rules together; those within rounding of top-p's edge decide nothing: drawn again."""
    random.seed(0)
    generator = torch.Generator().manual_seed(0)
    compared = 0
    while compared < 1000:
        V = random.randint(2, 40)
        logits = torch.randn(1, V, generator=generator) * random.choice([0.1, 1, 5])
        banned = set(random.sample(range(V), random.randint(0, V - 1)))
        settings = GenerateConfig(
            temperature=random.choice([0.1, 0.9, 1.0, 3.0]),
            top_k=random.choice([0, 1, 3, 10, 200]),
            top_p=random.choice([0.01, 0.5, 0.9, 0.999, 1.0]),
            min_p=random.choice([0.0, 0.0, 0.05, 0.5]),
            repetition_penalty=random.choice([0.5, 1.0, 1.0, 1.3, 3.0]),
        )
        seen = random.choices(range(V), k=random.randint(1, 9))
        expected, margin = brute_force(logits[0].tolist(), settings, banned, seen)
        if margin < 1e-5:
            continue
        compared += 1
        found = torch.tensor(sorted(banned), dtype=torch.long)
        rules = filtered(logits, settings, found, torch.tensor([seen]))
        assert kept(rules) == [set(expected)]
        p = rules.softmax(-1)[0]
        torch.testing.assert_close(p, torch.tensor([expected.get(i, 0.0) for i in range(V)]), atol=1e-6, rtol=1e-4)


def test_top_k_keeps_every_token_equal_to_the_kth() -> None:
    assert kept(top_k(torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0]]), 2)) == [{0, 2, 3, 4}]


def test_top_p_keeps_at_least_the_likeliest_and_stops_at_p() -> None:
    quarter = torch.zeros(1, 4)
    assert len(kept(top_p(quarter, 0.5))[0]) == 2  # the third has 0.5 before it, which is not less than p
    assert len(kept(top_p(quarter, 0.51))[0]) == 3
    logits = torch.randn(100, 30, generator=torch.Generator().manual_seed(4))
    assert kept(top_p(logits, 1e-9)) == [{int(i)} for i in logits.argmax(-1)]


def test_a_penalty_never_raises_a_token_and_counts_it_once() -> None:
    """Dividing a negative logit by the penalty would raise it, the mistake of the first implementations."""
    logits = torch.tensor([[2.0, -2.0, 0.0, 1.0]])
    found = penalise_repetition(logits, torch.tensor([[0, 0, 1, 2]]), 2.0)
    assert found.tolist() == [[1.0, -4.0, 0.0, 1.0]]


def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert [kept(min_p(logits, p))[0] for p in (0.05, 0.2, 0.5, 1.0)] == [{0, 1, 2, 3}, {0, 1, 2}, {0, 1}, {0}]
    assert kept(min_p(torch.zeros(1, 3), 1.0)) == [{0, 1, 2}]


@pytest.mark.parametrize("ties", [False, True])
def test_choosing_among_the_k_likeliest_is_choosing_after_all_rules(ties: bool) -> None:
    """`choose` looks at k tokens only; rows that keep more of them than k, by ties, take the longer way."""
    generator = torch.Generator().manual_seed(9)
    for case in range(200):
        logits = torch.randn(3, 80, generator=generator) * 3
        logits = logits.round() if ties else logits
        settings = GenerateConfig(
            top_k=[1, 7, 40, 200][case % 4], top_p=[1.0, 0.8][case % 2], min_p=[0.0, 0.1][case % 3 % 2]
        )
        rest = (
            torch.tensor([3, 5]),
            torch.randint(80, (3, 4), generator=generator),
            torch.tensor([[0.5], [1.0], [2.0]]),
        )
        uniforms = torch.rand(3, dtype=torch.float64, generator=generator)
        expected = draw(filtered(logits, settings, *rest).softmax(-1), uniforms)
        assert torch.equal(choose(logits, settings, uniforms, *rest), expected)


def test_each_row_has_its_own_temperature() -> None:
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(10)).expand(3, -1)
    temperature = torch.tensor([[0.5], [1.0], [2.0]])
    found = filtered(logits, NO_RULES, temperature=temperature).softmax(-1)
    torch.testing.assert_close(found, (logits / temperature).softmax(-1))


def test_bans_come_before_top_k_and_temperature_before_top_p() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    two = GenerateConfig(temperature=1.0, top_k=2)
    assert kept(filtered(logits, two, torch.tensor([0]))) == [{1, 2}]
    flat = GenerateConfig(temperature=100.0, top_k=0, top_p=0.7)
    assert kept(filtered(logits, flat)) == [{0, 1, 2}]
    assert kept(filtered(logits, flat.model_copy(update={"temperature": 0.1}))) == [{0}]


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-30, 1e-3])
def test_no_temperature_is_too_low(temperature: float) -> None:
    logits = torch.tensor([[1.0, 300.0, -1e4, 2.0], [0.5, 0.0, 0.25, -2.0]])
    settings = GenerateConfig(temperature=temperature, top_k=0)
    uniforms = torch.tensor([0.0, 0.999], dtype=torch.float64)
    assert probabilities(logits, settings).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert choose(logits, settings, uniforms).tolist() == [1, 0]


def test_greedy_takes_the_likeliest_token_that_is_not_banned() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 0.0]])
    settings = GenerateConfig(temperature=0.0, top_k=1)
    assert choose(logits, settings, torch.zeros(2), torch.tensor([1])).tolist() == [2, 0]


def test_evenly_spaced_numbers_draw_each_token_as_often_as_its_probability_says() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(3)) * 3
    settings = GenerateConfig(temperature=0.7, top_k=20)
    n = 100_000
    uniforms = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = choose(logits.expand(n, -1), settings, uniforms).bincount(minlength=50)
    assert (drawn - probabilities(logits, settings)[0].double() * n).abs().max() <= 1.01


def test_small_probabilities_of_a_large_vocabulary_are_summed_in_fp64() -> None:
    """Numbers just inside either end of a token's share, among 50,000: fp32 sums would take its neighbour at times."""
    p = torch.rand(50_000, generator=torch.Generator().manual_seed(8)).softmax(-1)
    sums = [0.0, *accumulate(p.tolist())]
    tokens = list(range(7, 50_000, 997))
    for share in (0.001, 0.999):
        inside = [(sums[i] + share * (sums[i + 1] - sums[i])) / sums[-1] for i in tokens]
        assert draw(p.expand(len(tokens), -1), torch.tensor(inside, dtype=torch.float64)).tolist() == tokens


def test_a_removed_token_is_never_drawn_at_either_end_of_the_interval() -> None:
    p = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]])
    almost_one = math.nextafter(1.0, 0.0)
    for scale in (1.0, 1 / 3, 1e-3):  # rounding may leave a sum a little off 1
        ends = torch.tensor([0.0, almost_one], dtype=torch.float64)
        assert draw((p * scale).expand(2, -1), ends).tolist() == [1, 3]


def test_a_row_is_drawn_alike_alone_and_in_a_batch() -> None:
    logits = torch.randn(8, 300, generator=torch.Generator().manual_seed(5))
    settings = GenerateConfig(top_k=50, top_p=0.8)
    uniforms = torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    alone = [choose(logits[b : b + 1], settings, uniforms[b : b + 1]).item() for b in range(8)]
    assert choose(logits, settings, uniforms).tolist() == alone


def test_sixteen_bit_logits_are_judged_in_fp32() -> None:
    logits = torch.randn(4, 100, generator=torch.Generator().manual_seed(7)).bfloat16()
    p = probabilities(logits, NO_RULES)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, logits.float().softmax(-1))


def test_the_rules_leave_their_input_alone() -> None:
    logits = torch.randn(2, 30)
    before = logits.clone()
    choose(logits, GenerateConfig(top_k=3, top_p=0.5), torch.zeros(2, dtype=torch.float64), torch.tensor([1, 2]))
    assert torch.equal(logits, before)
