"""`primegpt bench`: tables or JSON on standard output, and what is wrong in one line."""

import json

import pytest

from primegpt.bench import decode
from primegpt.cli.main import run

SMALL = ["--shape.n_layer", "1", "--shape.n_head", "1", "--shape.n_embd", "16", "--shape.block_size", "16"]
SMALL += ["--shape.vocab_size", "300", "--prompt", "4", "--tokens", "4", "--turns", "1", "--threads", "1"]


@pytest.fixture(autouse=True)
def small_and_alone(monkeypatch):
    monkeypatch.setattr(decode, "read_bandwidth", lambda *_, **__: 1e10)
    monkeypatch.setattr(decode, "missing", lambda module: f"no {module} here")


def test_tables_and_json(capsys):
    command = ["bench", "decode", "--streams", "1,2", "--precisions", "fp32", *SMALL]
    assert run(command, 0.0) == 0
    out, err = capsys.readouterr()
    assert out.count("| primegpt | ") == 4
    assert "| Transformers | absent: no transformers here | | | |" in out
    assert "turn 1 of 1: primegpt" in err
    assert run([*command, "--json"], 0.0) == 0
    found = json.loads(capsys.readouterr().out)
    assert [comparison["unit"] for comparison in found] == ["tok/s prefill", "tok/s decoded"] * 2
    assert found[1]["results"][0]["limit"] > 0
    assert found[1]["medians"]["primegpt"] == found[1]["results"][0]["rates"][0]
    assert run([*command, "--alone", "--cold"], 0.0) == 0
    out, _ = capsys.readouterr()
    assert out.count("| primegpt") == 5
    assert "Transformers" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decode", "--streams", "1;16"], "--streams 1;16: not whole numbers"),
        (["decode", "--precisions", "fp23"], "did you mean 'fp32'?"),
        (["decode", "runs/x", "--shape.n_layer", "2"], "--shape is for random weights"),
        (["train", "--nanogpt", "nowhere"], "--nanogpt nowhere: no train.py is there"),
        (["train", "nowhere.txt"], "nowhere.txt"),
        (["decode", "--threads", "-1"], "--threads -1: at least one"),
        (["decode", *SMALL[:-4], "--turns", "0"], "--turns 0: at least one"),
        (["decode", "--shape.n_layers", "1"], "did you mean 'n_layer'?"),
        (["decode", "--shape.vocab_size", "100"], "vocab_size = 100 cannot be made up"),
        (["decode", "nowhere"], "nowhere"),
        (["cost", "--widths", "64;128"], "--widths 64;128: not whole numbers"),
        (["cost", "--contexts", "100"], "a context of 100 does not divide the 2048 tokens of a step"),
        (["cost", "--widths", "33"], "33"),
        (["cost", "--threads", "0"], "--threads 0: this process may use 1 to"),
        (["cost", "--data", "0"], "--data 0: at least one megabyte"),
        (["cost", "--turns", "0"], "--turns 0: at least one"),
        (["cost", "--plot", "nowhere/cost.png"], "not a .png file in a folder that exists"),
        (["cost", "--plot", "cost.svg"], "not a .png file"),
        (["resume", "--shape.n_head", "5"], "not divisible by model.n_head = 5"),
        (["train", "--configurations", "huge"], "'huge' is not one"),
        (["all", "--only", "smal"], "did you mean 'small'?"),
        (["all", "--against", "nowhere"], "--against nowhere: no src/primegpt is there"),
        (["compare", "a.json", "b.json"], "a.json"),
    ],
)
def test_wrong_requests_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["bench", *arguments], 0.0) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("primegpt: ")]
    assert len(lines) == 1
    assert message in lines[0]
