"""The objective of reinforce: against plain loops, and against the gradient of the expected reward, enumerated."""

import math
from collections.abc import Iterator
from itertools import product
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from primegpt.config import ReinforceConfig, resolve
from primegpt.data.batching.batches import IGNORED, Batch, Batches
from primegpt.model.gpt import GPT
from primegpt.training.policy_gradient import Policy, PolicyGradient, advantages, worth_learning
from primegpt.training.rollouts import Author, Prompt, Rollouts
from primegpt.training.step import Precision, compute_gradients

NOTHING = torch.tensor([], dtype=torch.long)
LONGEST = 5
LOSSES = ("grpo", "dr_grpo", "dapo")


def rows(generator: torch.Generator) -> Batch:
    """Six rows of seven tokens: prompts and completions of several lengths, one of which is not asked for at all."""
    ids = torch.randint(20, (6, 7), generator=generator)
    targets = torch.randint(20, (6, 7), generator=generator)
    for row, (first, last) in enumerate([(1, 3), (2, 7), (0, 5), (3, 4), (2, 2), (4, 7)]):
        targets[row, :first] = IGNORED
        targets[row, last:] = IGNORED
    asked = targets != IGNORED

    def some(scale: float) -> Tensor:
        return torch.randn(6, 7, generator=generator) * scale * asked

    old = -3 + some(0.3)
    extras = {
        "advantages": torch.tensor([1.0, -0.5, 0.7, -1.2, 0.4, 0.0]),
        "old_logprobs": old * asked,
        "ref_logprobs": (old + some(0.3)) * asked,
        "sampling_logprobs": (old + some(1e-3)) * asked,
        "reward": torch.tensor([1.0, 0.0, 1.0, 0.0, 0.5, 0.5]),
    }
    return Batch(ids, targets, None, None, 0, extras)


def by_hand(config: ReinforceConfig, logprobs: Tensor, batch: Batch) -> Tensor:
    """The loss of a step as the papers have it, token by token."""
    sequences, n_tokens = [], 0
    for b in range(len(batch.ids)):
        tokens = []
        for t in range(batch.ids.size(1)):
            if batch.targets[b, t] == IGNORED:
                continue
            ratio = math.e ** (logprobs[b, t] - batch.extras["old_logprobs"][b, t])
            low, high = 1 - config.epsilon, 1 + (config.epsilon_high or config.epsilon)
            clipped = low if ratio < low else high if ratio > high else ratio
            A = float(batch.extras["advantages"][b])
            one, other = ratio * A, clipped * A
            gain = one if one <= other else other
            away = batch.extras["ref_logprobs"][b, t] - logprobs[b, t]
            corrected = ratio if config.use_bias_correction_kl else 1
            tokens.append(config.beta * corrected * (math.e**away - away - 1) - gain)
        sequences.append(tokens)
        n_tokens += len(tokens)
    if config.loss_type == "dapo":
        return sum(sum(tokens) for tokens in sequences) / n_tokens
    if config.loss_type == "dr_grpo":
        return sum(sum(tokens) for tokens in sequences) / (len(sequences) * LONGEST)
    return sum(sum(tokens) / max(1, len(tokens)) for tokens in sequences) / len(sequences)


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"beta": 0.1},
        {"beta": 0.1, "use_bias_correction_kl": False},
        {"beta": 0.04, "epsilon": 0.1, "epsilon_high": 0.28},
    ],
)
def test_losses_and_gradients_are_those_of_plain_loops(loss_type: str, extra: dict[str, float]) -> None:
    config = ReinforceConfig(loss_type=loss_type, **extra)
    generator = torch.Generator().manual_seed(0)
    batch = rows(generator)
    asked = batch.targets != IGNORED
    start = (batch.extras["old_logprobs"] + 0.3 * torch.randn(6, 7, generator=generator)) * asked
    objective = PolicyGradient(config, Policy(1.0, NOTHING), LONGEST)

    ours = start.clone().requires_grad_()
    losses, figures = objective.token_losses(ours, batch)
    loss = objective.reduced(losses, asked) / objective.count(batch)
    loss.backward()
    theirs = start.double().requires_grad_()
    expected = by_hand(config, theirs, batch)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(ours.grad * asked, theirs.grad.float() * asked, atol=1e-6)
    clipped, count = figures["clip_ratio/region_mean"]
    assert 0 < clipped < count == asked.sum()  # or the clipping was not tried


