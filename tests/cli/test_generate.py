"""`primegpt generate` and `primegpt chat`, on a run of a few steps."""

import io
import json
import math
import re
from pathlib import Path

import pytest
import torch

import primegpt
from primegpt.api import Chat
from primegpt.cli.main import run
from primegpt.config import GenerateConfig
from primegpt.errors import UsageError

TINY = [
    "--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "32",
    "--tokenizer.kind", "char", "--train.max_steps", "3", "--train.batch_size", "2", "--train.threads", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 100, encoding="utf-8")
    assert run(["train", str(text), "--out", str(folder / "run"), *TINY], 0.0) == 0
    return folder / "run"


@pytest.fixture
def output(capsys):
    def of(*arguments: object, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        assert run([str(argument) for argument in arguments], 0.0) == code
        return capsys.readouterr()

    return of


def test_json_tells_everything_of_a_text(trained: Path, output) -> None:
    found, error = output("generate", trained, "the ", "--json", "--max-new-tokens", 7, "--num-samples", 2)
    texts = [json.loads(line) for line in found.splitlines()]
    opened = primegpt.load(trained)
    expected = opened.complete("the ", max_new_tokens=7, num_samples=2, logprobs=True)
    assert [text["text"] for text in texts] == [completion.text for completion in expected]
    for text, completion in zip(texts, expected, strict=True):
        assert (text["prompt"], text["ids"], text["finish_reason"]) == (
            "the ",
            completion.ids,
            completion.finish_reason,
        )
        assert text["logprobs"] == pytest.approx(completion.logprobs)
        assert len(text["logprobs"]) == len(text["ids"]) <= 7
        assert all(math.log(1 / 1000) < value < 0 for value in text["logprobs"])
    assert error == ""


def test_prompts_from_a_file_and_from_standard_input(trained: Path, output, tmp_path, monkeypatch) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("the fox\n\na dog\n", encoding="utf-8")
    flags = ["--json", "--max-new-tokens", 3]
    from_file, _ = output("generate", trained, "--prompts", file, *flags)
    assert [json.loads(line)["prompt"] for line in from_file.splitlines()] == ["the fox", "a dog"]
    monkeypatch.setattr("sys.stdin", io.StringIO("two\nlines\n"))
    found, _ = output("generate", trained, "-", "--max-new-tokens", 3)
    assert found.startswith("two\nlines")
    assert len(found) > len("two\nlines\n")


def test_what_a_flag_says_is_what_is_done(trained: Path, output) -> None:
    opened = primegpt.load(trained)
    flags = [
        "--temperature",
        0.8,
        "--top-k",
        0,
        "--top-p",
        0.9,
        "--min-p",
        0.01,
        "--repetition-penalty",
        1.2,
        "--seed",
        5,
    ]
    settings = {"temperature": 0.8, "top_k": 0, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 5}
    found, _ = output("generate", trained, "the ", *flags, "--stop", "o", "--stop", "zz")
    assert found == "the " + opened.generate("the ", stop_strings=["o", "zz"], **settings) + "\n"
    assert "o" not in found.removeprefix("the ")
    found, _ = output("generate", trained, "the ", "--beams", 3, "--max-new-tokens", 5, "--length-penalty", 0)
    assert found == "the " + opened.generate("the ", num_beams=3, max_new_tokens=5, length_penalty=0.0) + "\n"
    assert "".join(opened.stream("the ", **settings)) == opened.generate("the ", **settings)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_every_precision_writes(trained: Path, output, precision: str) -> None:
    found, _ = output("generate", trained, "the ", "--precision", precision, "--max-new-tokens", 5)
    assert len(found) > len("the \n")


def test_a_model_trained_further_writes_with_its_new_weights(trained: Path) -> None:
    opened = primegpt.load(trained)
    before = opened.generate("the ", precision="bf16")
    with torch.no_grad():
        opened.model.wte.weight.neg_()
    assert opened.generate("the ", precision="bf16") != before


def test_what_is_lost_of_a_prompt_is_said(trained: Path, output) -> None:
    _, error = output("generate", trained, "ein Käse für 3 €", "--max-new-tokens", 2)
    assert error.count("\n") == 1
    for character in ("'ä'", "'ü'", "'3'", "'€'"):
        assert character in error
    _, error = output("generate", trained, "the fox " * 5, "--max-new-tokens", 2)
    assert error == "primegpt: the prompt has 40 tokens, the model sees 32: it is given the last 16\n"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--temperature", "-1"], "temperature = -1"),
        (["--temperature", "nan"], "temperature"),
        (["--top-p", "0"], "top_p = 0"),
        (["--top-p", "1.5"], "top_p = 1.5"),
        (["--top-k", "-1"], "top_k = -1"),
        (["--min-p", "-0.1"], "min_p"),
        (["--repetition-penalty", "0"], "repetition_penalty"),
        (["--max-new-tokens", "0"], "max_new_tokens"),
        (["--num-samples", "0"], "num-samples"),
        (["--beams", "0"], "num_beams"),
        (["--beams", "2", "--num-samples", "3"], "beams"),
        (["--stop", ""], "stop_strings"),
        (["--precision", "int3"], "precision"),
        (["--genre", "rock"], "not trained on instructions"),
        (["--checkpoint", "none"], "none"),
        (["--prompts", "none.txt"], "none.txt"),
    ],
)
def test_bad_values_are_one_line(trained: Path, output, flags: list[str], expected: str) -> None:
    prompt = [] if "--prompts" in flags else ["the"]
    found, error = output("generate", trained, *prompt, *flags, code=2)
    assert found == ""
    assert error.startswith("primegpt: ")
    assert error.count("\n") == 1
    assert expected in error


