"""Records in tokens: what is asked for, what may be left out, and that text never becomes a special id."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primegpt.config import DataConfig
from primegpt.data.layout import Part, Tally, fitting_context
from primegpt.data.preparing.shards import CONTEXT, PROMPT, SUPERVISED
from primegpt.data.reading.sources import Document
from primegpt.data.template import ChatTemplate, ResponseTemplate, SongTemplate, layout_for, template_for, vocabulary
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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("odd", ["\u2028", "\x0c", "\x85", "\x1e"])
def test_line_ends_of_lyrics_stay_as_they_are(end, odd):
    """They became line feeds, and so did characters that only Python takes for line ends."""
    template, tally = SongTemplate(DataConfig(template="song")), Tally()
    lines = ["[Verse]", f"a{odd}b", "", "[Chorus x2]", "c", "[Solo]"]
    parts = template.lyrics(end.join(lines), tally)
    assert [part.content for part in parts if part.special] == ["[verse]", "[chorus]"]
    ordinary = "".join(part.content for part in parts if not part.special)
    assert ordinary == f"\n{end}a{odd}b{end}{end}{end}c{end}[Solo]\n"
    assert tally.unknown_headers == {"[Solo]": 1}
    assert template.lyrics(" \n ") == [Part("\n", SUPERVISED)]


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


BYE = {"role": "assistant", "content": "Bye"}


@pytest.mark.parametrize(
    ("template", "fields", "message"),
    [
        (
            "song",
            {"promt": "x", "lyrics": "y"},
            r"songs\.jsonl, line 3: there is no field 'prompt', only 'promt', 'lyrics'; say --data.prompt_field promt",
        ),
        ("song", {"prompt": "x", "lyrics": 3}, "the field 'lyrics' is not text"),
        (
            "song",
            {"prompt": "x", "lyrics": "y", "genre": 5},
            "line 3: genre 5 is not text; give it a string, or a list",
        ),
        ("song", {"prompt": "x", "lyrics": "y", "emotion": {"a": 1}}, "line 3: emotion {'a': 1} is not text"),
        ("song", {"prompt": "x", "lyrics": "y", "genre": ["rock", 1]}, r"line 3: genre \['rock', 1\] is not text"),
        ("song", {"prompt": "x", "lyrics": "y", "genre": ["rock", "polka"]}, "line 3: genre 'polka' is not in the voc"),
        ("song", {"prompt": "x", "lyrics": "y", "genre": "polka"}, "line 3: genre 'polka' is not in the vocabulary"),
        ("chat", {"text": "x"}, "there is no list 'messages', only 'text'"),
        ("chat", {"messages": []}, "there is no list 'messages'"),
        ("chat", {"messages": ["hi"]}, "message 1 has no text 'content'"),
        ("chat", {"messages": [{"role": "user", "content": None}]}, "message 1 has no text 'content'"),
        (
            "chat",
            {"messages": [{"role": "asistant", "content": "x"}]},
            "has the role 'asistant'; did you mean 'assistant'",
        ),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, "no assistant message has a weight"),
        ("chat", {"messages": [BYE | {"weight": 0}]}, "no assistant message has a weight other than 0"),
        ("chat", {"messages": [BYE | {"weight": 0.5}]}, r"message 1 has the weight 0\.5; a weight is 0"),
        ("chat", {"messages": [BYE | {"weight": "0"}]}, "message 1 has the weight '0'"),
        ("chat", {"messages": [BYE | {"weight": True}]}, "message 1 has the weight True"),
        ("chat", {"messages": [{"role": "user", "content": "x", "weight": 1}]}, "is the user's and has the weight 1"),
        (
            "chat",
            {"messages": [{"role": "tool", "content": "x"}]},
            "message 1 is a tool message, which .* leave out conv",
        ),
        ("chat", {"messages": [{"from": "observation", "value": "x"}]}, "message 1 is a tool message"),
        ("chat", {"messages": [BYE | {"content": None, "tool_calls": [{"id": 1}]}]}, "message 1 is a tool message"),
        ("chat", {"messages": [{"role": "assistant", "content": []}]}, "message 1 has no text 'content'"),
        (
            "chat",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "message 1 has content of type 'image_url', and only text can be learnt|only text can be learnt",
        ),
        ("chat", {"messages": [{"role": ["user"], "content": "x"}]}, r"has the role \['user'\]"),
        ("chat", {"conversations": "Hello"}, "there is no list 'messages', only 'conversations'"),
        ("chat", {"prompt": "x", "response": "y"}, "only 'prompt', 'response'; .* --data.template response reads"),
        ("response", {"messages": [BYE]}, "line 3 is a conversation, .* say --data.template chat"),
        ("response", {"instruction": "x", "input": 5, "output": "y"}, "the field 'input' is not text"),
        ("response", {"instruction": "x", "output": None}, "the field 'output' is not text"),
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


# ---- long conversations


def conversation(*lengths: int, system: str = "be kind") -> dict:
    """A system's turn, then a question and an answer of each of the lengths."""
    said = [{"role": "system", "content": system}] if system else []
    for number, length in enumerate(lengths):
        said.append({"role": "user", "content": f"q{number}" + "?" * (length // 4)})
        said.append({"role": "assistant", "content": f"a{number}" + "!" * length})
    return {"messages": said}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.sampled_from(["", "be kind"]), st.integers(120, 300))
def test_a_long_conversation_is_split_at_turns_and_every_answer_learnt_once(lengths, system, limit):
    """Each exchange here fits by itself: then nothing is ever cut."""
    template, tokenizer = made(DataConfig(template="chat"))
    rows = template.rows(record(**conversation(*lengths, system=system)), 0, tokenizer, limit, tally := Tally())
    answers = [shown(tokenizer, row.ids, row.roles, SUPERVISED) for row in rows]
    assert "".join(answers) == "".join(f"a{n}{'!' * length}</turn>" for n, length in enumerate(lengths))
    assert all(len(row.ids) <= limit and row.cut == 0 for row in rows)
    opening = f"<system>{system}</turn><user>q" if system else "<user>q"
    assert all(tokenizer.decode(row.ids).startswith(opening) for row in rows)
    assert (tally.examples, tally.truncated) == (len(rows), 0)
    whole = template.rows(record(**conversation(*lengths, system=system)), 0, tokenizer, 10**6)
    assert len(whole) == 1  # and what fits stays as it was
    expected, room = 1, limit - len(f"{system}..") * bool(system)  # as many exchanges in each as fit
    for n, length in enumerate(lengths):
        exchange = len(f"<q{n}>{'?' * (length // 4)}<a{n}>{'!' * length}")  # four special ids, like the brackets
        if exchange > room:
            expected, room = expected + 1, limit - len(f"{system}..") * bool(system)
        room -= exchange
    assert len(rows) == expected


def test_of_a_turn_that_is_too_long_by_itself_the_end_is_cut():
    template, tokenizer = made(DataConfig(template="chat"))
    rows = template.rows(record(**conversation(4, 200, 4)), 0, tokenizer, 80)
    assert [row.cut > 0 for row in rows] == [False, True, False]
    assert all(len(row.ids) <= 80 for row in rows)


def test_a_question_that_nobody_answered_is_no_row_of_its_own():
    template, tokenizer = made(DataConfig(template="chat"))
    said = conversation(40, 40)["messages"] + [{"role": "user", "content": "q" * 60}]
    rows = template.rows(record(messages=said), 0, tokenizer, 100)
    assert len(rows) == 2
    assert all((row.roles == SUPERVISED).any() for row in rows)


def test_the_context_that_most_records_fit_into_is_counted():
    template, tokenizer = made(DataConfig(template="response"))
    tally = Tally()
    for length in [10] * 8 + [62] * 1 + [63] * 1 + [500] * 10:  # with <prompt>, p, <response>, </response>: 4 more
        template.rows(record(prompt="p", response="r" * length), 0, tokenizer, 100, tally)
    assert tally.lengths == {"64": 8, "128": 2, "512": 10}
    assert tally.fitting_context() == Tally.from_json(tally.as_json()).fitting_context() == 512
    assert (tally.truncated, tally.cut, tally.cut_supervised) == (10, 4040, 4040)  # all but 97 of 501 tokens each
    assert tally.cut_share == pytest.approx(4040 / (8 * 11 + 63 + 64 + 10 * 501))
    assert Tally().fitting_context() is None


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=50))
def test_a_fitting_context_is_the_smallest_that_cuts_hardly_anything(lengths):
    """A row of a context of T holds T + 1 tokens, the last one a target only."""
    lost = {T: sum(max(0, length - T - 1) for length in lengths) / sum(lengths) for T in range(64, 3072, 64)}
    assert fitting_context(lengths) == min(T for T, share in lost.items() if share <= 0.02)