def test_advantages_are_those_of_their_group() -> None:
    rewards = np.array([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 5.0, 0.2, 0.4, 0.9, 0.1])
    for scale in ("group", "batch", "none"):
        above, spread = advantages(torch.tensor(rewards), 4, scale)
        for g in range(3):
            group = rewards[4 * g : 4 * g + 4]
            size = {"group": group.std(ddof=1) + 1e-4, "batch": rewards.std(ddof=1) + 1e-4, "none": 1.0}[scale]
            assert above[4 * g : 4 * g + 4].numpy() == pytest.approx((group - group.mean()) / size)
            assert spread[4 * g].item() == pytest.approx(group.std(ddof=1))
    assert not above[4:8].any()  # all completions alike: nothing to learn from


@pytest.mark.parametrize("loss_type", LOSSES)
def test_how_a_step_is_divided_changes_nothing_but_rounding(random_model, loss_type: str) -> None:
    batch = rows(torch.Generator().manual_seed(0))
    objective = PolicyGradient(ReinforceConfig(loss_type=loss_type, beta=0.1), Policy(1.0, NOTHING), LONGEST)

    def gradient(size: int) -> Tensor:
        model = random_model().train()
        parts = [
            Batch(
                batch.ids[first : first + size],
                batch.targets[first : first + size],
                None,
                None,
                first,
                {name: value[first : first + size] for name, value in batch.extras.items()},
            )
            for first in range(0, 6, size)
        ]
        assert compute_gradients(model, parts, Precision("fp32", "cpu"), 0, 0, objective=objective)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = gradient(6)
    assert whole.abs().max() > 1e-3
    assert torch.allclose(gradient(2), whole, atol=1e-6)
    assert torch.allclose(gradient(1), whole, atol=1e-6)


def test_the_policy_is_the_model_at_a_temperature_without_banned_ids(random_model) -> None:
    model, banned = random_model(vocab_size=30), torch.tensor([3, 4])
    ids = torch.randint(5, 30, (2, 8), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, dims=1)
    targets[0, :3] = IGNORED
    found = Policy(0.7, banned).log_probabilities(model, Batch(ids, targets, None, None, 0))
    logits = model(ids).double() / 0.7
    logits[..., banned] = -math.inf
    expected = logits.log_softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(found.double(), expected * (targets != IGNORED), atol=1e-5)


# ---- The gradient itself, on a vocabulary that can be enumerated


class Letters:
    """Three letters, and the end of text; the parts of a tokenizer that are used here."""

    eot_id, vocab_size, opening_id = 3, 4, None
    special_tokens: ClassVar = {"<EOT>": 3}
    special_kinds: ClassVar = {"system": ("<EOT>",)}

    def decode_within(self, ids: list[int]) -> str:
        return "".join("abc"[id] for id in ids)


def score(text: str) -> float:
    return text.count("a") - 0.5 * text.startswith("b") + 0.25 * (len(text) == 1)


def judge(prompts, completions, records, places) -> list[float]:
    return [score(text) for text in completions]


def completions(longest: int) -> Iterator[list[int]]:
    """All that can be written: up to `longest` tokens, the end of text the last of them if it comes."""
    for length in range(1, longest + 1):
        for head in product(range(3), repeat=length - 1):
            yield [*head, 3]
    for whole in product(range(3), repeat=longest):
        yield list(whole)


def exact_gradient(model: GPT, prompt: list[int], longest: int) -> Tensor:
    """Of the expected reward, summed over all completions."""
    expected = torch.zeros(())
    for ids in completions(longest):
        logits = model(torch.tensor([[*prompt, *ids[:-1]]]))[0, len(prompt) - 1 :]
        likelihood = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].sum().exp()
        expected = expected + likelihood * score("".join("abc"[id] for id in ids if id < 3))
    grads = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    return torch.cat(
        [g.flatten() if g is not None else p.flatten() * 0 for g, p in zip(grads, model.parameters(), strict=True)]
    )


