"""What records say that is not learnt is counted and told, in a line; nothing vanishes unsaid."""

import json
from pathlib import Path

import pytest

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.preparing.prepare import prepare


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Prepare records; what was said about them."""
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "cache"))

    def told(records: list[dict], **settings) -> list[str]:
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        lines = list[str]()
        config = DataConfig(sources=(str(path),), **settings)
        prepare(config, TokenizerConfig(kind="char"), say=lines.append).close()
        return [line for line in lines if line.startswith("left out") or "answers" in line]

    return told


def test_fields_that_are_not_read_are_named_with_their_counts(told):
    records = [{"instruction": f"Do {n}", "input": "it" * (n % 2), "output": "So.", "id": n} for n in range(52)]
    assert told(records, template="response") == ["left out: field 'id' in 52 of 52 records"]
    named = {"prompt_field": "instruction", "response_field": "output"}
    assert told(records, template="response", **named) == [
        "left out: fields 'id' in 52 of 52 records, 'input' in 26 of 52 records"
    ]
    assert told([{"text": f"a {n}", "url": "b", "nothing": None} for n in range(20)]) == [
        "left out: field 'url' in 20 of 20 records"
    ]
    many = {f"c{n}": n for n in range(1, 2000)}
    (line,) = told([{"text": f"a {n}", **many} for n in range(20)])
    assert line.endswith(", 'c5' in 20 of 20 records, 995 more")


def test_keys_of_messages_that_are_not_read_are_named(told):
    chat = [
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": "Hello", "refusal": None},
    ]
    assert told([{"messages": chat, "tools": []}] * 9 + [{"messages": chat, "tools": [{"x": 1}]}], template="chat") == [
        "left out: fields 'messages.name' in 10 of 10 records, 'tools' in 1 of 10 records"
    ]


def test_empty_answers_are_counted(told):
    records = [{"prompt": f"Do {n}", "response": "" if n % 3 else "So."} for n in range(30)]
    assert told(records, template="response") == [
        "20 of 30 answers are empty (67%), and there the model learns to say nothing: fill them in, or leave these "
        "records out"
    ]
    songs = [{"prompt": f"Do {n}", "lyrics": " \n" if n % 3 else "La"} for n in range(30)]
    assert told(songs, template="song")[0].startswith("20 of 30 answers are empty (67%)")
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "a"},
    ]
    assert told([{"messages": chat}] * 10, template="chat")[0].startswith("10 of 20 answers are empty (50%)")


def test_nothing_is_said_where_everything_is_learnt(told):
    assert told([{"prompt": f"Do {n}", "response": "So."} for n in range(20)], template="response") == []
    assert told([{"text": f"a {n}"} for n in range(20)]) == []


def test_the_songbook_has_titles_that_nobody_misses(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path))
    lines = list[str]()
    config = DataConfig(sources=("songbook",), songs=20, template="song")
    prepare(config, TokenizerConfig(kind="char"), say=lines.append).close()
    assert not [line for line in lines if "left out" in line]


def test_the_cases_that_were_met(shared_data, told):
    folder = Path(shared_data).parent / "cases"
    for name, template, expected in (
        ("alpaca.jsonl", "response", []),
        ("openai_weight0.jsonl", "chat", []),
        ("emptyresponse.jsonl", "response", ["answers are empty"]),
    ):
        if not (folder / name).exists():
            pytest.skip(f"{name} is not on this machine")
        records = [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        lines = told(records, template=template)
        assert len(lines) == len(expected), lines
        assert all(part in line for part, line in zip(expected, lines, strict=True))
