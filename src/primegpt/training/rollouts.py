"""Completions as a source of batches: each step writes to its prompts with the model as it stands, and has them judged.

Completion i of prompt p at step s is drawn from the stream (seed, "rollout", s, p, i), so that it is a function of that
and of the weights, and a run that was killed goes on as if it had not been. Where several steps learn from the same
completions, a checkpoint keeps these.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from primegpt.config import Config, GenerateConfig, ReinforceConfig
from primegpt.data.batching.batches import IGNORED, Batch, Integers
from primegpt.data.batching.examples import padded
from primegpt.errors import DataError
from primegpt.evaluation.rewards import Reward
from primegpt.inference.context import Row
from primegpt.inference.decoder import Decoder
from primegpt.inference.logits import draw
from primegpt.model.gpt import GPT
from primegpt.seeds import derive_seed
from primegpt.tokenizers.base import Tokenizer
from primegpt.training.collapse import Collapse
from primegpt.training.policy_gradient import Policy, advantages


@dataclass(frozen=True)
class Prompt:
    """What a model is asked, in ids and in words, and the record that says so."""

    number: int
    """Its place among all prompts, which names the streams that its completions are drawn from."""
    ids: list[int]
    text: str
    record: Mapping[str, Any]
    place: str
    """Where the record stands, for messages."""


def split_prompts(prompts: Sequence[Prompt], fraction: float) -> tuple[list[Prompt], list[Prompt]]:
    """Those to learn from and those held out, at least one; what is asked in the latter is not in the former.

    Nothing here depends on the seed of a run: runs of different seeds are judged on the same prompts.
    """
    order = np.random.Generator(np.random.PCG64(derive_seed(0, "held-out prompts"))).permutation(len(prompts))
    held_out = [prompts[n] for n in sorted(order[: max(1, round(fraction * len(prompts)))].tolist())]
    asked = {tuple(prompt.ids) for prompt in held_out}
    return [prompt for prompt in prompts if tuple(prompt.ids) not in asked], held_out


def refuse_too_few(prompts: Sequence[Prompt], config: ReinforceConfig) -> None:
    """Raise DataError if these are fewer than a step writes to."""
    if len(prompts) < config.prompts_per_step:
        raise DataError(
            f"{len(prompts)} prompts to learn from are fewer than a step of {config.prompts_per_step}",
            "add prompts, or lower reinforce.prompts_per_step",
        )


@dataclass(frozen=True)
class Written:
    """A completion, and what it is worth."""

    prompt: Prompt
    ids: list[int]
    """With the id that ended it, where one did."""
    logprobs: list[float]
    """The policy's log p of each id, as it was drawn."""
    text: str
    ended: bool
    """Whether it came to an end, and was not cut."""
    reward: float = 0.0


