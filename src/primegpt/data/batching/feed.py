"""What a run reads of its corpus: the batches of every step, of one source or a mixture, and those it is judged on."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from primegpt.config import Config
from primegpt.data.batching.batches import IGNORED, Batch, Batches, Integers, Source, Windows, validation_windows
from primegpt.data.batching.examples import Examples, validation_examples
from primegpt.data.batching.packing import packed
from primegpt.data.batching.pairs import PairSource, validation_pairs
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.shards import Shards
from primegpt.errors import ConfigError
from primegpt.seeds import derive_seed

BLOCK = 1000  # examples


class Mixture:
    """Several sources, `parts`, drawn from in proportion to `weights`: a source that is made of others.

    Examples come in blocks of 1,000. So many of a block come from each source as its share asks for, to within one and
    never further off in the long run, in an order of the block's own. Each source is walked as if it were alone: all of
    it once an epoch, and a small one more often than a large one.
    """

    def __init__(self, parts: Sequence[Source], weights: Sequence[float], *, seed: int) -> None:
        self.parts, self.seed = parts, seed
        self.shares = np.array(weights) / sum(weights)
        self.targets_per_example = float(self.shares @ [part.targets_per_example for part in parts])
        self.examples_per_epoch = sum(part.examples_per_epoch for part in parts)
        """As many as all sources hold; `epochs` tells how often each was seen."""
        self._kept_block = lru_cache(2)(self._block)  # the micro-batches of a step mostly share one

    def epochs(self, examples: int) -> list[float]:
        """Epochs of each source that so many examples complete."""
        seen = self.shares * examples
        return [float(n) / part.examples_per_epoch for n, part in zip(seen, self.parts, strict=True)]

    def assemble(self, examples: Integers) -> Batch:
        """Each part assembles its own rows of `examples`, (B,) ascending, which then go to their places."""
        sources, numbers = self._places(examples)
        present = np.unique(sources)
        pieces = [self.parts[source].assemble(numbers[sources == source]) for source in present]
        places = torch.from_numpy(np.argsort(np.concatenate([np.flatnonzero(sources == s) for s in present])))
        isolated = pieces[0].segments is not None
        return Batch(
            _stacked([piece.ids for piece in pieces], 0)[places],
            _stacked([piece.targets for piece in pieces], IGNORED)[places],
            _stacked([p.segments for p in pieces if p.segments is not None], 0)[places] if isolated else None,
            _stacked([p.positions for p in pieces if p.positions is not None], 0)[places] if isolated else None,
            int(examples[0]),
            {
                name: _stacked([piece.extras[name] for piece in pieces], IGNORED if "targets" in name else 0)[places]
                for name in pieces[0].extras
            },
        )

    def _places(self, examples: Integers) -> tuple[Integers, Integers]:
        """The source of each of `examples`, and its number within that; (B,) each."""
        begin, end = examples[0] // BLOCK, examples[-1] // BLOCK + 1
        sources, numbers = np.concatenate([self._kept_block(block) for block in range(begin, end)], axis=1)
        return sources[examples - begin * BLOCK], numbers[examples - begin * BLOCK]

    def _block(self, block: int) -> Integers:
        """The sources of the examples of one block, and their numbers within these; (2, BLOCK)."""
        before = self._drawn(block)
        sources = np.repeat(np.arange(len(self.parts)), self._drawn(block + 1) - before)
        generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "mixture", block)))
        generator.shuffle(sources)
        examples = np.empty(BLOCK, np.int64)
        for source, begun in enumerate(before):
            mine = np.flatnonzero(sources == source)
            examples[mine] = begun + np.arange(len(mine))
        return np.stack([sources, examples])

    def _drawn(self, blocks: int) -> Integers:
        """Examples of each source in that many blocks, rounded by the largest remainder."""
        exact = self.shares * blocks * BLOCK
        drawn = np.floor(exact).astype(np.int64)
        largest = np.argsort(drawn - exact, kind="stable")[: blocks * BLOCK - drawn.sum()]
        drawn[largest] += 1
        return drawn


def _stacked(pieces: Sequence[Tensor], filler: int) -> Tensor:
    """Rows (b, t) of several widths as one (B, T), T that of the widest; or (b,) as (B,)."""
    if pieces[0].dim() == 1:
        return torch.cat(list(pieces))
    T = max(piece.shape[1] for piece in pieces)
    return torch.cat([torch.nn.functional.pad(piece, (0, T - piece.shape[1]), value=filler) for piece in pieces])


def training_batches(config: Config, corpus: Corpus, rank: int = 0, ranks: int = 1) -> Batches:
    """The batches of a run, as its configuration describes them, or what one of several ranks takes of them."""
    train, weights = for_ranks(config, ranks).train, config.data.weights
    rows = train.batch_size * train.gradient_accumulation_steps
    if len(weights) < 2:
        source = _source(config, corpus.train, rows)
    else:
        # About so many rows of a step are a source's: records of like length go together by that.
        shares = [max(1, round(rows * weight / sum(weights))) for weight in weights]
        parts = [_source(config, part, share) for part, share in zip(corpus.train_parts(), shares, strict=True)]
        source = Mixture(parts, weights, seed=train.seed)
    return Batches(source, train.batch_size, rows, rank, ranks, _form(config))


def _source(config: Config, shards: Shards, rows_per_step: int) -> Source:
    """The examples of one stream of shards: records with an answer, or windows of a text."""
    train, data = config.train, config.data
    if shards.has_pairs:
        return PairSource(shards, rows_per_step=rows_per_step, seed=train.seed, lengths=config.plan.lengths)
    if shards.has_roles:
        return Examples(
            shards,
            rows_per_step=rows_per_step,
            seed=train.seed,
            prompt_dropout=data.prompt_dropout,
            mask_prompt=data.mask_prompt,
            lengths=config.plan.lengths,
        )
    return Windows(
        shards,
        sequence_length=config.sequence_length,
        seed=train.seed,
        stride=data.stride,
        isolate_documents=data.isolate_documents,
    )


def _form(config: Config) -> Callable[[Batch], Batch]:
    """Records together in one row, where the plan has found that to be worth it."""
    return partial(packed, lengths=config.plan.packed_lengths)


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


def smaller_micro_batch(batch_size: int) -> int:
    """The rows of a micro-batch where memory does not suffice for `batch_size`: the half, where that is whole."""
    return max(size for size in range(1, batch_size) if batch_size % size == 0)


def fixed_batches(config: Config, shards: Shards, max_targets: int | None = None) -> Iterator[Batch]:
    """Every target of a split once, in order; or about `max_targets` of them, spread evenly over it.

    Of pairs the chosen answers are the targets, so that a likelihood is that of these.
    """
    train = config.train
    if shards.has_roles:
        records = validation_pairs if shards.has_pairs else validation_examples
        rows = records(shards, batch_size=train.batch_size, max_targets=max_targets, lengths=config.plan.lengths)
        return map(_form(config), rows)
    return validation_windows(
        shards,
        sequence_length=config.sequence_length,
        batch_size=train.batch_size,
        max_targets=max_targets,
        isolate_documents=config.data.isolate_documents,
    )
