"""Batches of records: every record once an epoch, decided by (seed, step) alone, padded where nobody looks."""

from collections import Counter

import numpy as np
import pytest
import torch

from primegpt.data.batching.batches import IGNORED, Batches
from primegpt.data.batching.examples import Examples, question, read, validation_examples
from primegpt.errors import DataError

N = 50


@pytest.fixture
def shards(tmp_path, write_shards):
    """Record n: id n, two droppable ids 900, one of context, then 1 + n % 7 supervised ones."""
    answers = [1 + n % 7 for n in range(N)]
    records = [([n, 900, 900, 901, *[500 + n] * k], [0, 2, 2, 0, *[1] * k]) for n, k in enumerate(answers)]
    return write_shards(tmp_path / "train", records, shard_tokens=64, roles=True)


def batches(shards, batch_size=4, accumulation=2, **options):
    options = {"seed": 1, "prompt_dropout": 0.0} | options
    rows_per_step = batch_size * accumulation
    return Batches(Examples(shards, rows_per_step=rows_per_step, **options), batch_size, rows_per_step)


def rows(step_batches):
    return [(b.ids[i], b.targets[i]) for b in step_batches for i in range(len(b.ids))]


def test_every_record_once_an_epoch_in_an_order_of_its_own(shards):
    examples = batches(shards, 5, 2)
    epochs = [
        [int(ids[0]) for step in range(5 * epoch, 5 * epoch + 5) for ids, _ in rows(examples.micro_batches(step))]
        for epoch in range(3)
    ]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert examples.epoch(5) == 1.0
    assert examples.tokens_per_step == round(shards.supervised_tokens / N * 10)


def test_targets_are_the_answer_and_nothing_else(shards):
    for ids, targets in rows(batches(shards).micro_batches(3)):
        n = int(ids[0])
        answer = 1 + n % 7
        expected = [IGNORED] * 3 + [500 + n] * answer
        assert targets.tolist() == expected + [IGNORED] * (len(targets) - len(expected))
        assert ids[: 3 + answer].tolist() == [n, 900, 900, 901, *[500 + n] * (answer - 1)]
    assert sum(b.supervised for b in batches(shards).micro_batches(3)) > 0


def test_without_masking_all_of_a_record_is_asked_for_but_its_first_token(shards):
    for ids, targets in rows(batches(shards, mask_prompt=False).micro_batches(3)):
        answer = 1 + int(ids[0]) % 7
        expected = [900, 900, 901, *[500 + int(ids[0])] * answer]
        assert targets.tolist() == expected + [IGNORED] * (len(targets) - len(expected))


def test_the_same_rows_for_any_micro_batch_and_from_a_fresh_object(shards):
    def step(examples, number):
        return [
            (ids[targets != IGNORED].tolist(), int(ids[0])) for ids, targets in rows(examples.micro_batches(number))
        ]

    examples = batches(shards, 4, 2, prompt_dropout=0.5)
    for number in (7, 0, 6, 13):  # in any order, across the ends of epochs
        assert step(examples, number) == step(batches(shards, 8, 1, prompt_dropout=0.5), number)
        assert step(examples, number) == step(examples.with_batch_size(2), number)
    assert step(examples, 0) != step(batches(shards, seed=2, prompt_dropout=0.5), 0)
    firsts = [batch.first_example for batch in examples.micro_batches(3)]
    assert firsts == [24, 28]


def test_few_lengths_leave_ids_and_targets_as_they_are(shards):
    """Beyond the longest row there is only padding; a row longer than all of the lengths keeps its own."""
    lengths = (6, 9)
    plain, longer = batches(shards, prompt_dropout=0.3), batches(shards, prompt_dropout=0.3, lengths=lengths)
    widths = set()
    for step in range(12):
        pairs = zip(plain.micro_batches(step), longer.with_batch_size(4).micro_batches(step), strict=True)
        for own, padded in pairs:
            T = own.ids.shape[1]
            assert padded.ids[:, :T].equal(own.ids)
            assert padded.targets[:, :T].equal(own.targets)
            assert (padded.targets[:, T:] == IGNORED).all()
            widths.add(padded.ids.shape[1])
    assert widths == {6, 9, 10}
    kept = [batch.ids.shape[1] for batch in validation_examples(shards, batch_size=4, lengths=lengths)]
    assert set(kept) <= {6, 9, 10}


def test_prompts_are_dropped_as_often_as_asked_anew_in_each_epoch(shards):
    examples = batches(shards, 5, 2, prompt_dropout=0.3)
    dropped = [
        {
            int(ids[0])
            for step in range(5 * e, 5 * e + 5)
            for ids, _ in rows(examples.micro_batches(step))
            if ids[1] == 901
        }
        for e in range(40)
    ]
    assert abs(sum(map(len, dropped)) / (40 * N) - 0.3) < 0.03
    assert len(set(map(frozenset, dropped))) == 40
    again = batches(shards, 10, 1, prompt_dropout=0.3)
    assert {int(ids[0]) for s in range(5) for ids, _ in rows(again.micro_batches(s)) if ids[1] == 901} == dropped[0]
    for ids, targets in rows(examples.micro_batches(0)):
        if ids[1] == 901:
            assert targets[1] == 500 + ids[0]  # the answer stays whole


def test_records_of_like_length_go_together(shards):
    examples = batches(shards, 5, 1)
    padding = sum(int((b.ids == 0).sum()) for step in range(10) for b in examples.micro_batches(step))
    assert padding < 0.15 * sum(b.ids.numel() for step in range(10) for b in examples.micro_batches(step))


def test_validation_is_every_record_once_or_evenly_spread_ones(shards):
    everything = list(validation_examples(shards, batch_size=7))
    assert [int(ids[0]) for ids, _ in rows(everything)] == list(range(N))
    assert sum(b.supervised for b in everything) == shards.supervised_tokens
    some = [int(ids[0]) for ids, _ in rows(validation_examples(shards, batch_size=7, max_targets=40))]
    assert some == [n * N // len(some) for n in range(len(some))]
    assert Counter(some).most_common(1)[0][1] == 1
    assert len(list(validation_examples(shards, batch_size=7, max_targets=1))) == 1


def test_questions_and_reading(shards):
    assert question(shards, 12) == [12, 900, 900, 901]
    ids, roles = read(shards, N - 1)
    assert ids.tolist() == [49, 900, 900, 901, 549]
    assert roles.tolist() == [0, 2, 2, 0, 1]
    assert isinstance(batches(shards).micro_batches(0)[0].ids, torch.Tensor)
    assert np.issubdtype(ids.dtype, np.uint16)


def test_too_few_records_are_refused(shards):
    with pytest.raises(DataError, match=r"50 records are fewer than one step of 64; add records or lower train\.batch"):
        batches(shards, 32, 2)
