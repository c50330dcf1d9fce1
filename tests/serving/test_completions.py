"""The endpoints, against the package's own generation."""

import contextlib
import json
import os
import sys
from itertools import accumulate
from urllib.parse import quote

import pytest
import torch

import primegpt
from primegpt.data.template import ChatTemplate, SongTemplate
from primegpt.errors import NonFiniteError
from primegpt.inference.decoder import Decoder
from primegpt.tokenizers.char import CharTokenizer

PROMPT = {"prompt": "abc", "seed": 3}
ENDLESS = {"prompt": "a", "max_tokens": 8000, "temperature": 0, "stream": True}  # the random model ends no such text
HELLO = {"messages": [{"role": "user", "content": "hello"}], "seed": 3}


DECAY = {"decay_trigger": "e", "temperature_decay": 0.01, "temperature_floor": 0.001}


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_p": 0.8, "top_k": 0, "min_p": 0.01}, DECAY])
def test_a_completion_is_what_the_run_writes(served, settings) -> None:
    expected = served.run.generate("abc", seed=3, num_samples=2, **settings)
    status, answer = served.ask("/v1/completions", PROMPT | settings | {"n": 2})
    assert status == 200
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 16, "total_tokens": 19}
    assert (answer["object"], answer["model"]) == ("text_completion", "songs")


def test_beams_have_no_place_here(serve, make_run) -> None:
    run = make_run(generate={"max_new_tokens": 8, "num_beams": 4})
    _, answer = serve(run).ask("/v1/completions", PROMPT)
    assert answer["choices"][0]["text"] == run.generate("abc", seed=3, num_beams=1)


def test_several_prompts_as_text_and_as_ids(served) -> None:
    encode = served.run.tokenizer.encode
    expected = [served.run.generate(prompt, seed=3) for prompt in ("abc", "a song")]
    for prompt in (["abc", "a song"], [encode("abc"), encode("a song")]):
        _, answer = served.ask("/v1/completions", {"prompt": prompt, "seed": 3})
        assert [choice["text"] for choice in answer["choices"]] == expected
        assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    _, answer = served.ask("/v1/completions", {"prompt": encode("abc"), "seed": 3})
    assert answer["choices"][0]["text"] == expected[0]


@pytest.mark.parametrize("body", [PROMPT, PROMPT | {"n": 3, "echo": True}, PROMPT | {"max_tokens": 0, "echo": True}])
def test_a_stream_is_the_completion_in_pieces(served, body) -> None:
    _, whole = served.ask("/v1/completions", body | {"logprobs": 2})
    *chunks, usage, done = served.stream(
        "/v1/completions", body | {"logprobs": 2, "stream_options": {"include_usage": True}}
    )
    assert done == "[DONE]"
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    for choice in whole["choices"]:
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in own) == choice["text"]
        assert [piece["finish_reason"] for piece in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]
        for name, values in choice["logprobs"].items():
            streamed = [value for piece in own for value in piece["logprobs"][name]]
            for value, expected in zip(streamed, values, strict=True):
                assert value == (expected if name == "tokens" else pytest.approx(expected, abs=1e-4))


