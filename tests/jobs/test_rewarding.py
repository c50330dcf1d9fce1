"""`evaluate --prompts --reward`: the mean of what the answers are worth, and of right answers the accuracy."""

import json
from pathlib import Path

import pytest

from primegpt import api
from primegpt.cli.main import run
from primegpt.evaluation.mean import wilson
from primegpt.evaluation.rewards import parse
from primegpt.jobs.prompts import read_prompts, written_to
from primegpt.jobs.text_loss import reading_of

TINY = ["--model.n_layer", "1", "--model.n_embd", "32", "--model.n_head", "2", "--model.block_size", "64"]
TINY += [
    "--train.threads",
    "1",
    "--train.batch_size",
    "8",
    "--tokenizer.kind",
    "char",
    "--generate.max_new_tokens",
    "8",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A run that has learnt a few answers by heart, and half of what it is asked."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("PRIMEGPT_CACHE", str(place / "cache"))
        assert run(["data", "tasks", "--kind", "add", "--records", "8", "--out", "asked.jsonl"], 0.0) == 0
        Path("learnt.jsonl").write_text("".join(Path("asked.jsonl").read_text().splitlines(keepends=True)[:4] * 10))
        flags = ["--data.template", "chat", "--train.max_steps", "150", "--out", "run", "--generate.temperature", "0"]
        assert run(["train", "learnt.jsonl", *flags, *TINY, "--train.learning_rate", "0.01"], 0.0) == 0
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("PRIMEGPT_CACHE", str(place / "cache"))


def test_accuracy_is_the_share_of_right_answers_with_its_interval(capsys):
    assert run(["evaluate", "run", "--prompts", "asked.jsonl", "--reward", "exact", "--json"], 0.0) == 0
    found = json.loads(capsys.readouterr().out)
    assert "text" not in found
    opened, right = api.load("run"), 0
    for line in Path("asked.jsonl").read_text().splitlines():
        record = json.loads(line)
        ids = opened.conversation(record["messages"][:1])
        right += opened.generate(ids, temperature=0).strip() == record["answer"]
    assert right >= 3  # those that it has learnt
    assert found["reward"]["mean"] == right / 8 == found["reward"]["rewards"]["exact"]["mean"]
    assert found["reward"]["interval"] == list(wilson(right / 8, 8))
    assert found["reward"]["prompts"] == 8


def test_sums_and_their_parts_and_a_limit(capsys):
    flags = ["--prompts", "asked.jsonl", "--reward", "exact", "--reward", "-0.5*regex:[0-9]", "--limit", "6"]
    assert run(["evaluate", "run", *flags, "--json"], 0.0) == 0
    found = json.loads(capsys.readouterr().out)["reward"]
    parts = found["rewards"]
    assert found["prompts"] == 6
    assert found["mean"] == pytest.approx(parts["exact"]["mean"] - 0.5 * parts["regex:[0-9]"]["mean"])
    opened = api.load("run")
    asked = read_prompts(opened, reading_of(opened.config, "asked.jsonl"), limit=6)
    written = [samples[0].text for samples in written_to(opened, asked, opened.settings())]
    own = parse(["exact", "-0.5*regex:[0-9]"])([each.text for each in asked], written, [e.record for e in asked])
    assert found["mean"] == pytest.approx(sum(own) / 6)
    assert run(["evaluate", "run", *flags], 0.0) == 0
    printed = capsys.readouterr().out
    assert "\nreward  " in printed
    assert "6 answers, temperature 0, " in printed
    assert "\nexact " in printed


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--prompts", "asked.jsonl"], "--prompts and --reward go together"),
        (["--reward", "exact"], "--prompts and --reward go together"),
        (["--prompts", "asked.jsonl", "--reward", "themes"], "asked.jsonl, line 1: the reward 'themes' reads"),
        (["--prompts", "nothing.jsonl", "--reward", "exact"], "nothing.jsonl does not exist"),
        (["--prompts", "asked.jsonl", "--reward", "nothing"], "there is no reward 'nothing'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(flags, said, capsys):
    assert run(["evaluate", "run", *flags], 0.0) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "writing" not in captured.err
