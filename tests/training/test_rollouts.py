"""Rollouts are a function of the weights, the seed and the step, and what is learnt of them is the completion alone."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch

from primegpt.config import Config, resolve
from primegpt.data.batching.batches import IGNORED, Batch, Batches
from primegpt.errors import DataError
from primegpt.model.gpt import GPT
from primegpt.training.policy_gradient import PolicyGradient
from primegpt.training.rollouts import Author, HeldOut, Prompt, Rollouts, split_prompts

STOP = 20


class Letters:
    """Twenty letters, the end of text, and a token that is no text; the parts of a tokenizer that are used here."""

    eot_id, vocab_size, opening_id = STOP, 22, None
    special_tokens: ClassVar = {"<EOT>": STOP, "<PAD>": 21}
    special_kinds: ClassVar = {"system": ("<EOT>", "<PAD>")}

    def decode_within(self, ids: list[int]) -> str:
        return "".join(chr(97 + id) for id in ids)


def judge(prompts, completions, records, places) -> list[float]:
    return [text.count("a") + 0.1 * len(text) for text in completions]


def configured(model: GPT, **reinforce: object) -> Config:
    values = {"reward": ("words",), "num_generations": 4, "prompts_per_step": 3, "max_new_tokens": 8} | reinforce
    return resolve({"model": model.config.model_dump(), "reinforce": values, "train": {"batch_size": 4, "seed": 5}})


def prompts(n: int = 10) -> list[Prompt]:
    return [Prompt(number, [number % 20] * (1 + number % 5), "", {}, "") for number in range(n)]


@pytest.fixture
def model(random_model: Callable[..., GPT]) -> GPT:
    """The end of text is likely, so that completions end at different lengths."""
    model = random_model("qwen3", vocab_size=22, n_layer=2)
    with torch.no_grad():
        model.wte.weight[STOP] *= 2
    return model.train()


def rollouts(model: GPT, **reinforce: object) -> Rollouts:
    config = configured(model, **reinforce)
    return Rollouts(Author(model, Letters(), judge, config), prompts(), config)


def whole(source: Rollouts, step: int) -> Batch:
    return source.assemble(np.arange(step * 12, step * 12 + 12))


def equal(one: Batch, other: Batch) -> bool:
    same = torch.equal(one.ids, other.ids) and torch.equal(one.targets, other.targets)
    return same and all(torch.equal(value, other.extras[name]) for name, value in one.extras.items())


def test_a_step_is_the_same_whatever_was_written_before(model) -> None:
    source = rollouts(model)
    later = [whole(source, step) for step in range(4)][3]
    assert equal(later, whole(rollouts(model), 3))
    assert not torch.equal(later.ids[:, :8], whole(source, 2).ids[:, :8])


def test_how_a_step_is_divided_changes_no_row(model) -> None:
    source = rollouts(model)
    batches = Batches(source, 12, 12)
    at_once, parts = batches.micro_batches(1)[0], batches.with_batch_size(3).micro_batches(1)
    assert [part.first_example for part in parts] == [12, 15, 18, 21]
    for n, part in enumerate(parts):
        T = part.ids.size(1)
        assert torch.equal(part.targets, at_once.targets[3 * n : 3 * n + 3, :T])
        assert (at_once.targets[3 * n : 3 * n + 3, T:] == IGNORED).all()
        assert torch.equal(part.extras["advantages"], at_once.extras["advantages"][3 * n : 3 * n + 3])


def test_what_is_asked_is_the_completion_with_its_end(model) -> None:
    source = rollouts(model)
    written = source.author.write(source.chosen(0), "rollout", 0, samples=4)
    batch = whole(source, 0)
    assert {each.ended for each in written} == {True, False}
    assert len({len(each.prompt.ids) for each in written}) > 1
    for row, each in enumerate(written):
        asked = batch.targets[row] != IGNORED
        assert batch.targets[row][asked].tolist() == each.ids
        assert batch.ids[row, : asked.nonzero()[0, 0] + 1].tolist() == each.prompt.ids
        assert (each.ids[-1] == STOP) == each.ended
        assert each.ended or len(each.ids) == 8
        assert STOP not in each.ids[:-1]
        assert 21 not in each.ids


def test_the_decoders_probabilities_are_the_trainers(model) -> None:
    """At a temperature and with a ban: what is drawn from is what learns, in fp32 to 1e-4, and at first to 1e-5."""
    source = rollouts(model, temperature=0.8, num_iterations=2)
    batch, policy = whole(source, 0), source.author.writer.policy
    asked = batch.targets != IGNORED
    with torch.no_grad():
        logprobs = policy.log_probabilities(model, batch)
    assert (logprobs - batch.extras["sampling_logprobs"])[asked].abs().max() < 1e-4
    ratio = (logprobs - batch.extras["old_logprobs"])[asked].exp()
    assert (ratio - 1).abs().max() < 1e-5
    _, figures = PolicyGradient(source.config, policy, 8).token_losses(logprobs, batch)
    apart, tokens = figures["sampling/sampling_logp_difference/mean"]
    assert 0 < apart / tokens < 1e-4


def test_figures_are_those_of_all_completions(model) -> None:
    source = rollouts(model)
    batch, written = whole(source, 0), source.author.write(source.chosen(0), "rollout", 0, samples=4)
    rewards = np.array([each.reward for each in written])
    assert batch.extras["reward"].numpy() == pytest.approx(rewards)
    assert batch.extras["reward_std"][0].item() == pytest.approx(rewards.std(ddof=1))
    assert batch.extras["completions/mean_length"].numpy() == pytest.approx([len(each.ids) for each in written])
    assert batch.extras["completions/clipped_ratio"].tolist() == [not each.ended for each in written]
    alike = np.repeat(rewards.reshape(3, 4).std(axis=1) == 0, 4)
    assert batch.extras["frac_reward_zero_std"].tolist() == alike.tolist()


def test_completions_that_were_cut_teach_nothing_if_that_is_asked_for(model) -> None:
    batch = whole(rollouts(model, mask_truncated_completions=True), 0)
    cut = batch.extras["completions/clipped_ratio"] == 1
    assert cut.any()
    assert (batch.targets[cut] == IGNORED).all()
    assert not batch.extras["sampling_logprobs"][cut].any()
    assert (batch.targets[~cut] != IGNORED).any(dim=1).all()


def test_each_prompt_is_asked_at_most_once_an_epoch(model) -> None:
    source = rollouts(model)
    first, second = ([p.number for step in range(e, e + 3) for p in source.chosen(step)] for e in (0, 3))
    assert len(set(first)) == len(set(second)) == 9
    assert first != second


def test_steps_that_share_completions_find_them_in_the_state(model) -> None:
    """Their weights are other ones by then: without the state they would be written anew, and otherwise."""
    source = rollouts(model, num_iterations=3)
    first = whole(source, 6)
    state = {name: tensor.clone() for name, tensor in source.state().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert equal(whole(source, 7), first)
    resumed = rollouts(model, num_iterations=3)
    resumed.load_state(state)
    assert equal(whole(resumed, 8), first)
    assert not equal(whole(rollouts(model, num_iterations=3), 8), first)
    written = rollouts(model)
    whole(written, 0)
    assert all(name.startswith("heard.") for name in written.state())  # each step writes: nothing else is to be kept


def test_evaluations_are_a_function_of_the_weights(model) -> None:
    author = Author(model, Letters(), judge, configured(model))
    held_out = HeldOut(author, prompts(), 4)
    assert len(held_out) == 3
    assert all(equal(one, other) for one, other in zip(held_out, held_out, strict=True))
    objective = PolicyGradient(configured(model).reinforce, author.writer.policy, 8)
    loss, count, figures = objective(model.eval(), held_out[0])
    assert count == 4
    assert -loss.item() == pytest.approx(figures["reward"][0].item())


def test_too_few_prompts_are_refused(model) -> None:
    config = configured(model)
    with pytest.raises(DataError, match=r"2 prompts .* fewer than a step of 3"):
        Rollouts(Author(model, Letters(), judge, config), prompts(2), config)


def test_held_out_prompts_are_not_learnt_from() -> None:
    twice = [Prompt(n, [n // 2], "", {}, "") for n in range(40)]
    learnt, held_out = split_prompts(twice, 0.1)
    assert len(held_out) == 4
    assert not {p.ids[0] for p in learnt} & {p.ids[0] for p in held_out}
    assert len(learnt) >= 32
    assert split_prompts(twice, 0.1) == (learnt, held_out)
