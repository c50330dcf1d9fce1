"""The log-probability of completions after their contexts; a context that several share is computed once.

A row of the batch is a tree: the context, then every completion, each of which sees the context and itself.

    ids        c c c c  a a a  b b        context c, completions a and b
    positions  0 1 2 3  4 5 6  4 5        each completion stands right after the context
    b sees     x x x x         x x

That is what a key/value cache shared by the completions computes, in one pass and without copies of the cache.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from primegpt.inference.context import inference
from primegpt.model.gpt import GPT
from primegpt.tokenizers.base import Tokenizer

Ids = Sequence[int]
Item = tuple[Ids, Sequence[Ids]]  # a context, which holds one id at least, and its completions

BATCH_TOKENS = 4096  # in a batch, padding included
LOGITS_AT_ONCE = 1 << 24  # 64 MB in fp32


@dataclass(frozen=True)
class Score:
    """What a model thinks of one completion. An empty one has log-probability 0."""

    logprob: float
    """Nats, summed over the completion's tokens."""
    tokens: int
    greedy: bool
    """Whether each token is the likeliest one."""


def score_completions(
    model: GPT,
    items: Sequence[Item],
    *,
    batch_tokens: int = BATCH_TOKENS,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Score]]:
    """A score for every completion of every item, dropout off, the model's mode restored.

    What exceeds `block_size` is cut from the left of the context (`exceeds` tells). A completion that is itself
    longer is scored in pieces of half a block, each after the half before it. Results do not depend on the batch
    but for rounding. `progress` gets the number of items done and their total.
    """
    pieces = [piece for number, item in enumerate(items) for piece in _pieces(number, item, model.config.block_size)]
    logprobs = [[0.0] * len(completions) for _, completions in items]
    greedy = [[True] * len(completions) for _, completions in items]
    done = 0
    for batch in _batches(pieces, batch_tokens):
        with inference(model), autocast():
            results = _score_batch(model, [(piece.context, piece.completions) for piece in batch])
        for piece, scored in zip(batch, results, strict=True):
            for place, (logprob, best) in enumerate(scored, start=piece.first):
                logprobs[piece.item][place] += logprob
                greedy[piece.item][place] &= best
            done += piece.last
        progress(done, len(items))
    return [
        [Score(*score) for score in zip(logprobs[n], map(len, completions), greedy[n], strict=True)]
        for n, (_, completions) in enumerate(items)
    ]


def exceeds(item: Item, block_size: int) -> bool:
    """Whether a context and the longest of its completions do not fit into one block (the last id is never read)."""
    context, completions = item
    return len(context) + max(map(len, completions), default=0) - 1 > block_size


def encode_pair(tokenizer: Tokenizer, context: str, completion: str) -> tuple[list[int], list[int]]:
    """The ids of both texts as they are when written in one; a token across the border belongs to the completion."""
    ids = tokenizer.encode(context + completion)
    if tokenizer.unk_id in ids:  # its text is lost, but a tokenizer of characters merges nothing across the border
        within = tokenizer.encode_within(completion) if context else tokenizer.encode(completion)
        return tokenizer.encode(context), within
    ends = accumulate(len(tokenizer.decode_bytes([id])) for id in ids)
    size = len((tokenizer.space_before(context + completion) + context).encode()) if context else 0
    border = sum(end <= size for end in ends)
    return ids[:border], ids[border:]


@dataclass(frozen=True)
class _Piece:
    """An item, or a part of one of its completions, that fits into a block."""

    item: int
    context: Ids
    completions: Sequence[Ids]
    first: int  # which completion of the item `completions` begins with
    last: bool  # the item is done with it

    @property
    def size(self) -> int:
        return len(self.context) + sum(max(0, len(ids) - 1) for ids in self.completions)


