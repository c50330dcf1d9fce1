"""Examples must be what the run's own text has; where that is gone, there are none, and no fault."""

import json
from types import SimpleNamespace

import pytest

from primegpt.config import resolve
from primegpt.data.preparing.prepare import prepare
from primegpt.data.template import template_for
from primegpt.run.folder import RunFolder
from primegpt.serving.examples import LONGEST, MOST, examples
from primegpt.terminal import silent


@pytest.fixture
def make(tmp_path):
    """What `examples` needs of a run on a source."""

    def run(source, **data):
        kind = {"kind": "char"} if data.get("template", "text") == "text" else {"kind": "bpe", "vocab_size": 400}
        config = resolve({"data": {"sources": [str(source)], **data}, "tokenizer": kind})
        corpus = prepare(config.data, config.tokenizer, cache=tmp_path / "cache", say=silent)
        folder = RunFolder.create(tmp_path / "run")
        folder.data_path.write_text(json.dumps(corpus.record()), encoding="utf-8")
        template = template_for(config.data, corpus.tokenizer)
        return SimpleNamespace(config=config, folder=folder, tokenizer=corpus.tokenizer, template=template)

    return run


def test_songs_are_asked_for_as_in_the_text(make):
    run = make("songbook", songs=200, template="song")
    found = examples(run)
    assert len(found) == MOST
    for example in found:
        assert example["genre"] in ("pop", "rap", "rock", "rb")
        assert example["emotion"] in ("happy", "sad", "angry", "romantic")
        assert "<" not in example["text"]
        assert "\n" not in example["text"]


def test_plain_text_gives_beginnings_of_its_lines(make, tmp_path):
    lines = [f"This is line number {number}, and goes on for a while, longer than is shown." for number in range(400)]
    (tmp_path / "my.txt").write_text("\n".join(lines), encoding="utf-8")
    found = [example["text"] for example in examples(make(tmp_path / "my.txt"))]
    assert len(found) == len(set(found)) > 1
    for text in found:
        assert len(text) <= LONGEST
        assert any(line.startswith(text) or text in line for line in lines)


def test_those_of_the_configuration_come_first(make, tmp_path):
    (tmp_path / "my.txt").write_text("one two three\n" * 300, encoding="utf-8")
    run = make(tmp_path / "my.txt")
    run.config = run.config.with_values(train={"sample_prompts": ["Once", "Twice"]})
    assert [example["text"] for example in examples(run)] == ["Once", "Twice"]


@pytest.mark.parametrize("damage", ["gone", "other", "torn"])
def test_a_text_that_is_gone_or_damaged_is_no_fault(make, tmp_path, damage):
    (tmp_path / "my.txt").write_text("one two three\n" * 300, encoding="utf-8")
    run = make(tmp_path / "my.txt")
    assert examples(run)
    if damage == "gone":
        run.folder.data_path.unlink()
    elif damage == "other":
        run.folder.data_path.write_text(json.dumps({"folder": str(tmp_path)}), encoding="utf-8")
    else:
        for path in (tmp_path / "cache").rglob("val/tokens-*"):
            path.write_bytes(path.read_bytes()[:-3])
    assert examples(run) == []
