"""`primegpt report` on a run that was really trained, and what that run says of itself."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from primegpt.cli.main import run

TINY = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "16"]
TINY += ["--train.max_steps", "4", "--train.eval_interval", "2", "--train.threads", "1", "--train.precision", "fp32"]
TINY += ["--train.attention", "sdpa", "--train.track", "tensorboard", "--generate.max_new_tokens", "8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a text and a run."""
    place = tmp_path_factory.mktemp("place")
    (place / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 400, encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(place)
        monkeypatch.setenv("PRIMEGPT_CACHE", str(place / "cache"))
        assert run(["train", "text.txt", *TINY], 0.0) == 0
    return place


@pytest.fixture
def place(trained, monkeypatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def test_the_latest_run_gets_a_page_with_every_section(place, capsys):
    assert run(["report"], 0.0) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(Path("runs", "text-1", "report.html"))
    assert printed.err == ""
    page = Path(printed.out.strip()).read_text(encoding="utf-8")
    for section in ("results", "curves", "samples", "model", "text", "tokenizer", "plan", "configuration"):
        assert f'<section id="{section}">' in page
    assert "of all 64-byte spans" in page  # the audit
    assert page.count("<figure") == 5  # loss, learning rate, gradient norm, speed, memory


def test_several_runs_get_a_page_where_it_is_asked_for(place, capsys):
    assert run(["report", "runs/text-1", "runs/text-1", "--out", "both.html"], 0.0) == 0
    assert capsys.readouterr().out == "both.html\n"
    assert Path("both.html").is_file()
    assert not Path("runs", "report.html").exists()


@pytest.mark.parametrize("arguments", [["text.txt"], ["nowhere"], ["."], ["runs/text-1", "nowhere"]])
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
    code = "import sys, primegpt.jobs.listing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_metrics_hold_every_key_that_is_promised(place):
    lines = [json.loads(line) for line in Path("runs/text-1/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    clock = {"step", "tokens", "seconds"}
    steps = [line for line in lines if "train/loss" in line]
    evaluations = [line for line in lines if "val/loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert [line["step"] for line in evaluations] == [0, 2, 4]
    for line in steps:
        assert set(line) == clock | {"train/loss", "lr", "grad_norm", "tokens_per_sec", "mfu", "memory_mb"}
        assert all(math.isfinite(value) and value >= 0 for value in line.values())
        assert line["tokens_per_sec"] > 0
    for line in evaluations:
        assert set(line) == clock | {"train/eval_loss", "val/loss", "val/perplexity", "val/bits_per_byte"}
        assert line["val/perplexity"] == pytest.approx(math.exp(line["val/loss"]))
        assert line["val/bits_per_byte"] == pytest.approx(line["val/loss"] / math.log(2))  # a character is a byte here


@pytest.mark.parametrize("resumed", [False, True])
def test_tensorboard_has_the_same_lines(place, tmp_path, resumed):
    shutil.copytree("runs/text-1", tmp_path / "run")
    if resumed:
        shutil.rmtree(tmp_path / "run" / "tensorboard")
        assert run(["train", "--resume", str(tmp_path / "run")], 0.0) == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("val/bits_per_byte")] == [0, 2, 4]
    assert [event.step for event in events.Scalars("final/val/loss")] == [4]