def _pieces(number: int, item: Item, block_size: int) -> Iterator[_Piece]:
    context, completions = item
    assert len(context), "a context holds at least the end-of-text id"
    longest = max(map(len, completions), default=0)
    if longest <= block_size:
        room = block_size + 1 - longest
        yield _Piece(number, context[-min(room, block_size) :], completions, 0, True)
        return
    half = max(1, block_size // 2)
    parts = [
        _Piece(number, [*context, *ids[:start]][half - 1 - block_size :], [ids[start : start + half]], place, False)
        for place, ids in enumerate(completions)
        for start in range(0, len(ids), half)
    ]
    yield from parts[:-1]
    yield _Piece(number, parts[-1].context, parts[-1].completions, parts[-1].first, True)


def _batches(pieces: Sequence[_Piece], batch_tokens: int) -> Iterator[list[_Piece]]:
    """Pieces of like size together, so that little is padding; one that is larger than a batch stands alone.

    The longest come first: what is left then takes less time than it seems, and memory does not run out at the end.
    """
    batch: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: -piece.size):
        if batch and (len(batch) + 1) * batch[0].size > batch_tokens:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _score_batch(model: GPT, items: Sequence[Item]) -> list[list[tuple[float, bool]]]:
    """(log-probability, greedy) of each completion of items that fit into a block."""
    T = max(len(context) + sum(max(0, len(ids) - 1) for ids in completions) for context, completions in items)
    ids, positions, branches = (torch.zeros(len(items), T, dtype=torch.long) for _ in range(3))  # (B, T)
    rows: list[int] = []  # of each supervised token: its row, the place it is predicted at, and its id
    places: list[int] = []
    targets: list[int] = []
    for b, (context, completions) in enumerate(items):
        line, stand, branch = list(context), list(range(len(context))), [0] * len(context)
        for number, completion in enumerate(completions, start=1):
            read = max(0, len(completion) - 1)
            places += [len(context) - 1, *range(len(line), len(line) + read)][: len(completion)]
            targets += completion
            rows += [b] * len(completion)
            line += completion[:read]
            stand += range(len(context), len(context) + read)
            branch += [number] * read
        ids[b, : len(line)], positions[b, : len(line)] = torch.tensor(line), torch.tensor(stand)
        branches[b, : len(line)] = torch.tensor(branch)
    losses, best = _losses(model, ids, positions, branches, (rows, places, targets))
    sizes = [len(completion) for _, completions in items for completion in completions]
    sums = zip(losses.split(sizes), best.split(sizes), strict=True)
    scores = [(-loss.double().sum().item(), bool(hit.all())) for loss, hit in sums]
    ends = iter(scores)
    return [[next(ends) for _ in completions] for _, completions in items]


def _losses(
    model: GPT, ids: Tensor, positions: Tensor, branches: Tensor, wanted: tuple[list[int], list[int], list[int]]
) -> tuple[Tensor, Tensor]:
    """Cross-entropy (N,) in nats of the wanted targets, and whether each is the likeliest id."""
    device = model.device
    ids, positions, branches = ids.to(device), positions.to(device), branches.to(device)
    rows, places, targets = (torch.tensor(each, dtype=torch.long, device=device) for each in wanted)
    view = model.view(ids, positions, None)
    if int(branches.max()) > 1:  # one completion a row is the plain triangle
        before = torch.ones(ids.size(1), ids.size(1), dtype=torch.bool, device=device).tril()
        shared = (branches == 0).unsqueeze(1)  # (B, 1, T): the context
        view.mask = (before & (shared | (branches.unsqueeze(2) == branches.unsqueeze(1)))).unsqueeze(1)  # (B, 1, T, T)
        view.causal = False
    hidden = model.ln_f(model.run_blocks(model.embed(ids, positions), view))[rows, places]  # (N, C)
    losses, best = [hidden.new_zeros(0, dtype=torch.float32)], [targets.new_zeros(0, dtype=torch.bool)]
    size = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    for part, answers in zip(hidden.split(size), targets.split(size), strict=True):
        logits = model.logits(part).float()
        losses.append(F.cross_entropy(logits, answers, reduction="none"))
        best.append(logits.argmax(dim=-1) == answers)
    return torch.cat(losses).cpu(), torch.cat(best).cpu()
