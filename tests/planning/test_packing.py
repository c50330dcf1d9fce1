"""Whether records share rows: how much padding goes, when that is worth it, and that a run stays the same run."""

import json
from pathlib import Path
from typing import Any

import pytest

from primegpt import api
from primegpt.config import Config, resolve
from primegpt.data.batching.feed import fixed_batches, training_batches
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import prepare
from primegpt.planning.packing import with_packing
from primegpt.training.progress import plan_table

UNEQUAL = [1 + n * n % 13 + 100 * (n % 10 == 0) for n in range(80)]  # words of an answer: one in ten is long
EQUAL = [20] * 80


def prepared(folder: Path, words: list[int], pack: bool | str = "auto", **train: Any) -> tuple[Config, Corpus]:
    source = folder / "records.jsonl"
    records = ({"prompt": "ab" * (1 + n % 2), "response": "o " * words[n]} for n in range(len(words)))
    source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    config = resolve(
        {
            "model": {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 256},
            "tokenizer": {"kind": "char"},
            "data": {"sources": (str(source),), "template": "response", "pack": pack},
            "train": {"batch_size": 36, "max_steps": 6, "threads": 1, "precision": "fp32", **train},
        }
    )
    corpus = prepare(config.data, config.tokenizer, context=256, say=lambda line: None)
    return config.with_values(model={"vocab_size": corpus.tokenizer.vocab_size}), corpus


def tokens(config: Config, corpus: Corpus) -> tuple[int, int]:
    """Tokens of the first two steps, and of them those up to the last target of each record or row."""
    batches = [batch for step in range(2) for batch in training_batches(config, corpus).micro_batches(step)]
    return sum(batch.ids.numel() for batch in batches), sum(batch.supervised for batch in batches)


def test_unequal_records_are_packed_and_the_plan_says_what_it_saves(tmp_path: Path) -> None:
    config, corpus = prepared(tmp_path, UNEQUAL)
    planned = with_packing(config, corpus)
    plan = planned.plan
    assert planned.data.pack is True
    assert plan.packed_padding < 0.2 < 0.5 < plan.padding
    (plain, asked), (shared, asked_packed) = tokens(config, corpus), tokens(planned, corpus)
    assert asked == asked_packed
    assert shared / plain == pytest.approx((1 - plan.padding) / (1 - plan.packed_padding), abs=0.15)
    lengths = {
        batch.ids.size(1) for step in range(6) for batch in training_batches(planned, corpus).micro_batches(step)
    }
    assert lengths <= set(plan.packed_lengths)
    said = dict(plan_table(planned.with_values(train={"attention": "sdpa"}), corpus))["packing"]
    assert said == f"{plan.padding:.0%} of batches is padding, one record a row; {plan.packed_padding:.0%} packed"


@pytest.mark.parametrize(
    ("words", "pack", "train", "expected"),
    [(EQUAL, "auto", {}, False), (UNEQUAL, False, {}, False), (UNEQUAL, "auto", {"compile": True}, False),
     (EQUAL, True, {}, True)],
)  # fmt: skip
def test_it_is_left_where_nothing_is_to_be_saved_or_where_it_is_not_wanted(
    tmp_path: Path, words: list[int], pack: bool | str, train: dict, expected: bool
) -> None:
    config, corpus = prepared(tmp_path, words, pack, **train)
    planned = with_packing(config, corpus)
    assert planned.data.pack is expected
    assert bool(planned.plan.packed_lengths) is expected
    assert tokens(planned, corpus) == tokens(config, corpus)  # equal records stay apart even where they may not


def test_a_run_that_began_before_there_was_packing_goes_on_without(tmp_path: Path) -> None:
    config, corpus = prepared(tmp_path, UNEQUAL)
    assert config.data.pack == "auto"  # what its configuration, which does not say, is read as
    assert all(len(batch.ids) == 36 for batch in training_batches(config, corpus).micro_batches(0))
    assert all(batch.segments is None for batch in fixed_batches(config, corpus.val))


def test_a_packed_run_is_the_unpacked_run(tmp_path: Path) -> None:
    """Losses, of training and held-out records, gradients and weights, after six steps and across a resume."""
    rows = {}
    for pack in (True, False):
        config, _ = prepared(tmp_path, UNEQUAL, pack)
        values = config.model_dump(exclude_unset=True)
        settings = {section: values[section] for section in ("model", "tokenizer", "train", "data")}
        source = settings["data"].pop("sources")[0]
        settings["train"] |= {"max_steps": 4, "eval_interval": 2, "log_interval": 1}
        api.train(source, out=tmp_path / str(pack), settings=settings, quiet=True)
        run = api.resume(tmp_path / str(pack), settings={"train": {"max_steps": 6}}, quiet=True)
        assert bool(run.config.plan.packed_lengths) is pack
        rows[pack] = run.metrics
    assert len(rows[True]) == len(rows[False]) > 6
    for shared, plain in zip(rows[True], rows[False], strict=True):
        for name in {"train/loss", "val/loss", "grad_norm", "tokens", "step"} & plain.keys():
            assert shared[name] == pytest.approx(plain[name], rel=1e-5), name
