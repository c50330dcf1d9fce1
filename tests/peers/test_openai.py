"""The packages `openai`, `langchain-openai` and `litellm`, unmodified, as clients of the server."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

import primegpt
from primegpt.data.template import ChatTemplate
from primegpt.serving.security import Policy
from primegpt.serving.serve import create_app
from primegpt.serving.server import listen, server_for
from primegpt.tokenizers.char import CharTokenizer

openai = pytest.importorskip("openai")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a list of prices when it is imported

TOKEN = "a-token-of-32-letters-and-digits"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def run(random_model, save_run):
    tokenizer = CharTokenizer.train(["abcdefghijklmnopqrstuvwxyz ABC.,\n"])
    model = random_model(vocab_size=tokenizer.vocab_size)
    return primegpt.load(save_run(model, tokenizer, "songs", max_new_tokens=8), device="cpu")


@contextlib.contextmanager
def serving(run) -> Iterator[str]:
    """The URL of a server for `run`, which ends with the block."""
    listening = listen("127.0.0.1", 0)
    server = server_for(create_app(run, policy=Policy(token=TOKEN)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.002)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def url(run):
    with serving(run) as url:
        yield url


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


# ---- conversations of two turns, with the defaults of each client


@pytest.fixture
def chat(random_model, save_run):
    """A run on conversations that always answers the same."""
    tokenizer = CharTokenizer.train(["abcdefghijklmnopqrstuvwxyz ABC.,\n"], special_tokens=ChatTemplate.special_tokens)
    model = random_model(vocab_size=tokenizer.vocab_size)
    run = primegpt.load(save_run(model, tokenizer, "chats", max_new_tokens=8, temperature=0), device="cpu")
    run.config = run.config.with_values(data={"template": "chat"})
    return run


@pytest.fixture
def no_network(monkeypatch):
    """Nothing is looked up and nothing reached but this machine."""
    tried, lookup, connect = [], socket.getaddrinfo, socket.socket.connect

    def here(host: object) -> None:
        if host not in ("127.0.0.1", "localhost", "::1"):
            tried.append(host)
            raise OSError(f"{host} is not this machine")

    def look_up(host, *args, **options):
        here(host)
        return lookup(host, *args, **options)

    def reach(self, address):
        here(address[0] if isinstance(address, tuple) else "localhost")
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket.socket, "connect", reach)
    yield
    assert not tried


def with_openai(url: str):
    """`client` and how it speaks: a function of a conversation and a question to the longer one and the answer."""
    client = openai.OpenAI(base_url=url, api_key=TOKEN)

    def whole(messages: list, question: str) -> str:
        messages.append({"role": "user", "content": question})
        messages.append(client.chat.completions.create(model="chats", messages=messages).choices[0].message)
        return messages[-1].content

    def dumped(messages: list, question: str) -> str:
        answer = whole(messages, question)
        messages[-1] = messages[-1].model_dump()
        return answer

    def streamed(messages: list, question: str) -> str:
        messages.append({"role": "user", "content": question})
        chunks = client.chat.completions.create(model="chats", messages=messages, stream=True)
        deltas = [chunk.choices[0].delta for chunk in chunks]
        messages.append({"role": deltas[0].role, "content": "".join(delta.content or "" for delta in deltas)})
        return messages[-1]["content"]

    return whole, dumped, streamed


def with_langchain(url: str):
    langchain_openai = pytest.importorskip("langchain_openai")
    model = langchain_openai.ChatOpenAI(base_url=url, api_key=TOKEN, model="chats")

    def whole(messages: list, question: str) -> str:
        messages.append(("user", question))
        messages.append(model.invoke(messages))
        return messages[-1].content

    def streamed(messages: list, question: str) -> str:
        messages.append(("user", question))
        first, *more = model.stream(messages)
        for chunk in more:
            first += chunk
        messages.append(first)
        return first.content

    return whole, streamed


def with_litellm(url: str):
    litellm = pytest.importorskip("litellm")
    there = {"model": "openai/chats", "api_base": url, "api_key": TOKEN}

    def whole(messages: list, question: str) -> str:
        messages.append({"role": "user", "content": question})
        messages.append(litellm.completion(messages=messages, **there).choices[0].message)
        return messages[-1].content

    def dumped(messages: list, question: str) -> str:
        answer = whole(messages, question)
        messages[-1] = messages[-1].model_dump()
        return answer

    def streamed(messages: list, question: str) -> str:
        messages.append({"role": "user", "content": question})
        chunks = list(litellm.completion(messages=messages, stream=True, **there))
        messages.append(litellm.stream_chunk_builder(chunks).choices[0].message)
        return messages[-1].content

    return whole, dumped, streamed


@pytest.mark.parametrize("package", [with_openai, with_langchain, with_litellm])
def test_conversations_of_two_turns(chat, no_network, package) -> None:
    """Each way to ask, and to give the answer back with the next question, is what the run itself says."""
    expected, said = [], []
    for question in ("hello", "and so"):
        said.append({"role": "user", "content": question})
        expected.append(chat.generate(chat.conversation(said)))
        said.append({"role": "assistant", "content": expected[-1]})
    assert expected[0] != expected[1]
    with serving(chat) as url:
        for speak in package(url):
            messages: list = []
            assert [speak(messages, question) for question in ("hello", "and so")] == expected, speak.__name__
