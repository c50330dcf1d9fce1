"""Windows against brute force: what is covered, in which order, and by which document, counted token by token."""

from collections import Counter
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from primegpt.data.batching.batches import IGNORED, Batch, Batches, Windows, validation_windows
from primegpt.data.preparing.shards import Shards
from primegpt.errors import DataError


@pytest.fixture(scope="module")
def stream(tmp_path_factory, write_shards):
    """Opens documents of the given lengths as shards whose token at position p is p, so that tokens are places."""

    def open_stream(*lengths: int, shard_tokens: int = 1000) -> Shards:
        pairs = zip(lengths, np.cumsum(lengths), strict=True)
        documents = [np.arange(end - length, end) for length, end in pairs]
        return write_shards(tmp_path_factory.mktemp("stream"), documents, shard_tokens=shard_tokens)

    return open_stream


def windows(shards, sequence_length, batch_size=2, accumulation=1, seed=0, **options) -> Batches:
    source = Windows(shards, sequence_length=sequence_length, seed=seed, **options)
    return Batches(source, batch_size, batch_size * accumulation)


def rows(data: Batches, first: int, count: int) -> list[tuple[list[int], list[int]]]:
    """(ids, targets) of examples first … first + count - 1, whatever step they fall into."""
    steps = range(first // data.examples_per_step, -(-(first + count) // data.examples_per_step))
    batches = chain.from_iterable(data.micro_batches(step) for step in steps)
    every = [pair for batch in batches for pair in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True)]
    skip = first - steps[0] * data.examples_per_step
    return every[skip : skip + count]