def test_lines_of_a_stream_are_lines_to_every_client(serve, random_model, save_run) -> None:
    """Many clients split where Python's str.splitlines does, which knows line ends that the standard does not."""
    ends = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    tokenizer = CharTokenizer.train([ends])
    run = primegpt.load(save_run(random_model(vocab_size=tokenizer.vocab_size), tokenizer, "ends"), device="cpu")
    served = serve(run)
    asked = {"prompt": ends, "echo": True, "max_tokens": 3, "stream": True}
    response, connection = served.open("POST", "/v1/completions", asked)
    body = response.read()
    connection.close()
    lines = body.decode().splitlines()
    assert [line[:6] for line in lines if line] == ["data: "] * (len(lines) // 2)
    *chunks, done = served.events(body)
    text = "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)
    assert (done, text[: len(ends)]) == ("[DONE]", ends)


def test_stop_strings_end_a_text_before_them(served) -> None:
    whole = served.run.generate("abc", seed=3)
    _, answer = served.ask("/v1/completions", PROMPT | {"stop": whole[3:5]})
    assert answer["choices"][0]["text"] == whole[:3]
    assert answer["choices"][0]["finish_reason"] == "stop"
    *chunks, _ = served.stream("/v1/completions", PROMPT | {"stop": ["~", whole[3:5]]})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole[:3]


def test_logprobs_of_prompt_and_text(served) -> None:
    """Each as the model gives it, computed here in one pass over the whole."""
    _, answer = served.ask("/v1/completions", PROMPT | {"logprobs": 2, "echo": True})
    (choice,) = answer["choices"]
    found, decode = choice["logprobs"], served.run.tokenizer.decode
    ids = served.run.tokenizer.encode(choice["text"])
    expected = served.run.model(torch.tensor([ids]))[0].log_softmax(-1)
    assert choice["text"].startswith("abc")
    assert found["tokens"] == list(choice["text"])
    assert found["text_offset"] == list(range(11))
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    for t in range(1, len(ids)):
        assert found["token_logprobs"][t] == pytest.approx(expected[t - 1, ids[t]].item(), abs=1e-4)
        best = expected[t - 1].topk(2)
        values = {decode([id]): value for id, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)}
        assert found["top_logprobs"][t] == pytest.approx(values, abs=1e-4)


def test_tokens_of_a_tokenizer_that_puts_a_space_first(serve, random_model, save_run, spaced_tokenizer) -> None:
    """The space before a text is none of it, that between two words is; nor is the beginning of text before it."""
    theirs = spaced_tokenizer
    run = primegpt.load(save_run(random_model(vocab_size=theirs.vocab_size), theirs, max_new_tokens=8), device="cpu")
    served = serve(run)
    for prompt in ("the river", "  the", theirs.encode("song"), theirs.encode_within("song")):
        asked = {"prompt": prompt, "seed": 3, "logprobs": 2, "echo": True}
        _, answer = served.ask("/v1/completions", asked)
        (choice,) = answer["choices"]
        found = choice["logprobs"]
        assert "".join(found["tokens"]) == choice["text"]
        ends = [0, *accumulate(map(len, found["tokens"]))]
        assert found["text_offset"] == ends[:-1]
    ids = [1, *theirs.encode("the river")]
    with torch.no_grad():
        likely = run.model(torch.tensor([ids]))[0, :-1].log_softmax(-1)[range(len(ids) - 1), ids[1:]]
    _, answer = served.ask("/v1/completions", {"prompt": "the river", "max_tokens": 0, "logprobs": 0, "echo": True})
    assert answer["choices"][0]["logprobs"]["token_logprobs"] == pytest.approx(likely.tolist(), abs=1e-4)
    chat = HELLO | {"logprobs": True, "top_logprobs": 2, "max_tokens": 8}
    (choice,) = served.ask("/v1/chat/completions", chat)[1]["choices"]
    assert "".join(each["token"] for each in choice["logprobs"]["content"]) == choice["message"]["content"]


def test_without_a_seed_texts_differ(served) -> None:
    answers = {served.ask("/v1/completions", {"prompt": "a"})[1]["choices"][0]["text"] for _ in range(5)}
    assert len(answers) > 1


def test_chat_of_a_run_on_plain_text_goes_on_from_the_last_message(served) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, *HELLO["messages"]]
    _, answer = served.ask("/v1/chat/completions", {"messages": messages, "seed": 3, "max_completion_tokens": 5})
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == served.run.generate("hello", seed=3, max_new_tokens=5)
    assert (choice["message"]["role"], choice["finish_reason"]) == ("assistant", "length")
    first, *chunks, done = served.stream("/v1/chat/completions", HELLO | {"max_tokens": 5})
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert ("".join(pieces), done) == (choice["message"]["content"], "[DONE]")


