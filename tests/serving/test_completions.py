"""The endpoints, against the package's own generation."""

import json

import pytest
import torch

from primegpt.data.template import ChatTemplate, SongTemplate
from primegpt.errors import NonFiniteError
from primegpt.generation.decoder import Decoder

PROMPT = {"prompt": "abc", "seed": 3}
ENDLESS = {"prompt": "a", "max_tokens": 8000, "temperature": 0, "stream": True}  # the random model ends no such text
HELLO = {"messages": [{"role": "user", "content": "hello"}], "seed": 3}


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_p": 0.8, "top_k": 0, "min_p": 0.01}])
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
    ("completions", {"frequency_penalty": 0.5}, "frequency_penalty", "0"),
    ("chat/completions", {}, "messages", "required"),
    ("chat/completions", {"messages": []}, "messages", "at least 1"),
    ("chat/completions", {"messages": [{"role": "boss", "content": "a"}]}, "messages.0.role", "'system'"),
    ("chat/completions", {"messages": MESSAGE, "top_logprobs": 2}, None, "without logprobs"),
    ("chat/completions", {"messages": MESSAGE, "genre": "rock"}, None, "not trained on instructions"),
    ("chat/completions", {"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages.0.x", "not known"),
]


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
    for path, body in [("/v1/models/gpt-4", None), ("/v1/completions", PROMPT | {"model": "gpt-4"})]:
        status, answer = served.ask(path, body)
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert served.ask("/v1/completions", PROMPT | {"model": "songs"})[0] == 200
    assert served.ask("/v1/nothing")[0] == 404
    assert served.ask("/v1/completions")[0] == 405


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
