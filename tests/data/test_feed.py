"""What several ranks take of a step: together, the rows of one process, in its order."""

import numpy as np
import pytest
import torch

from primegpt.config import Config, resolve
from primegpt.data.corpus import Corpus
from primegpt.data.feed import Share, for_ranks, training_batches
from primegpt.data.prepare import prepare
from primegpt.errors import ConfigError

LINES = [f"line {i} of {i % 7} " + "x" * (i % 13) for i in range(400)]


def settings(tmp_path, kind: str, **train: int) -> Config:
    """Two plain texts, drawn from at given shares or as one, or records with an answer."""
    for name, lines in (("a", LINES[:250]), ("b", LINES[250:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
        records = (f'{{"prompt": "{line}", "response": "{line[::-1]}"}}' for line in lines)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(records))
    suffix = "jsonl" if kind == "records" else "txt"
    data: dict = {"sources": [str(tmp_path / f"{name}.{suffix}") for name in "ab"]}
    data |= {"template": "response"} if kind == "records" else {"weights": [3.0, 1.0]} if kind == "mixture" else {}
    layers = {"model": {"block_size": 16}, "tokenizer": {"kind": "char"}, "data": data, "train": train}
    return resolve(layers)


def corpus_of(config: Config) -> Corpus:
    return prepare(config.data, config.tokenizer, context=64)


def rows(batches, step: int) -> list[tuple[list[int], list[int]]]:
    """Ids and targets of each row of a step, padding left out."""
    found = []
    for batch in batches.micro_batches(step):
        for ids, targets in zip(batch.ids, batch.targets, strict=True):
            length = int(np.flatnonzero((ids != 0) | (targets != -100)).max()) + 1
            found.append((ids[:length].tolist(), targets[:length].tolist()))
    return found


@pytest.mark.parametrize("kind", ["windows", "records", "mixture"])
def test_the_shares_of_all_ranks_are_the_step_of_one_process(tmp_path, kind):
    config = settings(tmp_path, kind, batch_size=4, gradient_accumulation_steps=3)
    corpus = corpus_of(config)
    alone = training_batches(config, corpus)
    for ranks in (2, 3, 4, 6, 12):
        shares = [training_batches(config, corpus, rank, ranks) for rank in range(ranks)]
        for step in (0, 1, 40):  # the last one straddles an epoch, or lies behind one
            together = [row for share in shares for row in rows(share, step)]
            assert together == rows(alone, step)
            assert len({len(share.micro_batches(step)) for share in shares}) == 1
        assert {share.tokens_per_step for share in shares} == {alone.tokens_per_step}
        assert shares[1].epoch(7) == alone.epoch(7)


def test_a_share_has_random_streams_of_its_own(tmp_path):
    config = settings(tmp_path, "windows", batch_size=2, gradient_accumulation_steps=4)
    corpus = corpus_of(config)
    alone = [batch.first_example for batch in training_batches(config, corpus).micro_batches(5)]
    shares = [training_batches(config, corpus, rank, 2).micro_batches(5) for rank in range(2)]
    assert [batch.first_example for share in shares for batch in share] == alone == [40, 42, 44, 46]


def test_halving_the_micro_batch_leaves_a_share_as_it_is(tmp_path):
    config = settings(tmp_path, "windows", batch_size=4, gradient_accumulation_steps=2)
    share = training_batches(config, corpus_of(config), 1, 2)
    assert isinstance(share, Share)
    halved = share.halved()
    assert (halved.batch_size, halved.gradient_accumulation_steps) == (2, 4)
    assert rows(halved, 3) == rows(share, 3)


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "ranks", "expected"),
    [(12, 1, 2, (6, 2)), (4, 8, 4, (4, 8)), (4, 3, 2, (3, 4)), (16, 1, 16, (1, 16)), (5, 2, 1, (5, 2))],
)
def test_micro_batches_are_as_large_as_can_be_dealt_out(batch_size, accumulation, ranks, expected):
    train = for_ranks(
        resolve({"train": {"batch_size": batch_size, "gradient_accumulation_steps": accumulation}}), ranks
    ).train
    assert (train.batch_size, train.gradient_accumulation_steps) == expected


def test_a_step_that_cannot_be_dealt_out_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"a step of 10 rows .* is not divisible among 4 ranks; make it a multiple"):
        for_ranks(resolve({"train": {"batch_size": 5, "gradient_accumulation_steps": 2}}), 4)


def test_without_targets_nothing_is_asked(tmp_path):
    config = settings(tmp_path, "records", batch_size=4)
    batch = training_batches(config, corpus_of(config)).micro_batches(0)[0]
    blank = batch.without_targets()
    assert batch.supervised > 0
    assert blank.supervised == 0
    assert torch.equal(blank.ids, batch.ids)