def test_the_mean_estimated_gradient_is_that_of_the_expected_reward(random_model) -> None:
    """2,000 groups of 4, each with streams of its own: the mean of what steps estimate lies within its 99% interval.

    A group's mean is a baseline that the completion itself is part of, so that the estimate is (1 - 1/4) of the exact
    gradient; dr_grpo divides by the longest length. Without a scale, so that nothing else is biased.
    """
    longest, group, steps, at_once, prompt = 3, 4, 100, 20, [1, 0, 2]
    model = random_model(vocab_size=4, n_layer=1, n_embd=16, n_head=2, block_size=16).train()
    config = resolve(
        {
            "model": model.config.model_dump(),
            "reinforce": {
                "reward": ("words",), "num_generations": group, "prompts_per_step": at_once, "max_new_tokens": longest,
                "loss_type": "dr_grpo", "scale_rewards": "none",
            },
            "train": {"batch_size": group * at_once},
        }
    )  # fmt: skip
    author = Author(model, Letters(), judge, config)
    prompts = [Prompt(n, prompt, "", {}, "") for n in range(steps * at_once)]
    batches = Batches(Rollouts(author, prompts, config), group * at_once, group * at_once)
    objective = PolicyGradient(config.reinforce, author.writer.policy, longest)
    estimates = []
    for step in range(steps):
        assert compute_gradients(
            model, batches.micro_batches(step), Precision("fp32", "cpu"), 0, step, objective=objective
        )
        estimates.append(torch.cat([(p.grad if p.grad is not None else p * 0).flatten() for p in model.parameters()]))
        model.zero_grad()

    exact = -(1 - 1 / group) / longest * exact_gradient(model, prompt, longest)
    directions = torch.randn(12, len(exact), generator=torch.Generator().manual_seed(2)).double()
    directions[0] = exact.double()  # and as many others as are nearly independent of each other
    directions /= directions.norm(dim=1, keepdim=True)
    found = torch.stack(estimates).double() @ directions.T  # (steps, 12)
    errors = found.mean(0) - directions @ exact.double()
    covariance = found.T.cov() / steps
    assert errors[0].abs() < 2.576 * covariance[0, 0].sqrt()
    assert (
        errors @ torch.linalg.solve(covariance, errors) < 32.4
    )  # Hotelling's T² of 12 means over 100 steps: 99% are below
    assert (directions[0] @ exact.double()) > 10 * covariance[0, 0].sqrt()  # or the interval would hold anything


@pytest.mark.parametrize("loss_type", LOSSES)
def test_what_is_worth_as_much_as_its_group_is_not_computed_and_changes_nothing(random_model, loss_type: str) -> None:
    batch, model = rows(torch.Generator().manual_seed(0)), random_model("qwen3").train()
    batch.extras["advantages"][:] = torch.tensor([0.0, 0.0, 0.7, 0.0, -0.4, 0.0])
    del batch.extras["old_logprobs"]
    objective, found = PolicyGradient(ReinforceConfig(loss_type=loss_type), Policy(1.0, NOTHING), LONGEST), []

    def gradient(everything: bool) -> Tensor:
        model.zero_grad()
        if everything:
            loss, _ = objective.token_losses(objective.policy.log_probabilities(model, batch), batch)
            loss, count = objective.reduced(loss, batch.targets != IGNORED), objective.count(batch)
        else:
            loss, count, _ = objective(model, batch)
        found.append((loss.item(), count))
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole, part = gradient(True), gradient(False)
    assert (whole - part).abs().max() < 1e-6 * whole.abs().max()
    assert found[0] == pytest.approx(found[1])
    assert (worth_learning(batch).targets != IGNORED).any(dim=1).tolist() == [False, False, True, False, False, False]


def test_of_a_step_without_spread_all_gradients_are_zero_and_there(random_model) -> None:
    batch, model = rows(torch.Generator().manual_seed(0)), random_model().train()
    batch.extras["advantages"][:] = 0.0
    loss, _, _ = PolicyGradient(ReinforceConfig(), Policy(1.0, NOTHING), LONGEST)(model, batch)
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_rewards_of_a_group_that_are_alike_are_above_by_exactly_nothing() -> None:
    above, _ = advantages(torch.tensor([0.1] * 7 + [0.3] * 6 + [0.2], dtype=torch.float64), 7, "group")
    assert not above[:7].any()
    assert above[7:].all()