# ---- records as others write them


def asked(config: DataConfig, **fields) -> tuple[str, str]:
    """What a record becomes: all of it, and what of it is supervised."""
    template, tokenizer = made(config)
    (example,) = template.rows(record(**fields), 0, tokenizer, 999)
    return tokenizer.decode(example.ids), shown(tokenizer, example.ids, example.roles, SUPERVISED)


@pytest.mark.parametrize(
    ("fields", "prompt", "response"),
    [
        ({"instruction": "Do", "input": "this", "output": "So."}, "Do\n\nthis", "So."),
        ({"instruction": "Do", "input": "", "output": "So."}, "Do", "So."),
        ({"instruction": "Do", "input": None, "output": "So."}, "Do", "So."),
        ({"instruction": "Do", "output": "So."}, "Do", "So."),
        ({"instruction": "Do", "context": "this", "response": "So.", "category": "qa"}, "Do\n\nthis", "So."),
        ({"prompt": "Do", "completion": "So."}, "Do", "So."),
        ({"prompt": "Do", "response": "So.", "instruction": "x", "output": "y"}, "Do", "So."),
    ],
)
def test_known_forms_of_prompts_and_responses(fields, prompt, response):
    expected = f"<prompt>{prompt}<response>{response}</response>", f"{response}</response>"
    assert asked(DataConfig(template="response"), **fields) == expected


