"""The batches of a run: `Batches` says which examples a step takes, a `Source` makes rows of them.

The sources are the windows of a text, here; records with an answer (examples.py); and several of either at given
shares (feed.py).

The N tokens of a text are one stream, each document opened by the end-of-text id, and the stream is a circle. One
epoch lays n = ceil(N / T) windows of T targets around it, starting at a random phase, and visits them in a random
order. Window i reads T tokens and is asked for the token after each:

    stream   … a  b  c  d  e  f …
    ids         a  b  c  d           T = 4
    targets        b  c  d  e

Seen from the targets the windows are tiles, so every token is a target exactly once an epoch, the first included
(its context is the end of the stream). Where N is no multiple of T, the last tile overlaps the first; the targets
that would count twice are ignored.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primegpt.data.preparing.shards import Shards
from primegpt.errors import DataError
from primegpt.model.loss import IGNORED
from primegpt.seeds import derive_seed

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """One micro-batch: B windows of T tokens."""

    ids: Tensor
    """(B, T) int64."""
    targets: Tensor
    """(B, T) int64, the token after each id; IGNORED where it is not in the loss."""
    segments: Tensor | None
    """(B, T) int64, the number of the document within the row, from 0; only when documents are isolated."""
    positions: Tensor | None
    """(B, T) int64, counted from 0 in each document of the row; only when documents are isolated."""
    first_example: int
    """Index of the first row among all examples of the run: names this micro-batch's random stream."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What an objective needs beside them, by name; (B,) or (B, T) each, filled up with 0, or IGNORED in `…targets`."""

    @property
    def supervised(self) -> int:
        """Number of targets in the loss."""
        return int((self.targets != IGNORED).sum())

    def without_targets(self) -> "Batch":
        """The same rows, with no target in the loss."""
        return replace(self, targets=torch.full_like(self.targets, IGNORED))

    def to(self, device: str) -> "Batch":
        """The same batch on `device`; itself when it is there already. A GPU is not waited for."""
        if self.ids.device.type == device:
            return self
        pinned = device == "cuda"  # only from memory that stays in its place can a copy run beside the program

        def moved(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)

        return replace(
            self,
            ids=moved(self.ids),
            targets=moved(self.targets),
            segments=None if self.segments is None else moved(self.segments),
            positions=None if self.positions is None else moved(self.positions),
            extras={name: moved(tensor) for name, tensor in self.extras.items()},
        )


class Source(Protocol):
    """What examples are drawn from. They are numbered from 0 without end, a new epoch every `examples_per_epoch`."""

    examples_per_epoch: int
    targets_per_example: float
    """Tokens of an example that are asked for; on average, where they vary."""

    def assemble(self, examples: Integers) -> Batch:
        """The rows of `examples`, (B,) ascending, as one batch: a pure function of their numbers."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A source whose rows later weights could not make again, so that a checkpoint keeps what the next steps need."""

    def state(self) -> dict[str, Tensor]: ...
    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


@dataclass(eq=False)
class Batches:
    """The micro-batches of a run: a pure function of the step, with no position to save or restore.

    Step s takes the next `examples_per_step` examples of `source`, from s * examples_per_step on. Each of several
    ranks takes one run of them, as long as that of any other: all the ranks' parts, one after the other, are the rows
    that one process would see, in its order.
    """

    source: Source
    batch_size: int
    """Rows of a micro-batch."""
    examples_per_step: int
    """Rows of a step, over all ranks."""
    rank: int = 0
    ranks: int = 1
    form: Callable[[Batch], Batch] = lambda batch: batch
    """What is made of a micro-batch before it is used, for the same loss and gradients: packing.py has one."""

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches of a step, over all ranks."""
        return self.examples_per_step // self.batch_size

    @property
    def tokens_per_step(self) -> int:
        """Targets of one optimizer step, over all ranks; on average, where they vary."""
        return max(1, round(self.source.targets_per_example * self.examples_per_step))

    def epoch(self, step: int) -> float:
        """Epochs completed before `step`."""
        return step * self.examples_per_step / self.source.examples_per_epoch

    def micro_batches(self, step: int) -> list[Batch]:
        """This rank's micro-batches of optimizer step `step` (from 0); the same rows however they are divided."""
        rows = self.examples_per_step // self.ranks
        examples = step * self.examples_per_step + self.rank * rows + np.arange(rows)
        parts = (examples[row : row + self.batch_size] for row in range(0, rows, self.batch_size))
        return [self.form(self.source.assemble(part)) for part in parts]

    def with_batch_size(self, batch_size: int) -> "Batches":
        """The same steps in micro-batches of so many rows, a divisor of the rows of a step."""
        return replace(self, batch_size=batch_size)