def test_chat_logprobs(served) -> None:
    _, answer = served.ask("/v1/chat/completions", HELLO | {"logprobs": True, "top_logprobs": 2})
    (choice,) = answer["choices"]
    content = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == choice["message"]["content"]
    assert [bytes(token["bytes"]).decode() for token in content] == [token["token"] for token in content]
    assert all(len(token["top_logprobs"]) == 2 for token in content)
    expected = served.run.complete("hello", seed=3, logprobs=True)[0].logprobs
    assert [token["logprob"] for token in content] == pytest.approx(expected, abs=1e-4)


def with_template(run, template: str):
    run.config = run.config.with_values(data={"template": template})
    return run


def test_a_conversation_is_laid_out_as_in_training(serve, make_run) -> None:
    run = with_template(make_run(special_tokens=ChatTemplate.special_tokens), "chat")
    served, token, encode = serve(run), run.tokenizer.token_id, run.tokenizer.encode
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "<user>"}]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    said = [("<system>", "be brief"), ("<user>", "a <user>"), ("<assistant>", "b"), ("<user>", "c")]
    ids = [id for name, text in said for id in (token(name), *encode(text), token("</turn>"))]
    _, answer = served.ask("/v1/chat/completions", {"messages": messages, "seed": 1, "max_tokens": 9})
    assert answer["choices"][0]["message"]["content"] == run.generate(
        [*ids, token("<assistant>")], max_new_tokens=9, seed=1
    )
    assert answer["usage"]["prompt_tokens"] == len(ids) + 1
    status, answer = served.ask("/v1/chat/completions", {"messages": messages[:3]})
    assert (status, answer["error"]["message"]) == (
        400,
        "the last message must be the user's; there is nothing to answer otherwise",
    )


def test_of_a_long_conversation_the_oldest_turns_are_left_out(serve, make_run) -> None:
    """Whole ones, what the system says aside, until half of the context is left; how many, a header says."""
    run = with_template(make_run(special_tokens=ChatTemplate.special_tokens), "chat")
    served, room = serve(run), run.config.model.block_size // 2
    said = [("system", "brief"), *[("user", "abcde"), ("assistant", "b")] * 20, ("user", "c")]
    messages = [{"role": role, "content": text} for role, text in said]
    left = next(
        left for left in range(1, 21) if len(run.conversation([messages[0], *messages[1 + 2 * left :]])) <= room
    )
    kept = [messages[0], *messages[1 + 2 * left :]]
    asked = {"seed": 1, "max_tokens": run.config.model.block_size}
    _, answer = served.ask("/v1/chat/completions", asked | {"messages": messages})
    _, same = served.ask("/v1/chat/completions", asked | {"messages": kept})
    assert answer["choices"] == same["choices"]
    assert answer["usage"] == same["usage"]
    for given, stream, told in ((messages, False, str(left)), (messages, True, str(left)), (kept, False, None)):
        body = asked | {"messages": given, "stream": stream}
        response, connection = served.open("POST", "/v1/chat/completions", body)
        with contextlib.closing(connection):
            assert response.getheader("x-primegpt-dropped-turns") == told
            response.read()
    status, refused = served.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 400}]})
    assert (status, refused["error"]["code"]) == (400, "context_length_exceeded")


def test_songs_have_labels(serve, make_run) -> None:
    run = with_template(make_run(special_tokens=SongTemplate.special_tokens), "song")
    served = serve(run)
    expected = run.generate(run.prompt("rain", genre="rock", emotion="sad"), seed=1)
    assert expected != run.generate(run.prompt("rain"), seed=1)
    labels = {"genre": "rock", "emotion": "sad", "seed": 1}
    _, answer = served.ask("/v1/completions", labels | {"prompt": "rain"})
    assert answer["choices"][0]["text"] == expected
    _, answer = served.ask("/v1/chat/completions", labels | {"messages": [{"role": "user", "content": "rain"}]})
    assert answer["choices"][0]["message"]["content"] == expected
    _, answer = served.ask("/v1/completions", {"prompt": "rain", "seed": 1, "template": "song"})
    assert answer["choices"][0]["text"] == run.generate("rain", seed=1)
    _, answer = served.ask("/v1/completions", {"prompt": "rain", "seed": 1})
    plain = run.generate(run.tokenizer.encode("rain"), seed=1)
    assert answer["choices"][0]["text"] == plain
    _, answer = served.ask("/v1/chat/completions", HELLO | {"template": "text"})
    assert answer["choices"][0]["message"]["content"] == run.generate(run.tokenizer.encode("hello"), seed=3)
    for wrong, told in [({"genre": "polka"}, "polka"), ({"template": "chat"}, "song")]:
        status, answer = served.ask("/v1/completions", {"prompt": "rain"} | wrong)
        assert status == 400
        assert told in answer["error"]["message"]


