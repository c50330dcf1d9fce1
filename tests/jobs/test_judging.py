"""The plan where nothing is asked for but minutes: what a text suffices for, and for how long."""

import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from primegpt.config import Config, Layer
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import prepare
from primegpt.jobs import judging
from primegpt.jobs.configuring import configure, fill_vocabulary, is_chosen
from primegpt.model.size import parameter_count
from primegpt.parallel.world import ALONE
from primegpt.planning import passes, recipe, timing
from primegpt.planning.plan import prepare_device
from primegpt.planning.recipe import TextFacts
from primegpt.planning.timing import StepTime
from primegpt.training.progress import plan_table

BASICS = {"device": "cpu", "precision": "fp32", "threads": 1}
Planned = Callable[..., tuple[Config, Corpus, list[str]]]


@pytest.fixture
def planned(tmp_path, monkeypatch) -> Planned:
    """The plan for so many bytes of words, where a step takes 0.05 s; and the warnings that come with it."""
    monkeypatch.setattr(timing, "measure_step", lambda *_, **__: StepTime(step=0.05, position=1e-6, token=1e-3))
    monkeypatch.setattr("primegpt.jobs.configuring.training_rate", lambda *_: 4e11)

    def make(size: int, minutes: float, copies: int = 1, **train: object) -> tuple[Config, Corpus, list[str]]:
        draw = random.Random(1)
        words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 7))) for _ in range(3000)]
        text = (" ".join(draw.choices(words, k=size // 4))[:size] + "\n") * copies
        path = tmp_path / "text.txt"
        path.write_text(text, encoding="utf-8")
        flags = Layer({"train": {"minutes": minutes, "attention": "sdpa", **BASICS, **train}})
        said: list[str] = []
        config = prepare_device(configure([str(path)], flags))
        corpus = prepare(config.data, config.tokenizer, context=config.sequence_length)
        config = fill_vocabulary(config, corpus.tokenizer)
        audit = judging.audited(corpus, config, None)
        chosen = partial(configure, [str(path)], flags)
        plan = judging.lasting_plan(config, corpus, chosen, audit, 0.0, ALONE)
        judging.said_of(audit, plan, corpus, said.append)
        return plan, corpus, said

    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    return make


@pytest.mark.parametrize("minutes", [0.3, 2.0, 16.0, 300.0])
@pytest.mark.parametrize(("size", "copies"), [(30_000, 1), (70_000, 1), (70_000, 5), (500_000, 1)])
def test_the_plan_never_contradicts_the_audit(planned, size, copies, minutes):
    plan, corpus, said = planned(size, minutes, copies)
    heart = [line for line in said if "learn the text by heart" in line]
    smallest = (plan.model.n_layer, plan.model.n_embd) == (2, 64)
    assert not heart or smallest
    assert parameter_count(plan.model) <= 16.5 * size or smallest
    assert passes.of(plan, corpus) <= 1.01 * passes.MOST
    assert (plan.train.average, plan.train.patience) == (
        (0.1, 3) if passes.of(plan, corpus) > passes.FEW else (0.0, None)
    )


def test_the_plan_says_why(planned):
    plan, corpus, _ = planned(70_000, 5.0)
    (why,) = [value for name, value in plan_table(plan, corpus) if name == "because"]
    assert why.startswith("70 KB in 5 minutes: ")
    assert re.search("(29|30) passes; a larger network would memorise, and so would more passes: it takes", why)
    assert why.endswith("to use the rest, add text")
    assert plan.plan.expected_seconds < 90
    plan, _, _ = planned(500_000, 0.3)
    assert plan.plan.why.endswith("passes; a larger network would make too few steps")


def test_more_passes_have_more_decay(planned):
    """What a step has learnt is forgotten in 45 / P of P passes, as measured: never less than the preset has."""
    plan, corpus, _ = planned(70_000, 5.0)
    steps_a_pass = plan.train.max_steps / passes.of(plan, corpus)
    forgotten = 1 / (plan.train.muon_learning_rate * plan.train.weight_decay) / steps_a_pass
    assert forgotten == pytest.approx(45 / 30, rel=0.06)
    assert planned(500_000, 0.3)[0].train.weight_decay == 0.1
    assert planned(30_000, 5.0)[0].train.weight_decay == 2.0


def test_what_is_asked_for_stands(planned):
    plan, _, _ = planned(70_000, 5.0, average=0.0, patience=7, weight_decay=0.0)
    assert (plan.train.average, plan.train.patience, plan.train.weight_decay) == (0.0, 7, 0.0)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"train": {"minutes": 3.0, "seed": 1}}, True),
        ({"model": {"preset": "gpt2"}}, True),
        ({"model": {"n_layer": 2}}, False),
        ({"train": {"max_steps": 100}}, False),
        ({"train": {"batch_size": 4}}, False),
    ],
)
def test_a_network_is_chosen_where_nothing_is_said_of_it(flags, expected, tmp_path):
    assert is_chosen([str(tmp_path / "text.txt")], Layer(flags)) == expected


def test_where_no_larger_network_is_planned_it_says_so(planned, monkeypatch):
    """A billion bytes on an H100 were told that a larger network would memorise."""
    monkeypatch.setattr(judging, "NETWORKS", judging.NETWORKS[:1])
    monkeypatch.setattr(recipe, "NETWORKS", recipe.NETWORKS[:1])
    assert planned(70_000, 0.3)[0].plan.why.endswith("passes; the largest network that is planned")


def test_the_network_goes_by_the_tokens_that_there_are(tmp_path):
    """Records that were prepared for one network are read by another: their context stays."""
    path = Path(tmp_path / "songs.jsonl")
    path.write_text('{"prompt": "a", "lyrics": "la la la"}\n' * 20_000, encoding="utf-8")
    flags = Layer({"data": {"template": "song"}, "train": {"minutes": 16.0, **BASICS}})
    config = configure([str(path)], flags).with_values(model={"vocab_size": 300})
    assert config.model.n_embd > 64
    smaller = judging.with_network_for(TextFacts(300, 12_000), config, partial(configure, [str(path)], flags))
    assert (smaller.model.n_layer, smaller.model.n_embd) == (2, 64)
    assert (smaller.model.block_size, smaller.train.batch_size) == (config.model.block_size, config.train.batch_size)
    assert smaller.train.learning_rate == 1.28 / 64