class Writer(Decoder):
    """A decoder that draws from the policy, and keeps log p of each id that it draws, the one that ends a text too."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, temperature: float) -> None:
        super().__init__(model, tokenizer)
        self.policy = Policy(temperature, self.banned)

    def pick(self, logits: Tensor, rows: Sequence[Row], settings: GenerateConfig) -> Tensor:
        """As the decoder picks by `sampling`, with the probabilities at hand."""
        logprobs = self.policy(logits).log_softmax(dim=-1)  # (B, V)
        ids = draw(logprobs.exp(), torch.tensor([row.random.random() for row in rows], dtype=torch.float64))
        drawn = logprobs.gather(-1, ids.to(logprobs.device).unsqueeze(-1)).squeeze(-1)  # (B,)
        for row, value in zip(rows, drawn.tolist(), strict=True):
            row.logprobs.append(value)
        return ids

    def complete(
        self,
        prompts: Sequence[Prompt],
        streams: Sequence[int],
        settings: GenerateConfig,
        poll: Callable[[], None] = lambda: None,
    ) -> list[Written]:
        """A completion of each prompt, side by side, drawn from the stream beside it."""
        block = self.model.config.block_size
        rows = [Row(p.ids, block, Random(seed)) for p, seed in zip(prompts, streams, strict=True)]
        with evaluating(self.model):
            for _ in self.decode_loop(rows, settings):
                poll()
        return [
            Written(
                prompt,
                row.added if row.stop_id is None else [*row.added, row.stop_id],
                row.logprobs,
                self.tokenizer.decode_within(row.added),
                row.finish_reason == "stop",
            )
            for prompt, row in zip(prompts, rows, strict=True)
        ]


@contextmanager
def evaluating(model: GPT) -> Generator[None]:
    """Dropout off inside."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class Author:
    """Writes to prompts as a run's configuration has it, and has the reward judge what came of it."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, reward: Reward, config: Config) -> None:
        self.writer = Writer(model, tokenizer, config.reinforce.temperature)
        self.reward, self.seed = reward, config.train.seed
        self.longest = config.reinforce.max_new_tokens or 1
        self.settings = sampling(config)
        self.poll: Callable[[], None] = lambda: None
        """Called after each token; may raise to stop."""

    def write(self, prompts: Sequence[Prompt], *scope: int | str, samples: int = 1) -> list[Written]:
        """`samples` completions of each prompt, next to each other, drawn from the stream `scope`, and judged."""
        asked = [prompt for prompt in prompts for _ in range(samples)]
        streams = [derive_seed(self.seed, *scope, prompt.number, i) for prompt in prompts for i in range(samples)]
        written = self.writer.complete(asked, streams, self.settings, self.poll)
        rewards = self.reward(
            [each.prompt.text for each in written],
            [each.text for each in written],
            [each.prompt.record for each in written],
            [each.prompt.place for each in written],
        )
        return [replace(each, reward=reward) for each, reward in zip(written, rewards, strict=True)]


def sampling(config: Config) -> GenerateConfig:
    """Drawn from the policy alone, with no rule of generation that changes it."""
    assert config.reinforce.max_new_tokens
    return GenerateConfig(
        max_new_tokens=config.reinforce.max_new_tokens,
        temperature=config.reinforce.temperature,
        top_k=0,
        temperature_decay=1.0,
    )


class Rollouts:
    """What each step learns from: `num_generations` completions of each of its prompts, with their advantages.

    The prompts of an epoch come in random order, each at most once. Raises DataError if there are fewer than a step
    needs. `reference` enters the model that the KL divergence is taken from.
    """

    def __init__(
        self,
        author: Author,
        prompts: Sequence[Prompt],
        config: Config,
        *,
        reference: Callable[[], AbstractContextManager[GPT]] | None = None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        heard: Collapse | None = None,
    ) -> None:
        self.author, self.prompts, self.config, self.autocast = author, prompts, config.reinforce, autocast
        self.seed, self.batch_size = config.train.seed, config.train.batch_size
        self.reference, self.heard = reference, heard or Collapse()
        refuse_too_few(prompts, self.config)
        self.rows = self.config.rows_per_step
        self.per_epoch = len(prompts) // self.config.prompts_per_step
        self.examples_per_epoch = self.per_epoch * self.rows * self.config.num_iterations
        self.targets_per_example = self.author.longest / 2  # a guess: nobody knows how long they will be
        self.kept: tuple[int, Batch] | None = None  # the newest step that wrote something, and what came of it

    def divide(self, batch_size: int) -> None:
        """Take log-probabilities of so many rows at a time, as a session that goes on does, from the first step on."""
        if batch_size != self.batch_size:
            self.batch_size, self.kept = batch_size, None

    def assemble(self, examples: Integers) -> Batch:
        """Rows of one step, (B,) ascending: they are written when the first ones are asked for."""
        step, row = divmod(int(examples[0]), self.rows)
        step -= step % self.config.num_iterations
        if self.kept is None or self.kept[0] != step:
            self.kept = None  # gone before the next ones take memory
            self.kept = step, self.roll_out(step)
        return rows_of(self.kept[1], row, len(examples), int(examples[0]))

    def chosen(self, step: int) -> list[Prompt]:
        """The prompts of a step that writes."""
        epoch, place = divmod(step // self.config.num_iterations, self.per_epoch)
        generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "prompt order", epoch)))
        order = generator.permutation(len(self.prompts))
        size = self.config.prompts_per_step
        return [self.prompts[n] for n in order[place * size : (place + 1) * size]]

    def roll_out(self, step: int) -> Batch:
        """All rows of a step, with what its objective needs."""
        written = self.author.write(self.chosen(step), "rollout", step, samples=self.config.num_generations)
        batch = self.judged(written)
        model, policy, extras = self.author.writer.model, self.author.writer.policy, dict(batch.extras)
        figures = {name: value.mean().item() for name, value in extras.items() if value.dim() == 1}
        if self.config.num_iterations > 1:  # later steps have other weights than these were drawn with
            extras["old_logprobs"] = self.log_probabilities(policy, model, batch)
        if self.reference:
            with self.reference() as reference:
                extras["ref_logprobs"] = self.log_probabilities(policy, reference, batch)
            figures["kl"] = divergence(extras["ref_logprobs"], extras["sampling_logprobs"], batch.targets != IGNORED)
        self.heard(step, figures)
        return replace(batch, extras=extras)

    def judged(self, written: Sequence[Written]) -> Batch:
        """Completions as rows, and their figures."""
        rewards = torch.tensor([each.reward for each in written], dtype=torch.float64)
        above, spread = advantages(rewards, self.config.num_generations, self.config.scale_rewards)
        learnt = [each.ended or not self.config.mask_truncated_completions for each in written]
        figures = {
            **figures_of_all(written),
            "reward_std": rewards.std().expand(len(written)),
            "frac_reward_zero_std": torch.isclose(spread, torch.zeros_like(spread)),
        }
        batch = as_rows(written, learnt)
        shown = {name: figures[name].float() for name in ("reward", "reward_std", *figures)}
        return replace(batch, extras={"advantages": above.float(), **shown, **batch.extras})

    @torch.no_grad()
    def log_probabilities(self, policy: Policy, model: GPT, batch: Batch) -> Tensor:
        """log p of all targets, (N, T), in the passes that a step makes."""
        found = torch.zeros(batch.ids.shape)
        with evaluating(model), self.autocast():
            for first in range(0, self.rows, self.batch_size):
                part = rows_of(batch, first, min(self.batch_size, self.rows - first), 0)
                logprobs = policy.log_probabilities(model, part.to(model.device.type)).cpu()
                found[first : first + len(logprobs), : logprobs.size(1)] = logprobs
        return found

    def state(self) -> dict[str, Tensor]:
        """What was heard of rollouts, and what the next steps learn from and could not write again, as their weights
        are other ones."""
        heard = {f"heard.{name}": value for name, value in self.heard.state().items()}
        if self.kept is None or self.config.num_iterations == 1:
            return heard
        step, batch = self.kept
        named = {f"extras.{name}": value for name, value in batch.extras.items()}
        return {"step": torch.tensor([step]), "ids": batch.ids, "targets": batch.targets, **named, **heard}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if heard := under("heard.", state):  # of runs of an earlier version there is none
            self.heard.load_state(heard)
        if "ids" in state:
            batch = Batch(state["ids"].clone(), state["targets"].clone(), None, None, 0, under("extras.", state))
            self.kept = int(state["step"]), batch


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a state has under names that begin so, without that."""
    return {name.removeprefix(prefix): t.clone() for name, t in state.items() if name.startswith(prefix)}


