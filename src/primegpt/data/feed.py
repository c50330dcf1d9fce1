"""What a run reads of its corpus: the batches of every step, and the fixed ones it is judged on."""

from collections.abc import Iterator
from typing import Protocol

from primegpt.config import Config
from primegpt.data.batches import Batch, TrainingWindows, validation_batches
from primegpt.data.corpus import Corpus
from primegpt.data.examples import TrainingExamples, validation_examples
from primegpt.data.mixture import Mixture
from primegpt.data.shards import Shards


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


def training_batches(config: Config, corpus: Corpus) -> Batches:
    """The batches of a run, as its configuration describes them."""
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
