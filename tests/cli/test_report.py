"""`primegpt report`: what is printed, where the page goes, and what a wrong folder is told."""

import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from primegpt.cli.main import run

TINY = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "16"]
TINY += ["--train.attention", "sdpa"]
TINY += [
    "--train.max_steps",
    "4",
    "--train.threads",
    "1",
    "--train.precision",
    "fp32",
    "--generate.max_new_tokens",
    "8",
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 400, encoding="utf-8")
    return tmp_path


def test_a_run_that_was_really_trained(place, capsys):
    assert run(["train", "text.txt", *TINY, "--train.tensorboard"], 0.0) == 0
    events = EventAccumulator("runs/text-1/tensorboard").Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("final/val/loss")] == [4]
    capsys.readouterr()
    assert run(["report"], 0.0) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(Path("runs", "text-1", "report.html"))
    assert printed.err == ""
    page = Path(printed.out.strip()).read_text(encoding="utf-8")
    for section in ("results", "curves", "samples", "model", "text", "tokenizer", "plan", "configuration"):
        assert f'<section id="{section}">' in page
    assert "text-1" in page
    assert "of all 64-byte spans" in page  # the audit
    assert run(["report", "runs/text-1", "runs/text-1", "--out", "both.html"], 0.0) == 0
    assert capsys.readouterr().out == "both.html\n"
    assert Path("both.html").is_file()
    assert not Path("runs", "report.html").exists()


@pytest.mark.parametrize("arguments", [["text.txt"], ["nowhere"], ["."], []])
def test_no_run_is_one_line_and_nothing_is_written(place, capsys, arguments):
    before = set(place.rglob("*"))
    assert run(["report", *arguments], 0.0) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("primegpt: ")
    assert captured.err.count("\n") == 1
    assert set(place.rglob("*")) == before


def test_a_report_needs_no_torch():
    """It is asked for again and again while a run trains, so it must not wait seconds for what it does not use."""
    code = "import sys, primegpt.api.reports; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