# ---- what asks for nothing, and what asks for what is not here

# A message as the official client gives it back, `choice.message.model_dump()`.
ANSWER = {"role": "assistant", "content": "b", "refusal": None, "annotations": [], "audio": None}
ANSWER |= {"function_call": None, "tool_calls": None}
# Every field of the two endpoints in the official client (openai 3.57) that we have not, with values that ask nothing.
NOTHING = {
    "best_of": [1],
    "echo": [False],
    "frequency_penalty": [0, 0.0],
    "function_call": ["none", "auto"],
    "functions": [[]],
    "logit_bias": [{}],
    "logprobs": [False],
    "max_completion_tokens": [],
    "metadata": [{}, {"a": "b"}],
    "modalities": [["text"]],
    "moderation": [],
    "audio": [],
    "n": [1],
    "parallel_tool_calls": [True, False],
    "prediction": [{"type": "content", "content": "x"}],
    "presence_penalty": [0, 0.0],
    "prompt_cache_key": ["x"],
    "prompt_cache_options": [{}],
    "prompt_cache_retention": ["24h"],
    "reasoning_effort": ["none"],
    "response_format": [{"type": "text"}],
    "safety_identifier": ["x"],
    "service_tier": ["auto", "default"],
    "stop": ["", []],
    "store": [False, True],
    "stream": [False],
    "stream_options": [{}, {"include_usage": False}, {"include_usage": None}],
    "suffix": [""],
    "temperature": [],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
    "top_logprobs": [0],
    "top_p": [],
    "user": ["x"],
    "verbosity": ["medium"],
    "web_search_options": [],
    "genre": [],
    "what_nobody_knows": [],
}
ASKING = {
    "audio": {"voice": "a", "format": "wav"},
    "best_of": 2,
    "frequency_penalty": 0.5,
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "logit_bias": {"5": 1},
    "modalities": ["text", "audio"],
    "moderation": {},
    "presence_penalty": -1,
    "reasoning_effort": "high",
    "response_format": {"type": "json_object"},
    "suffix": "x",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "verbosity": "low",
    "web_search_options": {},
}


@pytest.mark.parametrize(("path", "body"), [("completions", PROMPT), ("chat/completions", HELLO)])
def test_what_asks_for_nothing_changes_nothing(served, path: str, body: dict) -> None:
    def choices(more: dict) -> list:
        status, answer = served.ask(f"/v1/{path}", body | more)
        assert status == 200, (more, answer)
        return answer["choices"]

    expected = choices({})
    for name, values in NOTHING.items():
        for value in (None, *values):
            assert choices({name: value}) == expected, (name, value)
    assert choices(dict.fromkeys(NOTHING)) == expected
    assert choices({"tools": ASKING["tools"], "tool_choice": "none"}) == expected
    assert choices({"functions": ASKING["functions"], "function_call": "none"}) == expected


@pytest.mark.parametrize(("path", "body"), [("completions", PROMPT), ("chat/completions", HELLO)])
def test_what_asks_for_what_is_not_here_is_refused_by_name(served, path: str, body: dict) -> None:
    for name, value in ASKING.items():
        status, answer = served.ask(f"/v1/{path}", body | {name: value})
        error = answer["error"]
        assert (status, error["param"], error["code"]) == (400, name, "unsupported_parameter"), error
        assert error["message"].startswith(f"{name} is not supported here; leave it out"), error