class HeldOut(Sequence[Batch]):
    """Held-out prompts as batches that are written when they are asked for: the same streams at each evaluation."""

    def __init__(self, author: Author, prompts: Sequence[Prompt], rows: int) -> None:
        self.author = author
        self.parts = [prompts[first : first + rows] for first in range(0, len(prompts), rows)]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, part: Any) -> Any:
        """Batch number `part`."""
        written = self.author.write(self.parts[part], "held out")
        figures = {name: value.float() for name, value in figures_of_all(written).items()}
        return replace(as_rows(written, [False] * len(written)), extras=figures)


def divergence(reference: Tensor, own: Tensor, asked: Tensor) -> float:
    """The estimate of the KL divergence from `reference`, of log-probabilities (N, T), a token."""
    log_ratio = (reference - own)[asked]
    return (log_ratio.exp() - log_ratio - 1).mean().item() if len(log_ratio) else 0.0


def figures_of_all(written: Sequence[Written]) -> dict[str, Tensor]:
    """What is logged of each completion, (N,), under TRL's names."""
    return {
        "reward": torch.tensor([each.reward for each in written], dtype=torch.float64),
        "completions/mean_length": torch.tensor([len(each.ids) for each in written]),
        "completions/clipped_ratio": torch.tensor([not each.ended for each in written]),
    }


def as_rows(written: Sequence[Written], learnt: Sequence[bool]) -> Batch:
    """Prompts with their completions as rows, of which the completions that are `learnt` are asked for."""
    rows = []
    for each, asked in zip(written, learnt, strict=True):
        ids = np.array([*each.prompt.ids, *each.ids])
        rows.append((ids, (np.arange(len(ids)) >= len(each.prompt.ids)) & asked))
    batch = padded(rows, 0)
    drawn = torch.zeros(batch.ids.shape)
    for row, each, asked in zip(drawn, written, learnt, strict=True):
        first = len(each.prompt.ids) - 1
        row[first : first + len(each.ids)] = torch.tensor(each.logprobs) * asked
    return replace(batch, extras={"sampling_logprobs": drawn})


def rows_of(batch: Batch, first: int, count: int, example: int) -> Batch:
    """`count` rows of a batch from `first` on, no wider than they need be; a copy."""
    rows = slice(first, first + count)
    columns = (batch.targets[rows] != IGNORED).any(dim=0).nonzero()
    T = int(columns[-1]) + 1 if len(columns) else 1
    extras = {name: value[rows, :T] if value.dim() > 1 else value[rows] for name, value in batch.extras.items()}
    return Batch(batch.ids[rows, :T].clone(), batch.targets[rows, :T].clone(), None, None, example, extras)