class Windows:
    """The shuffled training windows of a stream.

    With a `stride`, windows of T targets start every `stride` tokens instead, all targets supervised: below T they
    overlap, and each token is seen T / stride times an epoch. Raises DataError if the stream is too short for one.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        sequence_length: int,
        seed: int,
        stride: int | None = None,
        isolate_documents: bool = False,
    ) -> None:
        if len(shards) <= sequence_length:
            raise DataError(
                f"the {shards.split} split has {len(shards):,} tokens, fewer than a window of {sequence_length:,} + 1",
                "add text or lower train.sequence_length",
            )
        self.shards, self.seed, self.stride, self.isolate_documents = shards, seed, stride, isolate_documents
        self.sequence_length, self.targets_per_example = sequence_length, float(sequence_length)
        self.examples_per_epoch = -(-len(shards) // (stride or sequence_length))
        self._shuffled = (-1, 0, np.empty(0, np.uint32))

    def assemble(self, examples: Integers) -> Batch:
        """The windows of `examples`, (B,) ascending, as one batch."""
        starts, supervised = self._windows(examples)
        return _assemble(
            self.shards, starts, supervised, self.sequence_length, self.isolate_documents, int(examples[0])
        )

    def _windows(self, examples: Integers) -> tuple[Integers, Integers]:
        """Where the windows of `examples` start in the stream, and how many of their targets count; (B,) each."""
        n_tokens, spacing = len(self.shards), self.stride or self.sequence_length
        epochs, places = np.divmod(examples, self.examples_per_epoch)
        phases, windows = np.empty_like(examples), np.empty_like(examples)
        for epoch in range(epochs[0], epochs[-1] + 1):  # one, unless the step straddles an epoch's end
            here = epochs == epoch
            phases[here], order = self._shuffle(epoch)
            windows[here] = order[places[here]]
        starts = windows * spacing
        targets = self.sequence_length if self.stride else np.minimum(self.sequence_length, n_tokens - starts)
        return (phases + starts) % n_tokens, np.broadcast_to(targets, starts.shape)

    def _shuffle(self, epoch: int) -> tuple[int, npt.NDArray[np.unsignedinteger]]:
        """The phase of an epoch and the order of its windows, kept until another epoch is asked for."""
        if self._shuffled[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "data order", epoch)))
            phase = int(generator.integers(len(self.shards)))
            order = np.arange(self.examples_per_epoch, dtype=np.min_scalar_type(self.examples_per_epoch))
            generator.shuffle(order)
            self._shuffled = (epoch, phase, order)
        return self._shuffled[1:]


def validation_windows(
    shards: Shards,
    *,
    sequence_length: int,
    batch_size: int,
    max_targets: int | None = None,
    isolate_documents: bool = False,
) -> Iterator[Batch]:
    """Non-overlapping windows in order: tokens 1 … N - 1 are targets once each.

    With `max_targets`, only so many windows as it fills, spread evenly over the text: its beginning may be unlike the
    rest.

    The last window is filled up with ignored targets, the last batch may have fewer rows. Raises DataError when there
    is no token to predict.
    """
    n_targets = len(shards) - 1
    if n_targets < 1:
        raise DataError(f"the {shards.split} split has no token to predict", "add text")
    starts = np.arange(0, n_targets, sequence_length)
    if max_targets is not None:
        starts = starts[evenly_spread(len(starts), -(-max_targets // sequence_length))]
    supervised = np.minimum(sequence_length, n_targets - starts)
    for first in range(0, len(starts), batch_size):
        rows = slice(first, first + batch_size)
        yield _assemble(shards, starts[rows], supervised[rows], sequence_length, isolate_documents, first)


def evenly_spread(n: int, count: int) -> Integers:
    """`count` of the numbers 0 … n - 1, or all of them if they are fewer, ascending."""
    return np.arange(min(n, count)) * n // max(1, min(n, count))


def _assemble(
    shards: Shards, starts: Integers, supervised: Integers, length: int, isolate_documents: bool, first_example: int
) -> Batch:
    """The windows at `starts` (B,) around the circle, of whose targets the first `supervised` (B,) count."""
    positions = starts[:, None] + np.arange(length + 1)  # (B, T + 1), unwrapped: past N the circle begins again
    tokens = shards.gather(positions % len(shards))
    pair = np.empty((2, len(starts), length), np.int64)  # one allocation, one tensor
    pair[0], pair[1] = tokens[:, :-1], tokens[:, 1:]
    if (supervised < length).any():
        pair[1][np.arange(length) >= supervised[:, None]] = IGNORED
    ids, targets = torch.from_numpy(pair)
    if not isolate_documents:
        return Batch(ids, targets, None, None, first_example)
    segments, restarted = torch.from_numpy(_documents(shards, positions[:, :-1]))
    return Batch(ids, targets, segments, restarted, first_example)


def _documents(shards: Shards, positions: Integers) -> Integers:
    """Document number within the row, and position within that document, (2, B, T), of unwrapped positions (B, T)."""
    turns, wrapped = np.divmod(positions, len(shards))
    documents = shards.document_index(wrapped)  # (B, T)
    starts = shards.document_starts[documents] + turns * len(shards)
    # A new turn of the circle opens a new document even if the stream holds a single one.
    segments = documents + turns * shards.n_documents
    first = positions[:, :1]  # a document that began before the row is counted from the start of the row
    return np.stack([segments - segments[:, :1], positions - np.maximum(starts, first)])
