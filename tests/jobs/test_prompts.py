"""Prompts out of files: laid out as the run learnt them; what is written to them hangs on prompt and number alone."""

import json
from pathlib import Path

import pytest

from primegpt import api
from primegpt.errors import DataError
from primegpt.jobs.prompts import read_prompts, written_to
from primegpt.jobs.text_loss import reading_of

SONG = {"prompt": "the river", "genre": "R&B", "emotion": "sad", "lyrics": "[verse]\nlow river", "themes": ["river"]}
CHAT = {"messages": [{"role": "user", "content": "12 + 7"}, {"role": "assistant", "content": "19"}], "answer": "19"}
ALPACA = {"instruction": "add", "input": "12 + 7", "output": "19"}
ANSWER = {"prompt": "what ran?", "response": "the river"}


@pytest.fixture
def prompts(run_on):
    """Read records as a run on `kind` does: the run and what it is asked."""

    def read(kind: str, *records: dict, **data: object):
        Path("asked.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        opened = api.load(run_on(kind))
        return opened, read_prompts(opened, reading_of(opened.config, "asked.jsonl", {"data": data} if data else None))

    return read


@pytest.mark.parametrize(
    ("kind", "record", "ids", "text"),
    [
        ("song", SONG, "<prompt><genre_rb><sad>the river\n<song>", "the river"),
        ("chat", CHAT, "<user>12 + 7</turn><assistant>", "12 + 7"),
        ("chat", {"prompt": "2 + 2"}, "<user>2 + 2</turn><assistant>", "2 + 2"),
        ("chat", {"prompt": CHAT["messages"][:1]}, "<user>12 + 7</turn><assistant>", "12 + 7"),
        ("response", ANSWER, "<prompt>what ran?<response>", "what ran?"),
        ("response", CHAT, "<prompt>12 + 7<response>", "12 + 7"),
        ("response", ALPACA, "<prompt>add\n\n12 + 7<response>", "add\n\n12 + 7"),
        ("text", {"prompt": "the ri"}, "the ri", "the ri"),
    ],
)
def test_prompts_are_laid_out_as_they_were_learnt(prompts, kind, record, ids, text):
    opened, (asked,) = prompts(kind, record)
    assert opened.tokenizer.decode(asked.ids) == ids
    assert asked.text == text
    assert asked.record == record
    assert asked.place == "asked.jsonl, line 1"


def test_a_conversation_keeps_its_turns_up_to_the_last_question(prompts):
    turns = [("user", "2 + 2"), ("assistant", "4"), ("user", "12 + 7"), ("assistant", "19"), ("assistant", "!")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    opened, (asked,) = prompts("chat", record)
    assert opened.tokenizer.decode(asked.ids) == "<user>2 + 2</turn><assistant>4</turn><user>12 + 7</turn><assistant>"
    assert [each["content"] for each in asked.messages] == ["2 + 2", "4", "12 + 7"]


def test_fields_may_have_other_names(prompts):
    _, (asked,) = prompts("response", {"question": "what ran?"}, prompt_field=["question"])
    assert asked.text == "what ran?"


@pytest.mark.parametrize(
    ("kind", "record", "said"),
    [
        ("response", {"question": "a"}, "asked.jsonl, line 1: the prompt 'prompt' is None; --data.prompt_field NAME"),
        ("chat", {"a": 1}, "asked.jsonl, line 1: there is no list 'messages'"),
        ("chat", {"messages": CHAT["messages"][1:]}, "asked.jsonl, line 1: the conversation asks for no answer"),
        ("song", SONG | {"genre": "polka"}, "asked.jsonl, line 1: genre 'polka' is not in the vocabulary"),
        ("response", {"prompt": "a" * 100}, "line 1: the prompt has 102 tokens, and the model sees 64"),
    ],
)
def test_a_record_that_asks_for_nothing_is_named(prompts, kind, record, said):
    with pytest.raises(DataError) as error:
        prompts(kind, record)
    assert said in str(error.value)


def test_a_sample_is_a_function_of_its_prompts_number_and_its_own(prompts):
    """Written side by side or alone, or gone on with in the middle: the same texts; other prompts, other draws."""
    opened, asked = prompts("chat", *[{"prompt": "2 + 2"}] * 5)
    settings = opened.settings(temperature=1.5)
    whole = [[each.ids for each in samples] for samples in written_to(opened, asked, settings, 3)]
    for number in range(5):
        (alone,) = written_to(opened, asked[number : number + 1], settings, 3, number)
        assert [each.ids for each in alone] == whole[number]
    assert len({tuple(ids) for samples in whole for ids in samples}) > 10
    other = [[each.ids for each in samples] for samples in written_to(opened, asked, opened.settings(seed=1), 3)]
    assert other != whole
