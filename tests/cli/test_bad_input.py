"""A user's mistake is one line on stderr and exit 2, and nothing is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from primegpt.cli.main import run
from primegpt.tokenizers import store

TEXT = "the quick brown fox jumps over the lazy dog\n" * 400
TINY = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "16"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "cache"))
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def refused(arguments: list[str], place: Path, capsys, *expected: str) -> None:
    before = files(place)
    assert run(arguments, 0.0) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("primegpt: ")
    assert captured.err.count("\n") == 1, captured.err
    for text in expected:
        assert text in captured.err
    assert files(place) == before


def test_missing_file(place, capsys):
    refused(["train", "txet.txt"], place, capsys, "txet.txt", "text.txt")


def test_empty_file(place, capsys):
    Path("empty.txt").touch()
    refused(["train", "empty.txt"], place, capsys, "empty.txt", "empty")


def test_file_shorter_than_one_context(place, capsys):
    Path("short.txt").write_text("hello", encoding="utf-8")
    refused(["train", "short.txt"], place, capsys, "short.txt", "context")


def test_invalid_utf8_names_file_and_offset(place, capsys):
    Path("latin.txt").write_bytes(b"a" * 5000 + b"caf\xe9 au lait" + b"b" * 5000)
    refused(["train", "latin.txt"], place, capsys, "latin.txt", "5003", "UTF-8")


def test_unknown_flag_suggests_the_nearest(place, capsys):
    refused(["train", "text.txt", "--model.n_layers", "3"], place, capsys, "n_layer")


def test_unknown_key_in_a_file_names_the_file_and_suggests_the_nearest(place, capsys):
    Path("my.toml").write_text("[model]\nn_layres = 3\n", encoding="utf-8")
    refused(["train", "my.toml"], place, capsys, "my.toml", "model.n_layres", "n_layer")


def test_a_broken_toml_file(place, capsys):
    Path("my.toml").write_text("[model\n", encoding="utf-8")
    refused(["train", "my.toml"], place, capsys, "my.toml", "TOML")


def test_width_not_divisible_by_heads(place, capsys):
    flags = ["--model.n_embd", "100", "--model.n_head", "3"]
    refused(["train", "text.txt", *flags], place, capsys, "n_embd = 100", "n_head = 3", "head_dim")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--train.learning_rate", "nan"),
        ("--train.learning_rate", "0"),
        ("--train.batch_size", "0"),
        ("--train.max_steps", "0"),
        ("--minutes", "0"),
        ("--minutes", "nan"),
        ("--model.n_head", "0"),
        ("--model.dropout", "1"),
        ("--generate.top_p", "0"),
        ("--data.val_fraction", "1"),
        ("--train.max_steps", "many"),
    ],
)
def test_values_that_make_no_sense(place, capsys, flag, value):
    refused(["train", "text.txt", flag, value], place, capsys, flag.strip("-").split(".")[-1])


def test_two_budgets(place, capsys):
    refused(["train", "text.txt", "--minutes", "1", "--train.max_steps", "5"], place, capsys, "max_steps", "minutes")


def test_unknown_command(place, capsys):
    refused(["trian", "text.txt"], place, capsys, "train")


def test_no_source(place, capsys):
    refused(["train"], place, capsys, "no text")


def test_missing_run(place, capsys):
    refused(["generate", "runs/none", "hello"], place, capsys, "runs/none")
    refused(["train", "--resume", "runs/none"], place, capsys, "runs/none")


def test_an_existing_run_is_not_overwritten(place, capsys):
    command = ["train", "text.txt", "--out", "run", *TINY, "--train.max_steps", "2"]
    assert run(command, 0.0) == 0
    capsys.readouterr()
    refused(command, place, capsys, "run", "--resume", "--overwrite")
    assert run([*command, "--overwrite"], 0.0) == 0


def test_a_second_training_in_the_same_folder_is_refused(place):
    """Two real processes: the second is told at once, and the first goes on undisturbed."""
    command = [sys.executable, "-m", "primegpt", "train", "text.txt", "--out", "run", *TINY]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([*command, "--train.max_steps", "100000"], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not Path("run/metrics.jsonl").exists():
            assert first.poll() is None
        for flags in (["train", "--resume", "run"], [*command[3:], "--train.max_steps", "9", "--overwrite"]):
            second = subprocess.run(
                [sys.executable, "-m", "primegpt", *flags], capture_output=True, text=True, env=environment, check=False
            )
            assert second.returncode == 2
            assert second.stderr.splitlines()[-1].startswith("primegpt: ")
            assert "in use" in second.stderr
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["data", "songbook", "--out", "s.txt", "--songs", "1000000000000"], "from 1 to 1,000,000"),
        (["data", "songbook", "--out", "s.txt", "--songs", "-1"], "songs = -1"),
        (["data", "songbook", "--out", "s.txt", "--alignment", "nan"], "alignment = nan"),
        (["data", "prepare", "text.txt", "--preview", "-1"], "preview = -1"),
        (["data", "prepare", "text.txt", "--shard", f"1/{DIGITS}"], "no part of a text"),
        (["data", "audit", "text.txt", "--model-parameters", "0"], "model_parameters = 0"),
        (["data", "audit", "text.txt", "--model-parameters", DIGITS], "into int"),
        (["tokenizer", "train", "text.txt", "--out", "tok", "--vocab-size", "1000000000000"], "2000000"),
        (["generate", "run", "x", "--num-samples", "1000000000"], "num_samples = 1000000000"),
        (["generate", "run", "x", "--beams", "1000000000"], "num_beams = 1000000000"),
        (["generate", "run", "x", "--checkpoint", DIGITS], "best, last or a step"),
        (["evaluate", "run", "--memorization", "--limit", "1000000000000"], "limit = 1000000000000"),
        (["evaluate", "run", "--batch-size", "0"], "batch_size = 0"),
        (["serve", "run", "--port", "70000"], "65,535"),
        (["serve", "run", "--slots", "1000000000"], "1000000000"),
        (["info", "run", "--gpus", DIGITS], "into int"),
    ],
)
def test_numbers_of_every_command_have_bounds(command, expected, place, capsys, random_model, save_run):
    """They hung (a songbook of 10**12 songs), ran out of memory, or ended in a traceback."""
    tokenizer = store.train("char", [TEXT])
    assert save_run(random_model(vocab_size=tokenizer.vocab_size), tokenizer, "run") == place / "run"
    refused(command, place, capsys, expected)