def test_a_prompt_that_is_null_begins_a_text(served) -> None:
    assert served.ask("/v1/completions", PROMPT | {"prompt": None})[0] == 200


def test_the_next_turn_of_a_client_that_gives_messages_back(serve, make_run) -> None:
    """Its own notes in a message change nothing; what was said otherwise than in text is refused by name."""
    served = serve(with_template(make_run(special_tokens=ChatTemplate.special_tokens), "chat"))
    user = HELLO["messages"][0]

    def ask(*messages: dict) -> tuple[int, dict]:
        return served.ask("/v1/chat/completions", {"messages": [*messages, user], "seed": 3})

    expected = ask(user, {"role": "assistant", "content": "b"})[1]["choices"]
    notes = {"name": "x", "reasoning_content": "x", "id": 5, "cache_control": {"type": "ephemeral"}, "tool_calls": []}
    for answer in (ANSWER, ANSWER | notes, ANSWER | {"content": [{"type": "text", "text": "b", "annotations": []}]}):
        assert ask(user | notes, answer)[1]["choices"] == expected
    empty = ask(user, {"role": "assistant", "content": ""})[1]["choices"]
    for answer in (ANSWER | {"content": None}, ANSWER | {"content": []}, {"role": "assistant"}):
        assert ask(user, answer)[1]["choices"] == empty
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for message, param, told in [
        (ANSWER | {"content": None, "tool_calls": [call]}, "messages.0.tool_calls", "not supported"),
        (ANSWER | {"function_call": call["function"]}, "messages.0.function_call", "not supported"),
        (ANSWER | {"refusal": "no"}, "messages.0.refusal", "not supported"),
        ({"role": "tool", "tool_call_id": "1", "content": "x"}, "messages.0.role", "'assistant'"),
        ({"role": "function", "name": "f", "content": "x"}, "messages.0.role", "'assistant'"),
        ({"role": "user", "content": None}, "messages.0.content", "required"),
        ({"role": "user"}, "messages.0.content", "required"),
    ]:
        status, answer = ask(message)
        assert (status, answer["error"]["param"]) == (400, param), answer
        assert told in answer["error"]["message"]


def test_a_conversation_of_two_turns_over_plain_events(serve, make_run) -> None:
    """With nothing but the standard's rules for events, and each field as it comes by default."""
    run = make_run(special_tokens=ChatTemplate.special_tokens, generate={"max_new_tokens": 8, "temperature": 0})
    served, messages = serve(with_template(run, "chat")), []
    for question in ("hello", "and so"):
        messages.append({"role": "user", "content": question})
        expected = served.run.generate(served.run.conversation(messages))
        *chunks, done = served.stream("/v1/chat/completions", {"model": "songs", "messages": messages})
        message: dict = {}
        for (choice,) in (chunk["choices"] for chunk in chunks):
            for name, text in choice["delta"].items():
                message[name] = message.get(name, "") + text
        assert (done, message, choice["finish_reason"]) == (
            "[DONE]",
            {"role": "assistant", "content": expected},
            "length",
        )
        messages.append(message)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, "type 'image_url' are not supported"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "'input_audio'"),
        ({"type": "file", "file": {"file_id": "x"}}, "'file'"),
        ({"type": "refusal", "refusal": "no"}, "'refusal'"),
        ({"type": "text"}, "must have a text"),
        ({"type": "text", "text": 5}, "must have a text"),
        ({"text": "a"}, "object with a type"),
        ({"type": None, "text": "a"}, "object with a type"),
        ("a", "object with a type"),
    ],
)
def test_parts_that_are_no_text_are_refused_by_their_type(served, part, told: str) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]
    status, answer = served.ask("/v1/chat/completions", {"messages": messages})
    assert (status, answer["error"]["param"]) == (400, "messages.0.content")
    assert told in answer["error"]["message"]