class Numbers:
    """A source of its own kind: example e is one row (e, e + 1), asked for e + 1."""

    examples_per_epoch, targets_per_example = 10, 1.5

    def assemble(self, examples) -> Batch:
        ids = torch.from_numpy(examples)[:, None]
        return Batch(ids, ids + 1, None, None, int(examples[0]))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_source_need_only_assemble_examples(ranks, batch_size):
    """Position, micro-batches, ranks, halving and epochs are the same for every kind of source."""
    whole = Batches(Numbers(), 12, 12)
    shares = [Batches(whole.source, 4, 12, rank, ranks).with_batch_size(batch_size) for rank in range(ranks)]
    for step in (0, 3, 1):
        parts = [part for share in shares for part in share.micro_batches(step)]
        assert torch.cat([part.ids for part in parts])[:, 0].tolist() == list(range(12 * step, 12 * step + 12))
        assert [part.first_example for part in parts] == [int(part.ids[0]) for part in parts]
        assert all(len(part.ids) == batch_size for part in parts)
    for share in shares:
        assert (share.gradient_accumulation_steps, share.tokens_per_step, share.epoch(5)) == (12 // batch_size, 18, 6.0)


SIZES = {
    "n_tokens": st.integers(2, 90),
    "length": st.integers(1, 20),
    "batch_size": st.integers(1, 5),
    "accumulation": st.integers(1, 3),
    "seed": st.integers(0, 99),
}


@given(**SIZES, epoch=st.integers(0, 3))
def test_every_token_is_a_target_exactly_once_an_epoch(stream, n_tokens, length, batch_size, accumulation, seed, epoch):
    """A token counted twice or never would weigh the text unevenly; a wrong neighbour would teach nonsense."""
    length = min(length, n_tokens - 1)
    data = windows(stream(n_tokens, shard_tokens=37), length, batch_size, accumulation, seed)
    n = data.source.examples_per_epoch
    assert n == -(-n_tokens // length)
    seen: Counter[int] = Counter()
    for ids, targets in rows(data, epoch * n, n):
        assert ids == [(ids[0] + i) % n_tokens for i in range(length)]
        assert all(target in (IGNORED, (token + 1) % n_tokens) for token, target in zip(ids, targets, strict=True))
        seen.update(targets)
    ignored = seen.pop(IGNORED, 0)
    assert seen == Counter(range(n_tokens))
    assert ignored == n * length - n_tokens


@given(**SIZES, stride=st.integers(1, 12))
def test_a_stride_slides_fully_supervised_windows_around_the_stream(
    stream, n_tokens, length, batch_size, accumulation, seed, stride
):
    length = min(length, n_tokens - 1)
    data = windows(stream(n_tokens), length, batch_size, accumulation, seed, stride=stride)
    n = data.source.examples_per_epoch
    assert n == -(-n_tokens // stride)
    found = rows(data, 2 * n, n)
    assert all(targets == [(ids[0] + i) % n_tokens for i in range(1, length + 1)] for ids, targets in found)
    starts = {ids[0] for ids, _ in found}
    assert any(starts == {(phase + i * stride) % n_tokens for i in range(n)} for phase in range(n_tokens))


def test_windows_are_shuffled_and_shifted_anew_each_epoch_by_the_seed(stream):
    shards = stream(1000)
    orders = [
        [ids[0] for ids, _ in rows(windows(shards, 10, seed=seed), epoch * 100, 100)]
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    phases = {order[0] % 10 for order in orders}
    assert len(phases) > 1
    assert all(len({start % 10 for start in order}) == 1 for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    steps = [(b - a) % 1000 for order in orders for a, b in pairwise(order)]
    assert sum(step == 10 for step in steps) < 20  # neighbours in the text are rarely neighbours in training


@pytest.mark.parametrize("n_tokens", [7, 23, 64, 1000])
def test_a_step_is_the_same_whatever_ran_before_it(stream, n_tokens):
    """Resuming needs no saved position: this is what makes it exact. Small streams cross epochs within a step."""
    shards, running = stream(n_tokens), None
    running = windows(shards, 5, 3, 2)
    for step in range(20):
        for ran, fresh in zip(running.micro_batches(step), windows(shards, 5, 3, 2).micro_batches(step), strict=True):
            assert torch.equal(ran.ids, fresh.ids)
            assert torch.equal(ran.targets, fresh.targets)
            assert ran.first_example == fresh.first_example
    again = windows(shards, 5, 3, 2)
    backwards = [again.micro_batches(step)[0].ids.tolist() for step in (19, 3, 11)]
    assert backwards == [running.micro_batches(step)[0].ids.tolist() for step in (19, 3, 11)]


@pytest.mark.parametrize("isolate", [False, True])
def test_the_global_batch_does_not_depend_on_its_split(stream, isolate):
    shards = stream(20, 9, 34, shard_tokens=11)
    whole = windows(shards, 6, 12, 1, isolate_documents=isolate)
    for batch_size in (1, 2, 3, 4, 6):
        data = windows(shards, 6, batch_size, 12 // batch_size, isolate_documents=isolate)
        assert (data.tokens_per_step, data.epoch(4)) == (whole.tokens_per_step, whole.epoch(4))
        for step in range(4):
            (expected,), parts = whole.micro_batches(step), data.micro_batches(step)
            assert [part.first_example for part in parts] == list(range(step * 12, step * 12 + 12, batch_size))
            for name in ("ids", "targets", *(("segments", "positions") if isolate else ())):
                assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(expected, name))


def test_several_files_give_what_one_gives(stream):
    one, many = stream(100, 150), stream(100, 150, shard_tokens=7)
    for step in range(15):
        (a,), (b,) = (windows(shards, 13, 4).micro_batches(step) for shards in (one, many))
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.targets, b.targets)


def test_a_batch_says_what_it_holds(stream):
    data = windows(stream(23), 5, batch_size=5)
    (batch,) = data.micro_batches(0)
    assert (batch.ids.dtype, batch.targets.dtype, batch.ids.shape) == (torch.int64, torch.int64, (5, 5))
    assert batch.ids.is_contiguous()
    assert batch.targets.is_contiguous()
    assert batch.supervised == 23
    assert (batch.segments, batch.positions) == (None, None)
    assert (data.tokens_per_step, data.source.examples_per_epoch, data.epoch(3)) == (25, 5, 3.0)


def test_what_an_objective_needs_beside_the_ids_goes_where_they_go(stream):
    (batch,) = windows(stream(23), 5, batch_size=5).micro_batches(0)
    assert batch.extras == {}
    extras = {"advantages": torch.rand(5), "old_logps": torch.rand(5, 5)}
    given = replace(batch, extras=extras)
    assert given.to("cpu") is given
    assert given.without_targets().extras is extras
    moved = given.to("meta")
    assert {name: (t.device.type, t.shape) for name, t in moved.extras.items()} == {
        "advantages": ("meta", (5,)),
        "old_logps": ("meta", (5, 5)),
    }
    assert (moved.ids.device.type, moved.segments, moved.first_example) == ("meta", None, batch.first_example)


def brute_force_documents(lengths, ids) -> tuple[list[int], list[int]]:
    """Walk one row: a new document wherever a token is the first of one, positions counted from there."""
    openers = set(np.cumsum([0, *lengths[:-1]]).tolist())
    segments, positions = [], []
    for place, token in enumerate(ids):
        opens = place > 0 and token in openers
        segments.append((segments[-1] if segments else 0) + opens)
        positions.append(0 if opens or not positions else positions[-1] + 1)
    return segments, positions


@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=6),
    length=st.integers(1, 25),
    seed=st.integers(0, 20),
    stride=st.none() | st.integers(1, 7),
)
def test_isolated_documents_against_a_walk_through_each_row(stream, lengths, length, seed, stride):
    length = min(length, sum(lengths) - 1)
    if not length:
        return
    shards = stream(*lengths)
    data = windows(shards, length, 3, 1, seed, stride=stride, isolate_documents=True)
    plain = windows(shards, length, 3, 1, seed, stride=stride)
    for step in range(4):
        (batch,), (expected,) = data.micro_batches(step), plain.micro_batches(step)
        assert torch.equal(batch.ids, expected.ids)
        assert torch.equal(batch.targets, expected.targets)  # the end of a document stays a target
        for ids, segments, positions in zip(
            batch.ids.tolist(), batch.segments.tolist(), batch.positions.tolist(), strict=True
        ):
            assert (segments, positions) == brute_force_documents(lengths, ids)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4).filter(lambda lengths: sum(lengths) > 1),
    length=st.integers(1, 40),
    batch_size=st.integers(1, 4),
    max_targets=st.none() | st.integers(1, 60),
)
def test_validation_asks_for_each_token_once_in_order(stream, lengths, length, batch_size, max_targets):
    shards, n_tokens = stream(*lengths, shard_tokens=17), sum(lengths)
    batches = list(
        validation_windows(
            shards, sequence_length=length, batch_size=batch_size, max_targets=max_targets, isolate_documents=True
        )
    )
    pairs = [
        (int(token), int(target))
        for batch in batches
        for token, target in zip(batch.ids.flatten(), batch.targets.flatten(), strict=True)
        if target != IGNORED
    ]
    n_windows = -(-(n_tokens - 1) // length)
    wanted = min(n_windows, -(-(max_targets or n_tokens) // length))
    starts = [number * n_windows // wanted * length for number in range(wanted)]  # evenly spread
    assert pairs == [(p, p + 1) for start in starts for p in range(start, min(start + length, n_tokens - 1))]
    n_targets = len(pairs)
    assert all(batch.ids.shape[1] == length for batch in batches)
    assert sum(len(batch.ids) for batch in batches) == -(-n_targets // length)
    assert all(len(batch.ids) == batch_size for batch in batches[:-1])
    assert [batch.first_example for batch in batches] == [index * batch_size for index in range(len(batches))]
    for batch in batches:
        for ids, segments, positions in zip(
            batch.ids.tolist(), batch.segments.tolist(), batch.positions.tolist(), strict=True
        ):
            assert (segments, positions) == brute_force_documents(lengths, ids)


def test_a_text_shorter_than_a_window_is_refused_with_the_way_out(stream):
    windows(stream(9), 8)
    with pytest.raises(DataError, match=r"has 8 tokens, fewer than a window of 8 \+ 1; add text or lower train\."):
        windows(stream(8), 8)
    with pytest.raises(DataError, match="no token to predict"):
        next(validation_windows(stream(1), sequence_length=4, batch_size=1))
