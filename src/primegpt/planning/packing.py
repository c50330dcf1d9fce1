"""Whether records share rows, decided before step 1: how much of a batch is padding, and which lengths rows have.

Padding depends on what happens to stand in a micro-batch, so some of them are looked at, as they will be.
"""

from collections.abc import Iterable
from itertools import islice

import numpy as np

from primegpt.config import Config
from primegpt.data.batching.batches import Batch
from primegpt.data.batching.feed import fixed_batches, training_batches
from primegpt.data.batching.packing import needed_lengths, packed
from primegpt.data.preparing.corpus import Corpus
from primegpt.parallel.world import ALONE, World

WORTH = 0.1  # of the tokens have to be saved, for `auto` to pack
LENGTHS = 16  # that shared rows have: kernels are kept for each, as for those of records (docs/experiments.md)
ROOM = (1.25, 1.5, 2.0)  # times the longest that was seen, for those to come
RECORDS, STEPS = 4096, 64  # that are looked at, at most
EVALUATED = 8  # batches of the held-out set among them


def with_packing(config: Config, corpus: Corpus, world: World = ALONE) -> Config:
    """`config` with `data.pack` resolved, and with the lengths of shared rows where there are to be any.

    `auto` leaves alone what is not ours, and may not know of segments: an objective, an attention; and compiled steps,
    of which each would be compiled anew. The order of the records, and so what a step learns from, stays the same.
    """
    config = config.with_values(plan={"packed_lengths": (), "padding": 0.0, "packed_padding": 0.0})
    if not corpus.train.has_roles or corpus.train.has_pairs:  # a pair is two answers, and has no room for others
        return config
    seen = _some(config, corpus, world)
    lengths = _lengths(seen)
    plain, needed = sum(batch.ids.numel() for batch in seen), sum(int(needed_lengths(batch).sum()) for batch in seen)
    shared = sum(packed(batch, lengths).ids.numel() for batch in seen)
    pack, own = config.data.pack, {"train.objective", "model.attention"} & config.own.keys()
    if pack == "auto":
        pack = shared <= (1 - WORTH) * plain and not own and not config.train.compile
    return config.with_values(
        data={"pack": pack},
        plan={
            "packed_lengths": lengths if pack else (),
            "padding": 1 - needed / plain,
            "packed_padding": 1 - needed / shared,
        },
    )


def _some(config: Config, corpus: Corpus, world: World) -> list[Batch]:
    """Micro-batches of the first steps, and some of the held-out set."""
    batches = training_batches(config, corpus, world.rank, world.size)
    steps = max(1, min(STEPS, RECORDS // batches.examples_per_step))
    trained = [batch for step in range(steps) for batch in batches.micro_batches(step)]
    evaluated = fixed_batches(config, corpus.val, EVALUATED * config.tokens_per_step)
    return [*trained, *islice(evaluated, max(1, min(EVALUATED, len(trained) // EVALUATED)))]


def _lengths(batches: Iterable[Batch]) -> tuple[int, ...]:
    """Of rows that all records of a batch share: each is the next one for as many of `batches` as any other is."""
    needed = [int(needed_lengths(batch).sum()) for batch in batches]
    parts = np.quantile(needed, np.linspace(0, 1, LENGTHS + 1)[1:], method="higher").clip(1)
    return tuple(sorted({*parts.astype(int).tolist(), *(int(times * max(needed)) for times in ROOM)}))