MESSAGE = [{"role": "user", "content": "a"}]
WRONG = [
    ("completions", {"promt": "a"}, "promt", "did you mean 'prompt'"),
    ("completions", {"prompt": 5}, "prompt", "valid"),
    ("completions", {"prompt": ["a"] * 9, "n": 4}, None, "more than 32 texts"),
    ("completions", {"prompt": [10**6]}, None, "ids run from 0"),
    ("completions", {"prompt": "a" * 65}, "prompt", "65 tokens, the model sees 64"),
    ("completions", {"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ("completions", {"temperature": 10.1}, "temperature", "less than or equal to 10"),
    ("completions", {"temperature": "1"}, "temperature", "number"),
    ("completions", {"top_p": 0}, "top_p", "greater than 0"),
    ("completions", {"n": 33}, "n", "32"),
    ("completions", {"max_tokens": 8193}, "max_tokens", "8192"),
    ("completions", {"max_tokens": 0}, None, "nothing to answer"),
    ("completions", {"seed": -1}, "seed", "0"),
    ("completions", {"stop": ["x"] * 9}, "stop", "8"),
    ("completions", {"logprobs": 21}, "logprobs", "20"),
    ("completions", {"stream_options": {"include_usage": True}}, None, "without stream"),
    ("completions", {"stream": True, "stream_options": {"user": "x"}}, "stream_options.user", "not known"),
    ("completions", {"max_completion_tokens": 5}, "max_completion_tokens", "did you mean 'max_tokens'"),
    ("chat/completions", {}, "messages", "required"),
    ("chat/completions", {"messages": []}, "messages", "at least 1"),
    ("chat/completions", {"messages": [{"role": "boss", "content": "a"}]}, "messages.0.role", "'system'"),
    ("chat/completions", {"messages": MESSAGE, "top_logprobs": 2}, None, "without logprobs"),
    ("chat/completions", {"messages": MESSAGE, "genre": "rock"}, None, "not trained on instructions"),
    ("chat/completions", {"messages": MESSAGE, "max_tokens": 5, "max_completion_tokens": 6}, None, "one of them"),
    ("chat/completions", {"messages": MESSAGE, "echo": True}, "echo", "not supported"),
    ("completions", {"temperture": "hot"}, "temperture", "did you mean 'temperature'"),
]


def test_log_probabilities_have_room_in_an_answer(served) -> None:
    """They take more memory than all else, and whole answers hold them all."""
    chat, long = {"messages": MESSAGE, "logprobs": True}, {"max_tokens": 8000, "logprobs": 20}
    for path, body, told in [
        ("completions", {"prompt": "a"} | long, "168,000 log-prob"),
        ("completions", {"prompt": ["a"] * 4, "n": 8, "max_tokens": 5000, "logprobs": 0}, "160,000"),
        ("completions", {"prompt": ["a" * 60] * 4, "echo": True, "n": 8, "logprobs": 20, "max_tokens": 200}, "174,720"),
        ("chat/completions", chat | {"top_logprobs": 20, "max_tokens": 8000}, "168,000"),
    ]:
        status, answer = served.ask(f"/v1/{path}", body)
        assert (status, answer["error"]["param"]) == (400, "logprobs")
        assert told in answer["error"]["message"]
    assert served.ask("/v1/completions", {"prompt": "a", "logprobs": 20, "max_tokens": 100})[0] == 200
    response, connection = served.open("POST", "/v1/completions", {"prompt": "a", "stream": True} | long)
    assert response.status == 200
    connection.close()


def test_what_is_wrong_is_named(served) -> None:
    for path, body, param, told in WRONG:
        status, answer = served.ask(f"/v1/{path}", body)
        error = answer["error"]
        assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param), (body, error)
        assert told in error["message"], (body, error)


@pytest.mark.parametrize(
    "raw",
    ["", "{", "[]", '{"temperature": NaN}', '{"temperature": 1e999}', "[" * 10**5, '{"prompt": "\\ud800"}', "\xff"],
)
def test_what_is_no_request_is_refused(served, raw: str) -> None:
    status, answer = served.ask("/v1/completions", raw.encode("latin-1"))
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


def test_models(served) -> None:
    status, answer = served.ask("/v1/models")
    assert (status, [model["id"] for model in answer["data"]]) == (200, ["songs"])
    assert served.ask("/v1/models/songs")[1] == answer["data"][0]
    assert set(answer["data"][0]) == {"id", "object", "created", "owned_by"}
    for path, body in [("/v1/models/gpt-4", None), ("/v1/completions", PROMPT | {"model": "gpt-4"})]:
        status, answer = served.ask(path, body)
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert served.ask("/v1/completions", PROMPT | {"model": "songs"})[0] == 200
    for path in ("/v1/nothing", "/chat/completions", "/v1/responses"):
        status, answer = served.ask(path)
        assert (status, answer["error"]["code"]) == (404, None)
        assert "/v1/chat/completions" in answer["error"]["message"]
    assert served.ask("/v1/completions")[0] == 405


def test_a_run_that_is_moved_is_served_on(served) -> None:
    card, folder = served.ask("/v1/models/songs")[1], served.run.folder.path
    folder.rename(folder.with_name("elsewhere"))
    assert served.ask("/v1/models") == (200, {"object": "list", "data": [card]})
    assert served.ask("/v1/models/songs") == (200, card)
    assert served.ask("/v1/completions", PROMPT)[0] == 200
    assert served.ask("/v1/chat/completions", HELLO)[0] == 200


def test_the_name_of_a_run_is_that_of_its_folder_however_it_is_reached(make_run, serve, monkeypatch) -> None:
    run = make_run("songs")
    monkeypatch.chdir(run.folder.path)
    assert serve(primegpt.load(".", device="cpu")).ask("/v1/models")[1]["data"][0]["id"] == "songs"


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there alone")
def test_a_run_whose_name_is_no_text_can_be_asked_for(make_run, serve) -> None:
    path = make_run("songs").folder.path
    path = path.rename(path.with_name(os.fsdecode(b"lieder-\xe4 #1")))
    served = serve(primegpt.load(path, device="cpu"))
    (card,) = served.ask("/v1/models")[1]["data"]
    assert card["id"] == "lieder-\ufffd #1"
    assert served.ask(f"/v1/models/{quote(card['id'])}") == (200, card)
    _, answer = served.ask("/v1/completions", PROMPT | {"model": card["id"]})
    assert answer["model"] == card["id"]
    assert served.stream("/v1/completions", PROMPT)[-1] == "[DONE]"
    assert served.ask("/v1/completions", PROMPT | {"model": "x"})[0] == 404


def test_a_full_queue_is_told(serve) -> None:
    served = serve(slots=1, queue=1)
    held = [served.open("POST", "/v1/completions", ENDLESS) for _ in range(2)]
    status, answer = served.ask("/v1/completions", PROMPT)
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (429, "rate_limit_error", "queue_full")
    assert served.ask("/health")[1] == {"status": "ok", "slots": 1, "writing": 1, "waiting": 1}
    for response, connection in held:
        response.close()
        connection.close()
    served.settle()
    assert served.ask("/v1/completions", PROMPT)[0] == 200


def test_a_failure_is_told_whole_and_in_a_stream(served, monkeypatch) -> None:
    def broken(*_) -> None:
        raise NonFiniteError("the logits are no numbers")

    monkeypatch.setattr(Decoder, "next_logits", broken)
    status, answer = served.ask("/v1/completions", PROMPT)
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert answer["error"]["message"] == "the logits are no numbers"
    (told,) = served.stream("/v1/completions", PROMPT)
    assert told["error"]["message"] == "the logits are no numbers"
    monkeypatch.undo()
    assert served.ask("/v1/completions", PROMPT)[0] == 200


def test_pieces_of_a_stream_come_while_the_text_is_written(served) -> None:
    response, connection = served.open("POST", "/v1/completions", ENDLESS)
    first = json.loads(response.readline().removeprefix(b"data: "))
    assert first["choices"][0]["text"]
    assert served.engine.load == 1  # still at it
    response.close()
    connection.close()
    served.settle()
