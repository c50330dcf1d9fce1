"""Several sources at given shares: a pure function of (seed, step), like the batches of each of them.

Examples come in blocks of 1,000. So many of a block come from each source as its share asks for, to within one and
never further off in the long run, in an order of the block's own. Each source is walked as if it were alone: all of
it once an epoch, and a small one more often than a large one.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primegpt.data.batches import IGNORED, Batch, TrainingWindows
from primegpt.data.examples import TrainingExamples
from primegpt.seeds import derive_seed

BLOCK = 1000  # examples

Integers = npt.NDArray[np.int64]


class Mixture:
    """The training batches of several sources, `parts`, drawn from in proportion to `weights`."""

    def __init__(
        self,
        parts: Sequence[TrainingWindows | TrainingExamples],
        weights: Sequence[float],
        *,
        batch_size: int,
        gradient_accumulation_steps: int,
        seed: int,
    ) -> None:
        self.parts, self.weights, self.seed = parts, weights, seed
        self.shares = np.array(weights) / sum(weights)
        self.batch_size = batch_size
        self.examples_per_step = batch_size * gradient_accumulation_steps
        means = [part.tokens_per_step / part.examples_per_step for part in parts]
        self.tokens_per_step = max(1, round(float(self.shares @ means) * self.examples_per_step))

    def halved(self) -> "Mixture":
        """The same steps in twice as many micro-batches of half the size."""
        return Mixture(
            self.parts,
            self.weights,
            batch_size=self.batch_size // 2,
            gradient_accumulation_steps=2 * self.gradient_accumulation_steps,
            seed=self.seed,
        )

    @property
    def gradient_accumulation_steps(self) -> int:
        return self.examples_per_step // self.batch_size

    def epoch(self, step: int) -> float:
        """As many examples as all sources hold, completed before `step`; `epochs` tells how often each was seen."""
        return step * self.examples_per_step / sum(part.examples_per_epoch for part in self.parts)

    def epochs(self, step: int) -> list[float]:
        """Epochs of each source completed before `step`."""
        seen = self.shares * step * self.examples_per_step
        return [float(n) / part.examples_per_epoch for n, part in zip(seen, self.parts, strict=True)]

    def micro_batches(self, step: int) -> list[Batch]:
        """The micro-batches of optimizer step `step` (from 0); together, the same rows however they are split."""
        first = step * self.examples_per_step
        return self.micro_batches_of(first, first + self.examples_per_step)

    def micro_batches_of(self, first: int, stop: int) -> list[Batch]:
        """Examples first … stop - 1 of the run as micro-batches."""
        sources, examples = self._places(first, stop)
        batches = []
        for start in range(0, stop - first, self.batch_size):
            rows = slice(start, start + self.batch_size)
            batches.append(self._assemble(sources[rows], examples[rows], first + start))
        return batches

    def _places(self, first: int, stop: int) -> tuple[Integers, Integers]:
        """The source of examples first … stop - 1 of the run, and their numbers within it; (stop - first,) each."""
        begin, end = first // BLOCK, -(-stop // BLOCK)
        blocks = [self._block(block) for block in range(begin, end)]
        sources, examples = (np.concatenate(column) for column in zip(*blocks, strict=True))
        here = slice(first - begin * BLOCK, stop - begin * BLOCK)
        return sources[here], examples[here]

    def _block(self, block: int) -> tuple[Integers, Integers]:
        """The sources of the examples of one block, and their numbers within these; (BLOCK,) each."""
        before = self._drawn(block)
        sources = np.repeat(np.arange(len(self.parts)), self._drawn(block + 1) - before)
        generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "mixture", block)))
        generator.shuffle(sources)
        examples = np.empty(BLOCK, np.int64)
        for source, begun in enumerate(before):
            mine = np.flatnonzero(sources == source)
            examples[mine] = begun + np.arange(len(mine))
        return sources, examples

    def _drawn(self, blocks: int) -> Integers:
        """Examples of each source in that many blocks, rounded by the largest remainder."""
        exact = self.shares * blocks * BLOCK
        drawn = np.floor(exact).astype(np.int64)
        largest = np.argsort(drawn - exact, kind="stable")[: blocks * BLOCK - drawn.sum()]
        drawn[largest] += 1
        return drawn

    def _assemble(self, sources: Integers, examples: Integers, first_example: int) -> Batch:
        """One micro-batch: each part assembles its own rows, (B,) in all, which then go to their places."""
        present = np.unique(sources)
        pieces = [self.parts[source].assemble(examples[sources == source]) for source in present]
        places = torch.from_numpy(np.argsort(np.concatenate([np.flatnonzero(sources == s) for s in present])))
        isolated = pieces[0].segments is not None
        return Batch(
            _stacked([piece.ids for piece in pieces], 0)[places],
            _stacked([piece.targets for piece in pieces], IGNORED)[places],
            _stacked([p.segments for p in pieces if p.segments is not None], 0)[places] if isolated else None,
            _stacked([p.positions for p in pieces if p.positions is not None], 0)[places] if isolated else None,
            first_example,
        )


def _stacked(pieces: Sequence[Tensor], filler: int) -> Tensor:
    """Rows (b, t) of several widths as one (B, T), T that of the widest."""
    T = max(piece.shape[1] for piece in pieces)
    return torch.cat([torch.nn.functional.pad(piece, (0, T - piece.shape[1]), value=filler) for piece in pieces])
