"""A run that learns from rewards, in this process: what is asked, the model that writes, what judges, the trainer."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from primegpt.config import Config
from primegpt.data.batching.batches import Batches, evenly_spread
from primegpt.data.shown import introduction
from primegpt.errors import DataError
from primegpt.evaluation.perplexity import EvaluationSet
from primegpt.evaluation.rewards import Reward
from primegpt.inference.run import Run
from primegpt.jobs.prompts import Prompted, read_prompts
from primegpt.model.gpt import GPT
from primegpt.model.lora import without_adapters
from primegpt.model.size import flops_per_token
from primegpt.planning.plan import conditions
from primegpt.planning.rollout_plan import REREAD, planned
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say
from primegpt.tokenizers.base import Tokenizer
from primegpt.training.assemble import assemble
from primegpt.training.collapse import Collapse
from primegpt.training.display import Observer
from primegpt.training.policy_gradient import PolicyGradient
from primegpt.training.progress import Speed
from primegpt.training.rollouts import Author, HeldOut, Prompt, Rollouts, refuse_too_few, split_prompts
from primegpt.training.step import Precision
from primegpt.training.trainer import Trainer

SHOWN = 2  # held-out prompts that samples answer
SHORT = {"fp32": 128, "bf16": 256}  # tokens of completions up to which explicit attention is the faster, on a CPU


def records_of(prompts: Sequence[Prompted]) -> bytes:
    """The records of all prompts, as the run keeps them: prompts.jsonl."""
    lines = (json.dumps(dict(each.record), ensure_ascii=False, default=str) + "\n" for each in prompts)
    return "".join(lines).encode()


@dataclass(frozen=True)
class Task:
    """What is asked, and how answers are judged."""

    tokenizer: Tokenizer
    reward: Reward
    learnt: Sequence[Prompt]
    held_out: Sequence[Prompt]
    fingerprint: str
    """Of the file of the prompts."""

    @classmethod
    def of(
        cls, path: Path, base: Run, config: Config, reward: Reward, say: Say, places: Sequence[str] | None = None
    ) -> "Task":
        """The prompts that the run keeps at `path`, of which those that leave room for a completion are split.

        `places` are where they stood before. Raises DataError if too few do.
        """
        longest = config.reinforce.max_new_tokens
        assert longest
        room = config.model.block_size - longest
        own = config.data.model_copy(update={"sources": (str(path),), "source": {}})
        prompts = [
            Prompt(number, each.ids, each.text, each.record, places[number] if places else each.place)
            for number, each in enumerate(read_prompts(base, own))
        ]
        fitting = [prompt for prompt in prompts if len(prompt.ids) <= room]
        learnt, held_out = split_prompts(fitting, config.data.val_fraction)
        left_out = f"{len(prompts) - len(fitting):,} of {len(prompts):,} prompts are longer than the {room:,} tokens "
        left_out += f"that reinforce.max_new_tokens = {longest} leaves of the context"
        if not learnt:
            what = left_out if len(fitting) < len(prompts) else f"{len(prompts)} different prompts cannot be split"
            raise DataError(what, "give more prompts, or lower reinforce.max_new_tokens")
        if len(fitting) < len(prompts):
            say(f"{'warning':<10} {left_out}: they are left out")
        refuse_too_few(learnt, config.reinforce)
        fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(base.tokenizer, reward, learnt, held_out, fingerprint)

    @property
    def sizes(self) -> tuple[int, int]:
        """Prompts to learn from, and held out."""
        return len(self.learnt), len(self.held_out)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.ids) for prompt in (*self.learnt, *self.held_out))

    def fingerprints(self) -> dict[str, str]:
        """What a run has to have been trained with to go on."""
        return {
            "tokenizer": self.tokenizer.fingerprint,
            "prompts": self.fingerprint,
            "reward": self.reward.fingerprint,
        }

    def facts(self) -> dict[str, Any]:
        """What data.json tells of it."""
        prints = {f"{name}_fingerprint": self.fingerprint for name in ("source", "train", "val")}
        counts = {"prompts": len(self.learnt), "held_out_prompts": len(self.held_out)}
        return {**prints, "tokenizer_fingerprint": self.tokenizer.fingerprint, "folder": "", **counts}


def attention_for(config: Config) -> Literal["explicit", "sdpa"]:
    """The faster attention, as measured (docs/experiments.md): in bf16 the fused one takes up to ten times as long."""
    longest, train = config.reinforce.max_new_tokens or 0, config.train
    return "explicit" if train.device == "cpu" and longest <= SHORT.get(train.precision, 0) else "sdpa"


class Session:
    """What the trainer is given. The model starts as that of `base`, or without weights where a checkpoint has them."""

    def __init__(self, folder: RunFolder, config: Config, base: Run, task: Task, *, resumed: bool = False) -> None:
        if config.train.attention == "auto":  # rows of all lengths: not worth a measurement
            config = config.with_values(train={"attention": attention_for(config)})
        self.folder, self.config, self.task = folder, config, task
        train, reinforce = config.train, config.reinforce
        self.precision = Precision(train.precision, train.device)
        self.model = assemble(config, None if resumed and not config.lora.rank else base.model.weights())
        self.author = Author(self.model, task.tokenizer, task.reward, config)
        self.signs = Collapse()
        self.rollouts = Rollouts(
            self.author,
            task.learnt,
            config,
            reference=self.reference(base),
            autocast=self.precision.autocast,
            heard=self.signs,
        )
        self.batches = Batches(self.rollouts, train.batch_size, reinforce.rows_per_step)
        self.objective = PolicyGradient(reinforce, self.author.writer.policy, self.author.longest)
        self.judged = [task.held_out[n] for n in evenly_spread(len(task.held_out), reinforce.val_prompts)]

    def reference(self, base: Run) -> Callable[[], AbstractContextManager[GPT]] | None:
        """The model that the KL divergence is taken from: what this run began with."""
        if not self.config.reinforce.beta:
            return None
        if self.config.lora.rank:
            return partial(without_adapters, self.model)
        kernel = self.config.train.attention
        assert kernel != "auto"
        frozen = base.model.requires_grad_(False).to(self.config.train.device)
        return partial(nullcontext, frozen.use_attention(kernel))

    def plan(self, elapsed: float, rereading: int) -> None:
        """Resolve what is open; `elapsed` seconds of a time budget are gone, and `rereading` targets are read later."""
        if not self.config.data.base_text:
            rereading = min(rereading, REREAD)
        self.config, self.batches = planned(
            self.config,
            self.model,
            self.batches,
            self.objective,
            val_prompts=len(self.judged),
            longest=self.task.longest,
            rereading=rereading,
            elapsed=elapsed,
        )
        self.rollouts.divide(self.batches.batch_size)

    def sample(self, _: GPT) -> str:
        """What is written to a few held-out prompts, and what that is worth."""
        written = self.author.write(self.judged[:SHOWN], "sample")
        answered = self.config.data.template != "text"
        texts = [introduction(answered, each.prompt.text) + each.text for each in written]
        return "\n\n".join(f"{text}\n({each.reward:.3g})" for text, each in zip(texts, written, strict=True))

    def trainer(self, observer: Observer) -> Trainer:
        config, task = self.config, self.task
        trainer = Trainer(
            config,
            self.model,
            self.batches,
            train_set=EvaluationSet([], 0),
            val_set=EvaluationSet(HeldOut(self.author, self.judged, config.reinforce.rows_per_step), 0),
            folder=self.folder,
            precision=self.precision,
            observer=observer,
            objective=self.objective,
            sample=self.sample,
            fingerprints=task.fingerprints(),
            data=task.facts(),
            conditions=conditions(config),
            speed=Speed(flops_per_token(config.model, config.sequence_length), config.plan.peak_flops),
        )
        self.author.poll = trainer.poll
        self.signs.say = observer.on_message
        return trainer
