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


def test_every_setting_of_generation_is_a_flag(output) -> None:
    """Of both commands, by the name that it has in the configuration or by its short one, with one help."""
    names = {"num_beams": "beams", "stop_strings": "stop"}
    for command in ("generate", "chat"):
        found, _ = output(command, "--help")
        for name, field in GenerateConfig.model_fields.items():
            assert f"--{names.get(name, name).replace('_', '-')} " in found, name
            assert field.description is not None
            assert " ".join(field.description.split()[:3]) in " ".join(found.replace("│", " ").split()), name


def test_the_temperature_s_decay_and_early_stopping_are_settings_of_the_command_line(trained: Path, output) -> None:
    opened = primegpt.load(trained)
    decay = {"decay_trigger": "h", "temperature_decay": 0.01, "temperature_floor": 0.001}
    flags = ["--decay-trigger", "h", "--temperature-decay", 0.01, "--temperature-floor", 0.001]
    found, _ = output("generate", trained, "the ", *flags)
    assert found == "the " + opened.generate("the ", **decay) + "\n"
    assert found != "the " + opened.generate("the ") + "\n"
    found, _ = output("generate", trained, "the ", "--beams", 2, "--early-stopping", "--max-new-tokens", 5)
    assert found == "the " + opened.generate("the ", num_beams=2, early_stopping=True, max_new_tokens=5) + "\n"
    _, error = output("generate", trained, "the ", "--early-stopping", code=2)
    assert "generate.early_stopping = True has no effect without beam search" in error


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
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
        (["--num-samples", "0"], "num_samples"),
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


# ---- what is seen of it

ORDERS = "\x1b[31m\x07\x9b8m\r\u202e"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A run whose text is full of what terminals obey."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "text.txt").write_text(f"a{ORDERS}b\tc\n" * 300, encoding="utf-8", newline="")
    assert run(["train", str(folder / "text.txt"), "--out", str(folder / "run"), *TINY], 0.0) == 0
    return folder / "run"


def test_no_control_character_of_a_text_reaches_the_terminal(hostile: Path, output, monkeypatch) -> None:
    opened = primegpt.load(hostile)
    written = opened.generate(ORDERS)
    assert set(ORDERS) & set(written), "a model of three steps writes any character"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ORDERS[:-2]}\n/history\n"))
    again, seen = hostile.with_name("again"), set("\x1b\x07\x9b\r\u202e")
    commands = [
        ["generate", hostile, ORDERS],
        ["generate", hostile, ORDERS, "--num-samples", 2],
        ["chat", hostile],
        ["tokenizer", "show", hostile, ORDERS],
        ["evaluate", hostile, "--memorization", "--limit", 2],
        ["train", hostile.parent / "text.txt", "--out", again, *TINY],
        ["data", "prepare", hostile.parent / "text.txt", "--preview", 1, *TINY[:8], "--tokenizer.kind", "char"],
    ]
    for command in commands:
        found, error = output(*command)
        assert not seen & set(found + error), command
    found, _ = output("generate", hostile, ORDERS)
    assert "\\x1b" in found
    assert "\\u202e" in found
    for sample in (again / "samples").iterdir():
        assert not seen & set(sample.read_text(encoding="utf-8"))
    found, _ = output("generate", hostile, ORDERS, "--json")
    assert json.loads(found)["text"] == written
    assert not seen & set(found)


def test_an_answer_stands_below_its_question(tmp_path, output, monkeypatch) -> None:
    records = tmp_path / "answers.jsonl"
    one = json.dumps({"prompt": "Who are you?", "response": "I'm a language model."})
    records.write_text(f"{one}\n" * 60, encoding="utf-8")
    folder = tmp_path / "run"
    tuned = [*TINY[:6], "--model.block_size", "64", *TINY[8:]]
    _, said = output("train", records, "--data.template", "response", "--out", folder, *tuned)
    assert "» Who are you?\n" in said
    assert "<response>" not in said
    assert "» Who are you?\n" in (folder / "samples" / "step-000003.txt").read_text(encoding="utf-8")
    answer = primegpt.load(folder).generate("Who are you?")
    assert output("generate", folder, "Who are you?")[0] == f"» Who are you?\n{answer}\n"
    found, _ = output("generate", folder, "Who are you?", "--num-samples", 2)
    assert found.count("» Who are you?\n") == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("Who are you?\n/history\n"))
    found, error = output("chat", folder)
    assert found == f"» Who are you?\n{answer}\n"
    assert f"» Who are you?\n{answer}" in error