# ---- chat


def test_a_piped_chat_answers_every_line_and_survives_mistakes(trained: Path, output, monkeypatch) -> None:
    lines = "/tokens 5\nthe fox\n/temperature hot\n/tmperature 1\n/top-p 7\n/seed 3\nthe fox\n/history\nquit\nnever\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    found, error = output("chat", trained)
    opened = primegpt.load(trained)
    first, second = (opened.generate("the fox", max_new_tokens=5, seed=seed) for seed in (0, 3))
    assert found == f"the fox{first}\nthe fox{second}\n"
    assert "/temperature needs a number, not 'hot'" in error
    assert "did you mean 'temperature'?" in error
    assert "top_p = 7" in error
    assert len(re.findall(r"\d+ tokens, \d+ tokens/s", error)) == 2
    assert "never" not in error
    assert "Traceback" not in error


def test_ctrl_c_stops_the_answer_and_not_the_chat(trained: Path, output, monkeypatch) -> None:
    """The third piece of the first answer is interrupted; the second answer comes all the same."""
    whole, answer = Chat.answer, []

    def interrupted(self: Chat, line: str):
        answer.append(line)
        for number, piece in enumerate(whole(self, line)):
            if len(answer) == 1 and number == 2:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(Chat, "answer", interrupted)
    monkeypatch.setattr("sys.stdin", io.StringIO("the fox\nthe dog\n"))
    found, error = output("chat", trained, "--max-new-tokens", 6, "--seed", 1)
    expected = primegpt.load(trained).generate("the dog", max_new_tokens=6, seed=2)
    assert "stopped" in error
    assert found.endswith(f"\nthe dog{expected}\n")


def test_settings_history_and_going_on(trained: Path) -> None:
    opened = primegpt.load(trained)
    chat = Chat(opened, max_new_tokens=4)
    with pytest.raises(UsageError, match="nothing to go on from"):
        next(chat.answer("/more"))
    first = "".join(chat.answer("the fox"))
    more = "".join(chat.answer("/more"))
    ids = opened.tokenizer.encode("the fox" + first)
    assert more == opened.generate(ids, max_new_tokens=4, seed=1)
    assert chat.command("/history") == f"the fox{first}\n\n{more}"
    for command, key, value in [
        ("/temperature 0", "temperature", 0.0),
        ("/top_k 5", "top_k", 5),
        ("/top-k 0", "top_k", 0),
        ("/top-p 0.5", "top_p", 0.5),
        ("/min-p .1", "min_p", 0.1),
        ("/tokens 9", "max_new_tokens", 9),
        ("/seed 12", "seed", 12),
        ("/repetition-penalty 1.5", "repetition_penalty", 1.5),
    ]:
        chat.command(command)
        assert getattr(chat.settings, key) == value
    assert chat.settings.max_new_tokens == 9  # what was set before stays
    assert isinstance(chat.settings, GenerateConfig)
    for wrong in (
        "/temperature -1",
        "/temperature nan",
        "/top-p 0",
        "/top-k -2",
        "/tokens 1.5",
        "/seed",
        "/genre rock",
    ):
        with pytest.raises(UsageError):
            chat.command(wrong)
    assert chat.settings.temperature == 0.0
    assert "/genre rock" in chat.command("/help")
    assert "seed" in chat.command("/settings")


def test_an_answer_left_half_read_is_history(trained: Path) -> None:
    chat = Chat(primegpt.load(trained), max_new_tokens=20)
    pieces = chat.answer("the")
    start = next(pieces) + next(pieces)
    pieces.close()
    assert chat.history[-1].answer == start
    assert chat.tokens >= 2
