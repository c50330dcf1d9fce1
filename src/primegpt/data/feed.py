"""What a run reads of its corpus: the batches of every step, and the fixed ones it is judged on."""

from collections.abc import Iterator
from typing import Protocol

from primegpt.config import Config
from primegpt.data.batches import Batch, TrainingWindows, validation_batches
from primegpt.data.corpus import Corpus
from primegpt.data.examples import TrainingExamples, validation_examples
from primegpt.data.mixture import Mixture
from primegpt.data.shards import Shards
from primegpt.errors import ConfigError


class Batches(Protocol):
    """The training batches of a run, a pure function of the step: windows of a text, or records with an answer."""

    batch_size: int
    examples_per_step: int
    tokens_per_step: int
    """Targets of one optimizer step; on average, where they vary."""

    @property
    def gradient_accumulation_steps(self) -> int: ...
    def halved(self) -> "Batches": ...
    def epoch(self, step: int) -> float: ...
    def micro_batches(self, step: int) -> list[Batch]: ...
    def micro_batches_of(self, first: int, stop: int) -> list[Batch]: ...


class Share:
    """Of every step of `batches`, the part of one of several ranks: one run of examples, as long as that of any other.

    All the ranks' parts, one behind the other, are the rows that one process would see, in its order.
    """

    def __init__(self, batches: Batches, rank: int, ranks: int) -> None:
        self.whole, self.rank, self.ranks = batches, rank, ranks
        self.batch_size, self.examples_per_step = batches.batch_size, batches.examples_per_step
        self.tokens_per_step = batches.tokens_per_step

    @property
    def gradient_accumulation_steps(self) -> int:
        return self.whole.gradient_accumulation_steps

    def halved(self) -> "Share":
        return Share(self.whole.halved(), self.rank, self.ranks)

    def epoch(self, step: int) -> float:
        return self.whole.epoch(step)

    def micro_batches(self, step: int) -> list[Batch]:
        """This rank's micro-batches of optimizer step `step` (from 0)."""
        mine = self.examples_per_step // self.ranks
        first = step * self.examples_per_step + self.rank * mine
        return self.whole.micro_batches_of(first, first + mine)

    def micro_batches_of(self, first: int, stop: int) -> list[Batch]:
        return self.whole.micro_batches_of(first, stop)


def training_batches(config: Config, corpus: Corpus, rank: int = 0, ranks: int = 1) -> Batches:
    """The batches of a run, as its configuration describes them, or what one of several ranks takes of them."""
    if ranks == 1:
        return _all_batches(config, corpus)
    return Share(_all_batches(for_ranks(config, ranks), corpus), rank, ranks)


def for_ranks(config: Config, ranks: int) -> Config:
    """`config` with the largest micro-batch, not above its own, of which every rank takes equally many.

    The rows of a step stay the same. Raises ConfigError if they cannot be dealt out evenly.
    """
    batch_size, accumulation = config.train.batch_size, config.train.gradient_accumulation_steps
    rows = batch_size * accumulation
    if rows % ranks:
        raise ConfigError(
            f"a step of {rows} rows (train.batch_size * train.gradient_accumulation_steps) is not divisible among "
            f"{ranks} ranks",
            "make it a multiple, or start another number of processes",
        )
    size = max(size for size in range(1, min(batch_size, rows // ranks) + 1) if rows // ranks % size == 0)
    return config.with_values(train={"batch_size": size, "gradient_accumulation_steps": rows // size})


def _all_batches(config: Config, corpus: Corpus) -> Batches:
    train, weights = config.train, config.data.weights
    batch_size, accumulation = train.batch_size, train.gradient_accumulation_steps
    if len(weights) < 2:
        return _batches_of(config, corpus.train, batch_size, accumulation)
    # About so many rows of a step are a source's: records of like length go together by that.
    rows = [max(1, round(batch_size * accumulation * weight / sum(weights))) for weight in weights]
    parts = [_batches_of(config, part, 1, n) for part, n in zip(corpus.train_parts(), rows, strict=True)]
    return Mixture(parts, weights, batch_size=batch_size, gradient_accumulation_steps=accumulation, seed=train.seed)


def _batches_of(
    config: Config, shards: Shards, batch_size: int, gradient_accumulation_steps: int
) -> TrainingWindows | TrainingExamples:
    train, data = config.train, config.data
    if shards.has_roles:
        return TrainingExamples(
            shards,
            batch_size=batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            seed=train.seed,
            prompt_dropout=data.prompt_dropout,
            mask_prompt=data.mask_prompt,
        )
    return TrainingWindows(
        shards,
        sequence_length=train.sequence_length or config.model.block_size,
        batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        seed=train.seed,
        stride=data.stride,
        isolate_documents=data.isolate_documents,
    )


def fixed_batches(config: Config, shards: Shards, max_targets: int | None = None) -> Iterator[Batch]:
    """Every target of a split once, in order; or about `max_targets` of them, spread evenly over it."""
    train = config.train
    if shards.has_roles:
        return validation_examples(shards, batch_size=train.batch_size, max_targets=max_targets)
    return validation_batches(
        shards,
        sequence_length=train.sequence_length or config.model.block_size,
        batch_size=train.batch_size,
        max_targets=max_targets,
        isolate_documents=config.data.isolate_documents,
    )