def test_several_fields_of_the_prompt():
    config = DataConfig(template="response", prompt_field=["q", "more"], response_field="a")
    assert asked(config, q="Do", more="this", a="So.")[0] == "<prompt>Do\n\nthis<response>So.</response>"
    assert asked(config, q="", more="this", a="So.")[0] == "<prompt>this<response>So.</response>"
    with pytest.raises(DataError, match=r"no field 'more', only 'q', 'a'; say --data\.prompt_field"):
        asked(config, q="Do", a="So.")
    song = DataConfig(template="song", prompt_field=["prompt", "title"])
    assert asked(song, prompt="sad", title="Rain", lyrics="la")[0] == "<prompt>sad\n\nRain\n<song>\nla\n</song>"
    named = DataConfig(template="response", prompt_field="instruction", response_field="output")
    assert asked(named, instruction="Do", input="this", output="So.")[0] == "<prompt>Do<response>So.</response>"


@pytest.mark.parametrize("name", ["messages", "conversations"])
@pytest.mark.parametrize(("role", "content"), [("role", "content"), ("from", "value")])
def test_conversations_of_others(name, role, content):
    theirs = [("system", "Be kind"), ("human", "Hi"), ("gpt", "Hello"), ("user", "And?"), ("assistant", "Bye")]
    messages = [{role: who, content: text} for who, text in theirs]
    assert asked(DataConfig(template="chat"), **{name: messages}) == (
        "<system>Be kind</turn><user>Hi</turn><assistant>Hello</turn><user>And?</turn><assistant>Bye</turn>",
        "Hello</turn>Bye</turn>",
    )


def test_a_weight_of_0_is_context():
    wrong, right = {"role": "assistant", "content": "Wrong", "weight": 0}, BYE | {"weight": 1}
    messages = [{"role": "user", "content": "Hi", "weight": None}, wrong, {"role": "user", "content": "No"}, right]
    whole, supervised = asked(DataConfig(template="chat"), messages=messages)
    assert whole == "<user>Hi</turn><assistant>Wrong</turn><user>No</turn><assistant>Bye</turn>"
    assert supervised == "Bye</turn>"


@pytest.mark.parametrize("other", ["c-17", 17, [3], {"id": 1}, [{"name": "x"}]])
def test_the_list_that_is_not_read_may_hold_anything(other):
    config, record = DataConfig(template="chat"), {"messages": [BYE | {"name": "Al"}], "conversations": other}
    layout = layout_for(config)
    assert layout
    assert list(layout.left_out(Document("", "a", record))) == ["conversations", "messages.name"]


def test_content_in_parts_and_neutral_keys():
    parts = [{"type": "text", "text": "He"}, {"type": "text", "text": "llo"}]
    answer = BYE | {"tool_calls": None, "refusal": None, "function_call": None, "annotations": [], "audio": None}
    messages = [{"role": "developer", "content": "Be kind"}, {"role": "user", "content": parts}, answer]
    assert asked(DataConfig(template="chat"), messages=messages)[0] == (
        "<system>Be kind</turn><user>Hello</turn><assistant>Bye</turn>"
    )


def test_a_song_of_several_genres_has_them_all():
    whole, _ = asked(
        DataConfig(template="song"), prompt="p", lyrics="l", genre=["Rock", "pop", "Rock"], emotion=["sad"]
    )
    assert whole.startswith("<prompt><genre_rock><genre_pop><sad>p\n")
    for nothing in ([], [""], None, "", " "):
        whole, _ = asked(DataConfig(template="song", genre="rap"), prompt="p", lyrics="l", genre=nothing)
        assert whole.startswith("<prompt><genre_rap>p\n")


def test_a_label_of_a_megabyte_makes_a_short_line():
    with pytest.raises(DataError) as caught:
        asked(DataConfig(template="song"), prompt="p", lyrics="l", genre="\x1b[31m" + "x" * 1_000_000)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_a_line_in_brackets_of_a_megabyte_is_no_header():
    template, _ = made(DataConfig(template="song"))
    tally, long_line = Tally(), "[" + "x" * 1_000_000 + "]"
    template.parts(record(prompt="p", lyrics=f"[Solo]\n{long_line}\nla"), 0, tally)
    assert tally.unknown_headers == {"[Solo]": 1}
