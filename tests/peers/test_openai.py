"""The `openai` package, unmodified, as a client of the server."""

import asyncio
import contextlib
import threading
import time

import pytest

import primegpt
from primegpt.serving.app import create_app
from primegpt.serving.security import Policy
from primegpt.serving.server import listen, server_for
from primegpt.tokenizers.char import CharTokenizer

openai = pytest.importorskip("openai")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

TOKEN = "a-token-of-32-letters-and-digits"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def run(random_model, save_run):
    tokenizer = CharTokenizer.train(["abcdefghijklmnopqrstuvwxyz ABC.,\n"])
    model = random_model(vocab_size=tokenizer.vocab_size)
    return primegpt.load(save_run(model, tokenizer, "songs", max_new_tokens=8), device="cpu")


@pytest.fixture
def url(run):
    listening = listen("127.0.0.1", 0)
    server = server_for(create_app(run, policy=Policy(token=TOKEN)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.002)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0) as client:
        yield client


def test_list(client) -> None:
    assert [model.id for model in client.models.list()] == ["songs"]
    assert client.models.retrieve("songs").owned_by == "primegpt"


def test_completion(client, run) -> None:
    found = client.completions.create(model="songs", prompt="abc", n=2, seed=3, max_tokens=9, top_p=0.9, logprobs=2)
    expected = run.complete("abc", num_samples=2, seed=3, max_new_tokens=9, top_p=0.9, logprobs=True)
    assert [choice.text for choice in found.choices] == [completion.text for completion in expected]
    assert [choice.finish_reason for choice in found.choices] == ["length", "length"]
    for choice, completion in zip(found.choices, expected, strict=True):
        assert choice.logprobs.token_logprobs == pytest.approx(completion.logprobs, abs=1e-4)
        assert "".join(choice.logprobs.tokens) == completion.text
        assert all(1 <= len(top) <= 2 for top in choice.logprobs.top_logprobs)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (3, 18, 21)


def test_chat(client, run) -> None:
    found = client.chat.completions.create(
        model="songs", messages=HELLO, seed=3, max_completion_tokens=7, logprobs=True, top_logprobs=2
    )
    (choice,) = found.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == run.generate("hello", seed=3, max_new_tokens=7)
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    assert [len(token.top_logprobs) for token in choice.logprobs.content] == [2] * 7
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (5, 7)


def test_streaming(client, run) -> None:
    expected = run.generate("hello", seed=3)
    chunks = list(
        client.chat.completions.create(
            model="songs", messages=HELLO, seed=3, stream=True, stream_options={"include_usage": True}
        )
    )
    *pieces, last = chunks
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == expected
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-1].choices[0].finish_reason == "length"
    assert (last.choices, last.usage.completion_tokens) == ([], 8)
    chunks = client.completions.create(model="songs", prompt="hello", seed=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected


def test_stop_and_settings_of_our_own(client, run) -> None:
    expected = run.generate("abc", seed=3, top_k=3)
    found = client.completions.create(
        model="songs", prompt="abc", seed=3, stop=[expected[4:6]], extra_body={"top_k": 3, "repetition_penalty": 1.0}
    )
    assert (found.choices[0].text, found.choices[0].finish_reason) == (expected[:4], "stop")


def test_errors(client, url, run) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="songs", prompt="a", temperature=-1)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="songs", prompt="a" * 100)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert refused.value.code == "model_not_found"
    with (
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_a_stream_that_is_closed_and_many_clients_at_once(url, run) -> None:
    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key=TOKEN, max_retries=0) as client:
            stream = await client.completions.create(model="songs", prompt="a", max_tokens=8000, stream=True)
            async for _ in stream:
                break
            await stream.close()
            answers = await asyncio.gather(
                *(client.completions.create(model="songs", prompt="abc", seed=seed) for seed in range(16))
            )
            return [answer.choices[0].text for answer in answers]

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        found = loop.run_until_complete(all_at_once())
    assert found == [run.generate("abc", seed=seed) for seed in range(16)]
