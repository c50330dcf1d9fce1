"""Long help pages are divided; a flag by the name that others give it leads to ours."""

import pytest

from primegpt.cli.main import run


def page(capsys, *words: str) -> str:
    assert run([*words, "--help"], 0.0) == 0
    return capsys.readouterr().out


def test_help_of_train_begins_with_what_most_want(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = page(capsys, "train")
    titles = [line.strip("╭╮─ ") for line in shown.splitlines() if line.startswith("╭")]
    assert titles == [
        "Arguments",
        "Common",
        "Further",
        "The network",
        "The tokenizer",
        "The text",
        "Training",
        "Generation",
    ]
    common = shown.partition("Common")[2].partition("╰")[0]
    flags = [line.split()[1] for line in common.splitlines() if line.startswith("│ --")]
    assert 8 <= len(flags) <= 12
    assert flags[:3] == ["--out", "--resume", "--minutes"]
    assert shown.count("--train.learning-rate ") == 1  # nothing twice, nothing lost
    assert "--train.seed" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_short_page_is_not_divided(capsys):
    assert "Common" not in page(capsys, "report")


@pytest.mark.parametrize(
    ("command", "flag", "meant"),
    [
        ("train", "--lr", "--train.learning-rate"),
        ("train", "--lr=3e-4", "--train.learning-rate"),
        ("train", "--bs", "--train.batch-size"),
        ("train", "--batch_size", "--train.batch-size"),
        ("train", "--ctx", "--model.block-size"),
        ("train", "--vocab", "--tokenizer.vocab-size"),
        ("finetune", "--num-epochs", "--epochs"),
        ("train", "--train.tensorboard", "--train.track"),
        ("train", "--report-to", "--train.track"),
        ("train", "--trackio", "--train.track"),
        ("finetune", "--dropout", "--model.dropout"),
        ("generate", "--temp", "--temperature"),
        ("generate", "--max-tokens", "--max-new-tokens"),
    ],
)
def test_what_others_call_a_setting_is_understood(capsys, command, flag, meant):
    value = [] if "=" in flag else ["1"]
    assert run([command, "x", flag, *value], 0.0) == 2
    assert f"unknown option: {flag.partition('=')[0]}. Did you mean {meant}?" in capsys.readouterr().err


def test_a_setting_that_a_command_has_not_is_not_suggested(capsys):
    assert run(["generate", "--lr", "1"], 0.0) == 2
    assert "learning-rate" not in capsys.readouterr().err
