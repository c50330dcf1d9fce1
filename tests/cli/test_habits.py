"""What people ask of comparable programs: odd settings, files of other systems, folders that move, bare machines.

Each line was tried because somebody reported it somewhere; most were right already and are kept so.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import primegpt
from primegpt.cli.main import run

MODEL = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--tokenizer.kind", "char"]
TINY = [*MODEL, "--model.block_size", "32", "--train.max_steps", "3", "--train.batch_size", "2", "--train.threads", "1"]
TEXT = "the quick brown fox jumps over the lazy dog\n" * 100


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("habits")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    assert run(["train", str(folder / "text.txt"), "--out", str(folder / "run"), *TINY], 0.0) == 0
    return folder / "run"


@pytest.fixture
def output(capsys):
    def of(*arguments: object, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        assert run([str(argument) for argument in arguments], 0.0) == code
        return capsys.readouterr()

    return of


# ---- settings


def test_more_choices_than_the_vocabulary_has_are_all_of_them(trained):
    opened = primegpt.load(trained)
    assert opened.generate("the ", top_k=10**6, seed=3) == opened.generate("the ", top_k=0, seed=3)


def test_at_temperature_0_the_seed_and_the_number_of_samples_change_nothing(trained):
    opened = primegpt.load(trained)
    alone = opened.generate("the ", temperature=0, seed=1)
    assert opened.generate("the ", temperature=0, seed=2, num_samples=3) == [alone] * 3


def test_the_first_samples_are_the_same_however_many_there_are(trained):
    opened = primegpt.load(trained)
    several = opened.generate("the ", num_samples=4, seed=5)
    assert opened.generate("the ", num_samples=2, seed=5) == several[:2]
    assert len(set(several)) > 1


@pytest.mark.parametrize("prompt", ["", " ", "\n", "\n\n", "the " * 100])
def test_any_prompt_is_gone_on_with(trained, output, prompt):
    found, _ = output("generate", trained, prompt, "--max-new-tokens", 4)
    assert found.startswith(prompt)
    assert len(found) == len(prompt) + 4 + 1


def test_a_prompt_that_looks_like_an_option_goes_last(trained, output):
    _, error = output("generate", trained, "-hello", code=2)
    assert error.count("\n") == 1
    assert error.endswith("see `primegpt generate --help`; a text that begins with - comes last, after --\n")
    found, _ = output("generate", trained, "--max-new-tokens", 4, "--", "-hello")
    assert found.startswith("-hello")


@pytest.mark.parametrize(("words", "name"), [(["train", "--foo"], "train"), (["trian"], "COMMAND")])
def test_whoever_mistypes_is_led_to_the_right_page(output, words, name):
    _, error = output(*words, code=2)
    assert f"; see `primegpt {name} --help`" in error
    assert ".;" not in error


# ---- texts


def test_a_text_that_hardly_fills_a_context(tmp_path, output):
    (tmp_path / "short.txt").write_text("the quick brown fox jumps over the lazy dog", encoding="utf-8")
    found, _ = output("train", tmp_path / "short.txt", "--out", tmp_path / "run", *TINY)
    assert "result " in found


def test_a_batch_of_more_windows_than_there_are(trained, tmp_path, output):
    flags = [*MODEL, "--model.block_size", 32, "--train.max_steps", 1, "--train.batch_size", 300, "--train.threads", 1]
    output("train", trained.parent / "text.txt", "--out", tmp_path / "run", *flags)
    (line,) = [line for line in primegpt.load(tmp_path / "run").metrics if "lr" in line]
    assert 0.9 < line["tokens"] / (300 * 32) <= 1  # what stands at an end of the text has no next token


@pytest.mark.parametrize("text", ["t", "the", "the quick brown"])
def test_a_text_shorter_than_a_window_is_evaluated_whole(trained, tmp_path, output, text):
    (tmp_path / "short.txt").write_text(text, encoding="utf-8")
    found, _ = output("evaluate", trained, "--text", tmp_path / "short.txt", "--json")
    report = json.loads(found)["text"]
    assert (report["tokens"], report["bytes"], report["unit"]) == (len(text), len(text), "character")
    assert report["loss"] > 0


def test_prompts_as_other_systems_write_them(trained, output, tmp_path, monkeypatch):
    """A byte order mark is not part of a prompt, nor is a carriage return; other characters end no line."""
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffthe fox\r\n\r\na dog\u2028sat\r\n".encode())
    found, _ = output("generate", trained, "--prompts", file, "--json", "--max-new-tokens", 1)
    assert [json.loads(line)["prompt"] for line in found.split("\n")[:-1]] == ["the fox", "a dog\u2028sat"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffthe fox\n"))
    found, error = output("generate", trained, "-", "--max-new-tokens", 1)
    assert found.startswith("the fox")
    assert error == ""


def test_a_text_with_two_characters_at_a_line_end_is_written_with_one(tmp_path, output):
    """Of a model that writes both, without a \\r at the end of each line on the screen."""
    (tmp_path / "dos.txt").write_bytes(b"ab\r\n" * 1000)
    flags = [*MODEL, "--model.block_size", 32, "--train.max_steps", 60, "--train.batch_size", 8, "--train.threads", 1]
    output("train", tmp_path / "dos.txt", "--out", tmp_path / "run", *flags)
    assert primegpt.load(tmp_path / "run").generate("ab", temperature=0, max_new_tokens=10) == "\r\nab\r\nab\r\n"
    found, _ = output("generate", tmp_path / "run", "ab", "--temperature", 0, "--max-new-tokens", 10)
    assert found == "ab\nab\nab\n\n"


def test_a_chat_that_is_given_no_utf_8_says_so(trained, output, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    _, error = output("chat", trained, code=2)
    assert error.splitlines()[-1] == (
        "primegpt: standard input is not UTF-8; convert it, for example with iconv -t utf-8"
    )


# ---- folders


def test_a_run_works_wherever_it_is_taken(trained, tmp_path, output, monkeypatch):
    there = tmp_path / "a place, with ünïcode 日本"
    shutil.copytree(trained, there / "run")
    expected = primegpt.load(trained).generate("the ", seed=7)
    monkeypatch.chdir(there)
    for name in ("run", "./run/", there / "run"):
        assert output("generate", name, "the ", "--seed", 7)[0] == f"the {expected}\n"
    monkeypatch.chdir(there / "run")
    assert output("generate", ".", "the ", "--seed", 7)[0] == f"the {expected}\n"
    monkeypatch.chdir("/")
    output("train", "--resume", there / "run", "--train.max_steps", 5)
    assert primegpt.load(there / "run", checkpoint="last").step == 5
    assert primegpt.load(trained, checkpoint="last").step == 3


def test_reading_a_run_writes_nothing_into_it(trained, output):
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in trained.rglob("*")}

    before = state()
    output("generate", trained, "the ")
    output("evaluate", trained)
    output("info", trained)
    output("runs", trained)
    output("tokenizer", "show", trained, "the ")
    assert state() == before


def test_where_no_run_can_be_is_said_before_the_text_is_prepared(trained, tmp_path, output, monkeypatch):
    text = trained.parent / "text.txt"
    _, error = output("train", text, "--out", text / "run", *TINY, code=2)
    assert error == f"primegpt: {text} is a file, so there can be no run {text / 'run'}; choose another --out\n"
    real = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    _, error = output("train", text, "--out", tmp_path / "a" / "run", *TINY, code=2)
    assert error.startswith(f"primegpt: {tmp_path} may not be written to")
    assert list(tmp_path.iterdir()) == []


# ---- machines


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_lacks_letters_gets_them_spelt_out(trained, output, monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert run(["generate", str(trained), "the 日", "--max-new-tokens", "1"], 0.0) == 0
    assert run(["generate", str(trained), "the 日", "--max-new-tokens", "1", "--json"], 0.0) == 0
    sys.stdout.flush()
    text, line = raw.getvalue().decode(encoding).splitlines()
    assert text.startswith(r"the \u65e5")
    assert json.loads(line)["prompt"] == "the 日"


@pytest.mark.reliability
def test_a_bare_machine(trained, tmp_path):
    """Without a home, a locale or docstrings; with standard input closed, and in a folder that is gone."""
    bare = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, "-OO", "-m", "primegpt"]
    done = subprocess.run(
        [*command, "generate", trained, "the ", "--max-new-tokens", "4"],
        env={**bare, "LC_ALL": "C", "NO_COLOR": "1"}, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert (done.returncode, len(done.stdout), done.stderr) == (0, len("the ....\n"), "")
    help_page = subprocess.run([*command, "train", "--help"], env=bare, capture_output=True, text=True)
    assert "--train.batch-size" in help_page.stdout
    closed = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m primegpt chat {trained} <&-"], env=bare, capture_output=True, text=True
    )
    assert (closed.returncode, closed.stderr.count("\n")) == (0, 1)
    gone = "mkdir gone && cd gone && rmdir ../gone && exec "
    lost = subprocess.run(
        ["sh", "-c", gone + f"{sys.executable} -m primegpt generate {trained}"],
        env=bare, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert lost.returncode == 2
    assert lost.stderr == "primegpt: the current folder: No such file or directory; change to one that is there\n"
