"""What is read of a corpus: by several ranks, the rows of one process; of a mixture, each source at its share."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from primegpt.cli.main import run
from primegpt.config import Config, DataConfig, TokenizerConfig, resolve
from primegpt.data.batching.batches import IGNORED, Batch, Batches, Windows
from primegpt.data.batching.feed import BLOCK, Mixture, for_ranks, smaller_micro_batch, training_batches
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import prepare, reopen
from primegpt.errors import ConfigError, DataError

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
    halved = share.with_batch_size(smaller_micro_batch(4))
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


LETTERS = "abc"  # each source is written in a letter of its own
SIZES = (6000, 1500, 300)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Three sources: lines of a, one text of b, records of c."""
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": "a" * 100}) for _ in range(SIZES[0] // 100)]
    Path("a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    Path("b.txt").write_text("b" * SIZES[1], encoding="utf-8")
    Path("c.jsonl").write_text("\n".join(json.dumps({"text": "c" * 30}) for _ in range(10)), encoding="utf-8")
    return tmp_path


def config(weights, **train):
    train = {"batch_size": 4, "gradient_accumulation_steps": 5, "seed": 3} | train
    data = {"sources": ("a.jsonl", "b.txt", "c.jsonl"), "weights": weights}
    return resolve({"data": data, "model": {"block_size": 8}, "train": train})


def prepared(settings) -> Corpus:
    return prepare(settings.data, TokenizerConfig(kind="char"), context=8)


def ids_of(batches, steps) -> list[list[int]]:
    return [row for step in steps for batch in batches.micro_batches(step) for row in batch.ids.tolist()]


def source_of(corpus: Corpus, row: list[int]) -> str:
    (letter,) = set(corpus.tokenizer.decode(row, skip_special_tokens=True)) & set(LETTERS)
    return letter


def test_shares_are_exact_in_each_block(home):
    settings = config((6.0, 3.0, 1.0))
    corpus = prepared(settings)
    batches = training_batches(settings, corpus)
    steps = BLOCK // batches.examples_per_step
    for block in range(2):
        found = ids_of(batches, range(block * steps, (block + 1) * steps))
        assert Counter(source_of(corpus, row) for row in found) == {"a": 600, "b": 300, "c": 100}


def test_shares_that_do_not_divide_a_block_never_drift_apart(home):
    settings = config((1.0, 1.0, 1.0))
    batches = training_batches(settings, prepared(settings))
    assert isinstance(batches.source, Mixture)
    for blocks in range(1, 50):
        drawn = batches.source._drawn(blocks)
        assert drawn.sum() == blocks * BLOCK
        assert np.abs(drawn - blocks * BLOCK / 3).max() < 1


def test_each_source_is_walked_as_if_it_were_alone(home):
    """Its rows, in order, are those of windows over that source only: all of them once an epoch."""
    settings = config((2.0, 1.0, 1.0))
    corpus = prepared(settings)
    found = ids_of(training_batches(settings, corpus), range(100))
    for letter, part in zip(LETTERS, corpus.train_parts(), strict=True):
        alone = Batches(Windows(part, sequence_length=8, seed=3), 1, 1)
        mine = [row for row in found if source_of(corpus, row) == letter]
        assert len(mine) > 2 * alone.source.examples_per_epoch or letter == "a"
        assert mine == ids_of(alone, range(len(mine)))


def test_any_division_into_micro_batches_gives_the_same_rows(home):
    settings = config((2.0, 1.0, 1.0))
    corpus = prepared(settings)
    batches = training_batches(settings, corpus)
    other = training_batches(config((2.0, 1.0, 1.0), batch_size=20, gradient_accumulation_steps=1), corpus)
    assert ids_of(batches, [49, 50]) == ids_of(other, [49, 50])  # on both sides of a block's end
    assert ids_of(batches, [7]) == ids_of(batches.with_batch_size(2), [7])
    assert [b.first_example for b in batches.micro_batches(3)] == [60, 64, 68, 72, 76]
    assert ids_of(batches, [5]) != ids_of(training_batches(config((2.0, 1.0, 1.0), seed=4), corpus), [5])


def test_a_fresh_object_goes_on_where_another_stopped(home):
    settings = config((5.0, 1.0, 2.0))
    corpus = prepared(settings)
    walked = training_batches(settings, corpus)
    for step in range(60):
        expected = walked.micro_batches(step)
    again = reopen(corpus.record(), settings.data, corpus.tokenizer, context=8)
    for mine, theirs in zip(training_batches(settings, again).micro_batches(59), expected, strict=True):
        assert torch.equal(mine.ids, theirs.ids)
        assert torch.equal(mine.targets, theirs.targets)


def test_some_of_every_source_is_held_out_and_weights_do_not_change_it(home):
    one, other = prepared(config((1.0, 1.0, 1.0))), prepared(config((9.0, 1.0, 1.0)))
    assert one.folder == other.folder
    text = one.tokenizer.decode(one.val.slice(0, len(one.val)), skip_special_tokens=True)
    assert Counter(text) == {"a": 600, "b": 150, "c": 30}
    documents = [part.n_documents for part in one.train_parts()]
    assert documents == one.train_documents == [54, 1, 9]
    assert sum(map(len, one.train_parts())) == len(one.train)


def test_the_same_files_in_other_groups_are_another_corpus(home):
    whole = prepare(DataConfig(sources=("a.jsonl", "b.txt"), weights=(1, 1)), TokenizerConfig(kind="char"))
    Path("both").mkdir()
    for name in ("a.jsonl", "b.txt"):
        Path(name).rename(Path("both") / name)
    joined = prepare(DataConfig(sources=("both",), weights=(1,)), TokenizerConfig(kind="char"))
    assert len(whole.train_parts()) == 2
    assert len(joined.train_parts()) == 1
    assert whole.folder != joined.folder


def test_records_are_mixed_and_padded(home):
    for name, count, length in (("x", 30, 3), ("y", 20, 40)):
        record = {"prompt": "ask", "response": name * length}
        Path(f"{name}.jsonl").write_text("\n".join([json.dumps(record)] * count), encoding="utf-8")
    data = {"sources": ("x.jsonl", "y.jsonl"), "weights": (1.0, 3.0), "template": "response"}
    settings = resolve({"data": data, "model": {"block_size": 64}, "train": {"batch_size": 10, "seed": 1}})
    corpus = prepare(settings.data, TokenizerConfig(kind="char"), context=64)
    batches = training_batches(settings, corpus)
    answers = Counter()
    for step in range(BLOCK // 10):
        for batch in batches.micro_batches(step):
            for targets in batch.targets:
                asked = corpus.tokenizer.decode(targets[targets >= 0].tolist(), skip_special_tokens=True)
                answers[asked.strip()] += 1
    assert answers == {"xxx": 250, "y" * 40: 750}


class Numbered:
    """Rows of one token more than the part's number, with what an objective might need beside them."""

    examples_per_epoch, targets_per_example = 10, 1.0

    def __init__(self, part: int) -> None:
        self.part = part

    def assemble(self, examples) -> Batch:
        rows = torch.from_numpy(examples)
        ids = rows[:, None].expand(-1, self.part + 1).contiguous()
        extras = {"number": rows, "ids_again": ids, "other_targets": ids}
        return Batch(ids, ids, None, None, int(examples[0]), extras)


def test_what_an_objective_needs_is_mixed_as_its_rows_are():
    batches = Batches(Mixture([Numbered(0), Numbered(1)], [2.0, 1.0], seed=3), 12, 12)
    (batch,) = batches.micro_batches(2)
    extras = batch.extras
    assert torch.equal(extras["number"], batch.ids[:, 0])
    assert torch.equal(extras["ids_again"], batch.ids)
    assert torch.equal(extras["other_targets"], batch.targets)
    assert (batch.targets == IGNORED).any(), "both parts are there, one of them filled up"


def test_what_cannot_be_weighted_is_one_line(home):
    with pytest.raises(ConfigError, match=r"data\.weights has 2 numbers for 3 sources"):
        config((1.0, 2.0))
    for weight in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match=r"data\.weights"):
            config((1.0, 2.0, weight))
    Path("again.txt").write_text("b" * SIZES[1], encoding="utf-8")
    data = DataConfig(sources=("b.txt", "again.txt"), weights=(1, 1), duplicates="exact")
    with pytest.raises(DataError, match=r"nothing of again\.txt is left"):
        prepare(data, TokenizerConfig(kind="char"))


def test_the_command_line_and_the_plan_say_what_is_mixed(home, capsys):
    flags = ["a.jsonl", "b.txt", "--data.weights", "3", "--data.weights", "1", "--tokenizer.kind", "char"]
    assert run(["data", "prepare", *flags], 0.0) == 0
    shown = capsys.readouterr().out
    assert "a.jsonl ×3.0, b.txt ×1.0" in shown
    small = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "8"]
    assert run(["train", *flags, *small, "--train.max_steps", "3", "--out", "run"], 0.0) == 0
    assert "75% a.jsonl" in capsys.readouterr().err
    assert "weights = [\n    3.0,\n    1.0,\n]" in Path("run/config.toml").read_text(encoding="utf-8")
