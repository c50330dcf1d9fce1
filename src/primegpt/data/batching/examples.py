"""Records with an answer as a source of batches, one record a row.

A row is as long as its record; a micro-batch is padded on the right to its longest one, where causal attention never
looks, and from there to one of few lengths: the library below keeps kernels for each, some 15 MB. To waste little on
padding, rows of like length go together: the shuffled records of an epoch are sorted by length within groups
of some batches, and the batches of a group are visited in random order.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from primegpt.data.batching.batches import IGNORED, Batch, evenly_spread
from primegpt.data.preparing.shards import PROMPT, REJECTED, SUPERVISED, Shards
from primegpt.errors import DataError
from primegpt.seeds import derive_seed
from primegpt.tokenizers.base import Tokenizer

GROUP = 32  # optimizer steps whose records are sorted by length together


class Examples:
    """The shuffled records of a split, one an example. `row_lengths` are the tokens of their rows, (n_documents,).

    With probability `prompt_dropout`, decided by (seed, epoch, record), the droppable part of a record is left out.
    Answers are asked for, and without `mask_prompt` all that stands before them too.
    Raises DataError if there are fewer records than one step needs.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        rows_per_step: int,
        seed: int,
        prompt_dropout: float = 0.0,
        mask_prompt: bool = True,
        lengths: Sequence[int] = (),
        row_lengths: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.shards, self.seed = shards, seed
        self.prompt_dropout, self.mask_prompt, self.lengths = prompt_dropout, mask_prompt, lengths
        self.rows_per_step, self.examples_per_epoch = rows_per_step, shards.n_documents
        if self.examples_per_epoch < rows_per_step:
            raise DataError(
                f"{self.examples_per_epoch} records are fewer than one step of {rows_per_step}",
                "add records or lower train.batch_size",
            )
        # In whole tokens a step, as steps are counted.
        self.targets_per_example = (
            max(1, round(shards.supervised_tokens / shards.n_documents * rows_per_step)) / rows_per_step
        )
        whole = np.diff(np.append(shards.document_starts, len(shards)))
        self._lengths = whole if row_lengths is None else row_lengths
        self._shuffled = (-1, np.empty(0, np.int64))

    def assemble(self, examples: npt.NDArray[np.int64]) -> Batch:
        """The records of `examples`, (B,), as one batch."""
        return padded([self._row(example) for example in examples.tolist()], int(examples[0]), self.lengths)

    def _row(self, example: int) -> tuple[npt.NDArray, npt.NDArray[np.bool_]]:
        """Ids of a record, and which of them are asked for; (n,) each."""
        epoch, record = self._visit(example)
        ids, roles = read(self.shards, record)
        if self.prompt_dropout and self._drops(epoch, record):
            ids, roles = ids[roles != PROMPT], roles[roles != PROMPT]
        return ids, (roles == SUPERVISED) | (not self.mask_prompt)

    def _visit(self, example: int) -> tuple[int, int]:
        """The epoch of an example, and the record that it is."""
        epoch, place = divmod(example, self.examples_per_epoch)
        return epoch, int(self._order(epoch)[place])

    def _drops(self, epoch: int, record: int) -> bool:
        return derive_seed(self.seed, "prompt dropout", epoch, record) < self.prompt_dropout * 2**63

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The records of an epoch in the order of their visit, kept until another epoch is asked for."""
        if self._shuffled[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "data order", epoch)))
            order = generator.permutation(self.examples_per_epoch)
            size = GROUP * self.rows_per_step
            groups = [order[first : first + size] for first in range(0, len(order), size)]
            self._shuffled = (epoch, np.concatenate([self._by_length(group, generator) for group in groups]))
        return self._shuffled[1]

    def _by_length(self, group: npt.NDArray[np.int64], generator: np.random.Generator) -> npt.NDArray[np.int64]:
        ordered = group[np.argsort(self._lengths[group], kind="stable")]
        whole = len(ordered) // self.rows_per_step * self.rows_per_step
        steps = ordered[:whole].reshape(-1, self.rows_per_step)
        return np.concatenate([generator.permutation(steps, axis=0).ravel(), ordered[whole:]])


def validation_examples(
    shards: Shards, *, batch_size: int, max_targets: int | None = None, lengths: Sequence[int] = ()
) -> Iterator[Batch]:
    """Every record once, in order; or so many, spread evenly, as hold about `max_targets` supervised tokens."""
    records = validation_records(shards, max_targets)
    for first in range(0, len(records), batch_size):
        rows = [read(shards, int(record)) for record in records[first : first + batch_size]]
        yield padded([(ids, roles == SUPERVISED) for ids, roles in rows], first, lengths)


def validation_records(shards: Shards, max_targets: int | None) -> npt.NDArray[np.int64]:
    """All records, or so many, spread evenly, as hold about `max_targets` supervised tokens; ascending."""
    wanted = min(1.0, (max_targets or shards.supervised_tokens) / shards.supervised_tokens)
    return evenly_spread(shards.n_documents, max(1, round(wanted * shards.n_documents)))


def read(shards: Shards, record: int) -> tuple[npt.NDArray, npt.NDArray[np.uint8]]:
    """Ids and roles of one record, (n,) each; of a pair, those of its prompt and the chosen answer."""
    start, stop = shards.document(record)
    ids, roles = shards.slice(start, stop), shards.roles(start, stop)
    return (ids, roles) if roles[-1] != REJECTED else (ids[roles != REJECTED], roles[roles != REJECTED])


def with_prompt(shards: Shards, tokenizer: Tokenizer) -> Iterator[int]:
    """The records that begin with a control id: all of them but rows of plain text that was mixed in."""
    control = {tokenizer.token_id(name) for name in tokenizer.special_kinds.get("control", ())}
    starts = map(int, shards.document_starts)
    return (record for record, start in enumerate(starts) if int(shards.slice(start, start + 1)[0]) in control)


def question(shards: Shards, record: int) -> list[int]:
    """The ids of a record before its first answer."""
    ids, roles = read(shards, record)
    return ids[: int(np.argmax(roles == SUPERVISED))].tolist()


def padded(
    rows: Sequence[tuple[npt.NDArray, npt.NDArray[np.bool_]]], first_example: int, lengths: Sequence[int] = ()
) -> Batch:
    """Rows of (ids, asked for) as one batch (B, T), T that of the longest, or the next of `lengths`, ascending."""
    T = max(len(ids) for ids, _ in rows) - 1
    T = next((length for length in lengths if length >= T), T)
    pair = np.zeros((2, len(rows), max(T, 1)), np.int64)
    pair[1] = IGNORED
    for b, (ids, asked) in enumerate(rows):
        n = len(ids) - 1
        pair[0, b, :n] = ids[:-1]
        pair[1, b, :n][asked[1:]] = ids[1:][asked[1:]]
    ids, targets = torch.from_numpy(pair)
    return Batch(ids, targets, None, None, first_example)