def test_the_result_says_of_what_it_is_where_it_differs_from_the_line_above(tmp_path, output) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 100, encoding="utf-8")
    found, _ = output("train", text, "--out", tmp_path / "part", *TINY, "--data.val_tokens", 64)
    assert "the best checkpoint, step 3, on all " in found
    assert "(the evaluations above read a fixed part of them, about 64)" in found
    found, _ = output("train", text, "--out", tmp_path / "all", *TINY, "--data.val_tokens", 100_000)
    assert "fixed part" not in found


def test_going_on_says_when_there_is_nothing_more_and_is_no_prompt(trained: Path, output, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the\n/more\n"))
    monkeypatch.setattr("primegpt.inference.context.Row.add", lambda row, id, stops, limit: setattr(
        row, "finish_reason", "stop") or row.ids.append(id))  # fmt: skip
    monkeypatch.setattr("primegpt.inference.context.Row.added", property(lambda row: []))
    _, error = output("chat", trained)
    assert "knows no" not in error
    assert error.count("nothing more: the text has ended") == 2


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
    assert chat.command("/history") == f"the fox{first}{more}"  # one text, in two turns
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


def test_a_chat_searches_with_beams_and_sets_what_generate_sets(trained: Path, output, monkeypatch) -> None:
    opened = primegpt.load(trained)
    monkeypatch.setattr("sys.stdin", io.StringIO("the fox\n/more\n"))
    found, error = output("chat", trained, "--beams", 3, "--max-new-tokens", 5)
    first = opened.generate("the fox", num_beams=3, max_new_tokens=5)
    more = opened.generate(opened.tokenizer.encode("the fox" + first), num_beams=3, max_new_tokens=5)
    assert found == f"the fox{first}\n{more}\n"
    assert error.count("5 tokens, ") == 2
    chat = Chat(opened, max_new_tokens=8)
    for line, key, value in [
        ("/decay-trigger h", "decay_trigger", "h"),
        ("/temperature_floor 0.1", "temperature_floor", 0.1),
    ]:
        chat.command(line)
        assert getattr(chat.settings, key) == value
    _, error = output("chat", trained, "--length-penalty", 2, code=2)
    assert "has no effect without beam search" in error


def test_an_answer_left_half_read_is_history(trained: Path) -> None:
    chat = Chat(primegpt.load(trained), max_new_tokens=20)
    pieces = chat.answer("the")
    start = next(pieces) + next(pieces)
    pieces.close()
    assert chat.history[-1].answer == start
    assert chat.tokens >= 2


@pytest.fixture(scope="module")
def conversational(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chats")
    said = [("user", "Who are you?"), ("assistant", "A river."), ("user", "And he?"), ("assistant", "A bridge.")]
    one = json.dumps({"messages": [{"role": role, "content": text} for role, text in said]})
    (folder / "chats.jsonl").write_text(f"{one}\n" * 60, encoding="utf-8")
    tuned = [*TINY[:6], "--model.block_size", "64", *TINY[8:], "--data.template", "chat"]
    assert run(["train", str(folder / "chats.jsonl"), "--out", str(folder / "run"), *tuned], 0.0) == 0
    return folder / "run"


def test_a_model_of_conversations_is_told_what_was_said_before(conversational: Path) -> None:
    opened = primegpt.load(conversational)
    chat = Chat(opened, max_new_tokens=3)
    first = "".join(chat.answer("Who"))
    "".join(chat.answer("And he?"))
    before = [{"role": "user", "content": "Who"}, {"role": "assistant", "content": first}]
    now = {"role": "user", "content": "And he?"}
    assert chat.row is not None
    assert chat.row.ids[: chat.row.prompt_length] == opened.conversation([*before, now])
    assert chat.is_command("")
    assert chat.command("") == "a new conversation"
    "".join(chat.answer("And he?"))
    assert chat.row.ids[: chat.row.prompt_length] == opened.conversation([now])
    assert len(chat.history) == 3


def test_a_conversation_is_instructed_taken_back_and_saved(conversational: Path, tmp_path: Path) -> None:
    opened = primegpt.load(conversational)
    chat = Chat(opened, max_new_tokens=3)
    with pytest.raises(UsageError, match="no turn to take back"):
        chat.command("/undo")
    with pytest.raises(UsageError, match="nothing was said yet"):
        chat.command(f"/save {tmp_path / 'talk.jsonl'}")
    assert chat.command("/system Be brief.") == "system is Be brief."
    first = "".join(chat.answer("Who"))
    "".join(chat.answer("And he?"))
    assert chat.command("/undo") == "taken back: And he?"
    with pytest.raises(UsageError, match="nothing to go on from"):
        next(chat.answer("/more"))
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who"}
    said = [system, user, {"role": "assistant", "content": first}]
    assert chat.asked("And she?") == opened.conversation([*said, {"role": "user", "content": "And she?"}])

    place = tmp_path / "talk.jsonl"
    assert chat.command(f"/save {place}") == f"saved to {place}"
    assert json.loads(place.read_text(encoding="utf-8")) == {"messages": said}
    chat.command(f"/save {tmp_path / 'talk.txt'}")
    assert (tmp_path / "talk.txt").read_text(encoding="utf-8") == f"» Who\n{first}\n"
    for wrong in ("", place, tmp_path / "no" / "talk.txt"):
        with pytest.raises(UsageError, match="name a new file"):
            chat.command(f"/save {wrong}")
    assert chat.command("/forget") == "a new conversation"
    assert chat.asked("Who") == opened.conversation([system, user])
    assert chat.command("/system off") == "system is off"
    assert chat.asked("Who") == opened.conversation([user])


def test_a_model_of_texts_has_nothing_to_forget(trained: Path, tmp_path: Path) -> None:
    chat = Chat(primegpt.load(trained), max_new_tokens=3)
    for command in ("/forget", "/system Be brief."):
        with pytest.raises(UsageError, match="trained on conversations"):
            chat.command(command)
    answer = "".join(chat.answer("the fox"))
    "".join(chat.answer("the dog"))
    chat.command("/undo")
    chat.command(f"/save {tmp_path / 'talk.jsonl'}")
    assert json.loads((tmp_path / "talk.jsonl").read_text()) == {"prompt": "the fox", "response": answer}


def test_of_a_long_conversation_the_first_turns_are_left_out(conversational: Path, output, monkeypatch):
    opened = primegpt.load(conversational)
    chat, said = Chat(opened, max_new_tokens=8), []
    for number in range(6):
        "".join(chat.answer("Who are you?"))
        said.append("no longer fit" in chat.speed)
        assert chat.row is not None
        assert chat.row.prompt_length <= 64 - 8 or chat.forgotten == number
    kept = [message for turn in chat.history[chat.forgotten : -1] for message in (
        {"role": "user", "content": turn.prompt}, {"role": "assistant", "content": turn.answer})]  # fmt: skip
    asked = opened.conversation([*kept, {"role": "user", "content": "Who are you?"}])
    assert chat.row.ids[: chat.row.prompt_length] == asked
    assert chat.forgotten > 0
    assert sum(said) == 1  # said once, and again in another conversation
    chat.command("/forget")
    for _ in range(6):
        "".join(chat.answer("Who are you?"))
        said.append("no longer fit" in chat.speed)
    assert sum(said) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("Who are you?\n\nWho are you?\n"))
    found, error = output("chat", conversational, "--max-new-tokens", 4)
    assert found.count("» Who are you?\n") == 2
    assert "a new conversation" in error
