"""`primegpt --install-completion`, as a shell that reads what it wrote completes."""

import shutil
import subprocess

import pytest
from cyclopts import App

from primegpt.cli.main import run

ASK = """\
. "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _primegpt; echo "${COMPREPLY[*]}"
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="a test of bash")
def test_bash_completes_commands_flags_and_values(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(["--install-completion", "bash"], 0.0) == 0
    script = tmp_path / ".local/share/bash-completion/completions/primegpt"
    assert capsys.readouterr().out == f"{script}\nopen a new shell: it completes what begins with primegpt\n"
    assert str(script) in (tmp_path / ".bashrc").read_text(encoding="utf-8")

    def completed(*words: str) -> list[str]:
        command = ["bash", "-c", ASK, "bash", str(script), "primegpt", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert completed("tr") == ["train", "trust"]
    assert completed("train", "--train.max") == ["--train.max-steps"]
    assert completed("train", "--train.track", "") == ["wandb", "trackio", "tensorboard", "mlflow"]
    assert completed("data", "f") == ["fetch"]


def test_a_shell_that_there_is_no_script_for_is_one_line_with_those_there_are(monkeypatch, capsys):
    def refuse(app: App, shell: str) -> None:
        raise ValueError(f"Unsupported shell: {shell}")  # as earlier versions of Cyclopts do

    monkeypatch.setattr(App, "install_completion", refuse)
    assert run(["--install-completion", "powershell"], 0.0) == 2
    said = "primegpt: Unsupported shell: powershell; name another: bash, zsh, fish or powershell\n"
    assert capsys.readouterr().err == said


def test_a_home_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "home").write_text("a file", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run(["--install-completion", "fish"], 0.0) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"primegpt: {tmp_path}/home/")
    assert said.count("\n") == 1
