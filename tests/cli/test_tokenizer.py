"""The tokenizer commands, from text to a folder and from a folder to what it makes of a text."""

import json
import shutil
from pathlib import Path

import pytest

from primegpt import tokenizers
from primegpt.cli.main import run
from primegpt.config import TokenizerConfig

TEXT = "the river ran under a bridge of stone and the song went on until morning\n" * 300
TINY = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "16"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def succeeds(capsys, *arguments: str) -> str:
    assert run(["tokenizer", *arguments], 0.0) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments: str) -> str:
    assert run(list(arguments), 0.0) in (1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("kind", "size", "vocab_size"), [("char", [], 30), ("bpe", ["300"], 300), ("sentencepiece", ["320"], 320)]
)
def test_train_then_show(place, capsys, kind, size, vocab_size):
    flags = ["--vocab-size", *size] if size else []
    names = ["--special_tokens.control", "<song> </song>", "--special_tokens.structure", "[verse]"]
    shown = succeeds(capsys, "train", "text.txt", "--kind", kind, *flags, *names, "--out", "tok")
    saved = tokenizers.load("tok")
    assert (saved.kind, saved.special_kinds["control"]) == (kind, ("<song>", "</song>"))
    assert saved.vocab_size == vocab_size or kind == "char"
    for fact in (saved.fingerprint, f"{saved.vocab_size:,} ids", f"[verse] {saved.token_id('[verse]')}"):
        assert fact in shown
        assert fact in succeeds(capsys, "show", "tok")

    text = "the <song> é€é"
    rows = dict(line.split(None, 1) for line in succeeds(capsys, "show", "tok", text).splitlines())
    assert rows["ids"].split() == [str(id) for id in saved.encode(text)]
    assert rows["pieces"] == "|".join(saved.piece(id) for id in saved.encode(text))
    found = json.loads(succeeds(capsys, "show", "tok", text, "--json"))["text"]
    assert found["ids"] == saved.encode(text)
    assert found["bytes_per_token"] == len(text.encode()) / len(found["ids"])
    if kind == "char":
        assert rows["unknown"] == "5 characters: 'é' x2, '<' x1, '>' x1, '€' x1"
        assert found["unknown"]["é"] == 2
        assert "not exact" in rows["round"]
    else:
        assert rows["unknown"] == "none"
        assert "exact" in rows["round"]
        assert found["round_trip"] is True


def test_show_reads_standard_input_and_text_with_a_dash(place, capsys, monkeypatch):
    import io

    succeeds(capsys, "train", "text.txt", "--out", "tok")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("brücke".encode())))
    assert json.loads(succeeds(capsys, "show", "tok", "-", "--json"))["text"]["bytes"] == 7
    assert "exact" in succeeds(capsys, "show", "tok", "--a dash")


def test_asking_for_more_than_the_text_gives_is_said(place, capsys):
    assert run(["tokenizer", "train", "text.txt", "--vocab-size", "5000", "--out", "tok"], 0.0) == 0
    said = capsys.readouterr().err
    assert f"gives {tokenizers.load('tok').vocab_size} ids, not the 5,000 asked for" in said


def test_sizes_that_are_left_out_go_by_kind():
    sizes = {kind: TokenizerConfig(kind=kind).learnt_vocab_size for kind in ("char", "bpe", "sentencepiece", "gpt2")}
    assert sizes == {"char": None, "bpe": 4096, "sentencepiece": 8000, "gpt2": None}
    assert TokenizerConfig(kind="sentencepiece", vocab_size=500).learnt_vocab_size == 500
    assert TokenizerConfig(kind="gpt2", vocab_size=500).learnt_vocab_size is None  # a recipe's, for another kind


def test_a_tokenizer_is_not_overwritten_by_mistake(place, capsys):
    command = ["tokenizer", "train", "text.txt", "--kind", "char", "--out", "tok"]
    succeeds(capsys, *command[1:])
    assert "--overwrite" in refused(capsys, *command)
    succeeds(capsys, *command[1:], "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "text.txt", "--kind", "word", "--out", "x"], "sentencepiece"),
        (["train", "txet.txt", "--out", "x"], "text.txt"),
        (["train", "text.txt", "--vocab-size", "1", "--out", "x"], "vocab_size"),
        (["train", "text.txt", "--vocab-size", "20", "--out", "x"], "at least 257"),
        (["train", "text.txt", "--special_tokens.control", "a", "--out", "x"], "'a' (control)"),
        (["train", "text.txt"], "--out"),
        (["show", "nowhere"], "nowhere"),
        (["show", "text.txt"], "text.txt"),
    ],
)
def test_mistakes_are_one_line(place, capsys, arguments, expected):
    line = refused(capsys, "tokenizer", *arguments)
    assert line.startswith("primegpt: ")
    assert expected in line
    assert not Path("x").exists()


def test_a_run_with_a_swapped_tokenizer_is_refused_with_both_fingerprints(place, capsys):
    """Another of the same kind, and one of another kind; in use, and on resume before any step is taken."""
    flags = ["--tokenizer.kind", "sentencepiece", "--tokenizer.vocab_size", "300", "--train.max_steps", "2"]
    assert run(["train", "text.txt", "--out", "run", *TINY, *flags, "--train.batch_size", "2"], 0.0) == 0
    capsys.readouterr()
    assert "sentencepiece" in succeeds(capsys, "show", "run")
    own = tokenizers.load("run")
    for kind in ("sentencepiece", "char"):
        other = tokenizers.train(kind, "another text, another tokenizer " * 50, own.vocab_size)
        shutil.rmtree("run/tokenizer")
        tokenizers.save(other, "run/tokenizer")
        for command in (["generate", "run", "the"], ["train", "--resume", "run"]):
            assert run(command, 0.0) == 2
            complaint = capsys.readouterr().err
            assert complaint.count("\n") == 1, "nothing was begun"
            assert own.fingerprint in complaint
            assert other.fingerprint in complaint
