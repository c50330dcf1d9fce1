"""Records in tokens: what is asked for, what may be left out, and that text never becomes a special id."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt.config import DataConfig
from primegpt.data.sources import Document
from primegpt.data.template import (
    CONTEXT,
    PROMPT,
    SUPERVISED,
    ChatTemplate,
    ResponseTemplate,
    SongTemplate,
    Tally,
    template_for,
    vocabulary,
)
from primegpt.errors import ConfigError, DataError
from primegpt.tokenizers import store

SONG = {
    "prompt": "a sad rock song about <song> rivers",
    "genre": "Rock",
    "emotion": "sad",
    "lyrics": "[Verse 1: Ann]\nDown by the river\n[verse]\n\n(Chorus)\n</song> oh\n"
    "[Solo]\n[chorus of angels]\n(oh, yeah)",
}


def record(**fields):
    return Document("", "songs.jsonl", fields, "songs.jsonl, line 3")


def made(config, texts=("",)):
    letters = "".join(map(chr, range(32, 127))) + "\néñ"
    tokenizer = store.train("char", [letters, *texts], special_tokens=vocabulary(config, {}))
    return template_for(config, tokenizer), tokenizer


@pytest.fixture
def song():
    return made(DataConfig(template="song"))


def shown(tokenizer, ids, roles, role):
    return tokenizer.decode([int(id) for id, its in zip(ids, roles, strict=True) if its == role])


def test_a_song_as_the_design_lays_it_out(song):
    template, tokenizer = song
    tally = Tally()
    example = template.encode(record(**SONG), 0, tokenizer, 1000, tally)
    assert tokenizer.decode(example.ids) == (
        "<prompt><genre_rock><sad>a sad rock song about <song> rivers\n<song>\n"
        "[verse]\nDown by the river\n[verse]\n\n[chorus]\n</song> oh\n[Solo]\n[chorus of angels]\n(oh, yeah)\n</song>"
    )
    assert shown(tokenizer, example.ids, example.roles, PROMPT) == SONG["prompt"]
    assert shown(tokenizer, example.ids, example.roles, CONTEXT) == "<prompt><genre_rock><sad>\n<song>"
    assert shown(tokenizer, example.ids, example.roles, SUPERVISED).startswith("\n[verse]\nDown")
    assert tally.headers == {"[verse]": 2, "[chorus]": 1}
    assert tally.unknown_headers == {"[Solo]": 1, "[chorus of angels]": 1}
    assert (tally.examples, tally.tokens, tally.truncated) == (1, len(example.ids), 0)
    assert tally.supervised == (example.roles == SUPERVISED).sum()


def test_only_the_template_makes_special_ids(song):
    template, tokenizer = song
    example = template.encode(record(**SONG), 0, tokenizer, 1000)
    special = [tokenizer.decode([int(id)]) for id in example.ids if int(id) in tokenizer.special_tokens.values()]
    assert special == ["<prompt>", "<genre_rock>", "<sad>", "<song>", "[verse]", "[verse]", "[chorus]", "</song>"]
    kept, _ = made(DataConfig(template="song", structure="keep"))
    ids = kept.encode(record(**SONG), 0, tokenizer, 1000).ids
    assert tokenizer.token_id("[verse]") not in ids
    assert "[Verse 1: Ann]" in tokenizer.decode(ids)


def test_a_prompt_is_what_stood_before_the_song_in_training(song):
    template, tokenizer = song
    example = template.encode(record(**SONG), 0, tokenizer, 1000)
    asked = template.prompt_ids(tokenizer, SONG["prompt"], {"genre": "rock", "emotion": "SAD"})
    assert asked == example.ids[: len(asked)].tolist()
    assert example.roles[len(asked)] == SUPERVISED
    assert "[verse]" not in [tokenizer.decode([id]) for id in template.prompt_ids(tokenizer, "[verse]\n[Chorus]")]


@pytest.mark.parametrize(
    ("label", "token"), [("R&B", "<genre_rb>"), ("rb", "<genre_rb>"), ("<genre_pop>", "<genre_pop>")]
)
def test_labels_as_people_write_them(song, label, token):
    template, tokenizer = song
    assert tokenizer.token_id(token) in template.prompt_ids(tokenizer, "x", {"genre": label})


def test_labels_from_columns_from_the_configuration_or_drawn():
    def genres(config, *records):
        template, tokenizer = made(config)
        ids = [template.encode(each, index, tokenizer, 99).ids for index, each in enumerate(records)]
        names = {tokenizer.token_id(name): name for name in tokenizer.special_kinds["genre"]}
        return [next((names[id] for id in row.tolist() if id in names), None) for row in ids]

    bare = [record(prompt="p", lyrics="l")] * 400
    assert set(genres(DataConfig(template="song"), *bare)) == {None}
    assert set(genres(DataConfig(template="song", genre="pop"), *bare)) == {"<genre_pop>"}
    assert genres(DataConfig(template="song", genre="pop"), record(prompt="p", lyrics="l", genre="rap")) == [
        "<genre_rap>"
    ]
    named = DataConfig(template="song", genre_field="style")
    assert genres(named, record(prompt="p", lyrics="l", style="rock", genre="rap")) == ["<genre_rock>"]
    drawn = genres(DataConfig(template="song", genre="random"), *bare)
    assert drawn == genres(DataConfig(template="song", genre="random"), *bare)
    assert all(60 < drawn.count(name) < 140 for name in SongTemplate.special_tokens["genre"])


def test_a_users_own_vocabulary_replaces_the_labels():
    config = DataConfig(template="song")
    kinds = vocabulary(config, {"genre": ("<genre_jazz>",), "structure": ("<hook>",), "control": ("<mine>",)})
    assert kinds["control"] == ("<prompt>", "<song>", "</song>", "<mine>")
    tokenizer = store.train("char", ["abc \n[]Hok"], special_tokens=kinds)
    template = template_for(config, tokenizer)
    example = template.encode(record(prompt="a", genre="Jazz", lyrics="[Hook]\nabc"), 0, tokenizer, 99)
    assert tokenizer.decode(example.ids) == "<prompt><genre_jazz>a\n<song>\n<hook>\nabc\n</song>"


def test_responses_and_conversations():
    template, tokenizer = made(DataConfig(template="response", prompt_field="q", response_field="a"))
    example = template.encode(record(q="How?", a="So."), 0, tokenizer, 99)
    assert tokenizer.decode(example.ids) == "<prompt>How?<response>So.</response>"
    assert shown(tokenizer, example.ids, example.roles, SUPERVISED) == "So.</response>"
    template, tokenizer = made(DataConfig(template="chat"))
    turns = [("system", "Be kind"), ("user", "Hi"), ("assistant", "Hello"), ("user", "<user>"), ("assistant", "Bye")]
    messages = [{"role": role, "content": content} for role, content in turns]
    example = template.encode(record(messages=messages), 0, tokenizer, 99)
    assert tokenizer.decode(example.ids) == (
        "<system>Be kind</turn><user>Hi</turn><assistant>Hello</turn><user><user></turn><assistant>Bye</turn>"
    )
    assert shown(tokenizer, example.ids, example.roles, SUPERVISED) == "Hello</turn>Bye</turn>"
    assert tokenizer.decode(template.prompt_ids(tokenizer, "Hi")) == "<user>Hi</turn><assistant>"


@given(prompt=st.integers(0, 60), answer=st.integers(0, 60), limit=st.integers(8, 70))
def test_truncation_always_leaves_something_to_learn_and_counts_what_it_cut(prompt, answer, limit):
    template, tokenizer = RESPONSE
    example = template.encode(record(prompt="p" * prompt, response="r" * answer), 0, tokenizer, limit)
    whole = prompt + answer + 3
    assert len(example.ids) == min(limit, whole)
    assert example.cut == whole - len(example.ids)
    assert (example.roles == SUPERVISED).any()
    text = tokenizer.decode(example.ids)
    assert text.startswith("<prompt>" + "p" * min(prompt, limit // 2 - 2))
    assert "<response>" in text
    if example.cut:  # the answer keeps half of the room, or all of itself
        assert (example.roles == SUPERVISED).sum() >= min(answer + 1, limit - limit // 2)


RESPONSE = made(DataConfig(template="response"))


@pytest.mark.parametrize(
    ("template", "fields", "message"),
    [
        (
            "song",
            {"promt": "x", "lyrics": "y"},
            r"songs\.jsonl, line 3: there is no field 'prompt'; did you mean 'promt'",
        ),
        ("song", {"prompt": "x", "lyrics": 3}, "the field 'lyrics' is not text"),
        ("song", {"prompt": "x", "lyrics": "y", "genre": "polka"}, "line 3: genre 'polka' is not in the vocabulary"),
        ("chat", {"text": "x"}, "there is no list 'messages'"),
        ("chat", {"messages": []}, "there is no list 'messages'"),
        ("chat", {"messages": ["hi"]}, "message 1 has no text 'content'"),
        ("chat", {"messages": [{"role": "user", "content": None}]}, "message 1 has no text 'content'"),
        (
            "chat",
            {"messages": [{"role": "asistant", "content": "x"}]},
            "has the role 'asistant'; did you mean 'assistant'",
        ),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, "no message is the assistant's"),
    ],
)
def test_a_record_that_does_not_fit_its_template_is_named(template, fields, message):
    layout, tokenizer = made(DataConfig(template=template))
    with pytest.raises(DataError, match=message):
        layout.encode(record(**fields), 0, tokenizer, 99)


def test_unknown_labels_in_a_prompt_and_room_for_nothing(song):
    template, tokenizer = song
    with pytest.raises(ConfigError, match="genre 'roc' is not in the vocabulary; did you mean 'rock'"):
        template.prompt_ids(tokenizer, "x", {"genre": "roc"})
    with pytest.raises(ConfigError, match="the response template has no genre"):
        RESPONSE[0].prompt_ids(RESPONSE[1], "x", {"genre": "rock"})
    with pytest.raises(DataError, match=r"nothing of the answer fits into 2 tokens; raise train\.sequence_length"):
        RESPONSE[0].encode(record(prompt="p", response="r"), 0, RESPONSE[1], 2)


def test_no_template_for_plain_text():
    assert template_for(DataConfig()) is None
    assert vocabulary(DataConfig(), {"mine": ("<a>",)}) == {"mine": ("<a>",)}
    kinds = [type(template_for(DataConfig(template=name))) for name in ("song", "response", "chat")]
    assert kinds == [SongTemplate, ResponseTemplate, ChatTemplate]


def test_labels_can_be_dropped_with_the_prompt():
    template, tokenizer = made(DataConfig(template="song", drop_labels=True))
    example = template.encode(record(**SONG), 0, tokenizer, 1000)
    kept = example.ids[example.roles != PROMPT]
    assert tokenizer.decode(kept).startswith("<prompt>\n<song>\n[verse]")
    assert example.roles.dtype == np.uint8
