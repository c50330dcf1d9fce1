"""What a run knows of its sessions, whatever has become of the file."""

import json
import platform
import sys
from datetime import datetime

import pytest

import primegpt
from primegpt.run.folder import RunFolder
from primegpt.run.sessions import add_session, own_command, sessions


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def test_each_session_is_a_line(folder):
    with folder.lock():
        add_session(folder, "2.13.0", "primegpt train my.txt")
        add_session(folder, "2.14.0", "primegpt train --resume runs/my-1")
    first, second = sessions(folder)
    assert first["command"] == "primegpt train my.txt"
    assert (second["command"], second["torch"]) == ("primegpt train --resume runs/my-1", "2.14.0")
    assert (first["primegpt"], first["python"]) == (primegpt.__version__, platform.python_version())
    assert datetime.fromisoformat(first["started"]).tzinfo is not None
    assert platform.machine() in first["machine"]


@pytest.mark.parametrize("damage", [b"", b"\xff\x00", b"[]\n{}\n", b'{"started": 1}\n', b'{"started": "x"'])
def test_damage_costs_no_more_than_its_lines(folder, damage):
    with folder.lock():
        add_session(folder, "2.13.0", "primegpt train")
        folder.sessions_path.write_bytes(damage + b"\n" + folder.sessions_path.read_bytes())
        add_session(folder, "2.13.0", "primegpt train --resume")
    assert [session["command"] for session in sessions(folder)] == ["primegpt train", "primegpt train --resume"]
    assert [json.loads(line)["command"] for line in folder.sessions_path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["/opt/venv/bin/primegpt", "train", "my text.txt"], "primegpt train 'my text.txt'"),
        (["/src/primegpt/__main__.py", "demo"], "primegpt demo"),
        (["elsewhere/mine.py", "3"], "mine.py 3"),
        ([""], "Python"),
    ],
)
def test_a_command_names_no_place_of_a_program(monkeypatch, typed, told):
    monkeypatch.setattr(sys, "argv", typed)
    assert own_command() == told


def test_an_overwritten_run_begins_its_sessions_anew(folder):
    folder.config_path.write_text("", encoding="utf-8")
    with folder.lock():
        add_session(folder, "2.13.0", "primegpt train")
    assert sessions(RunFolder.create(folder.path, overwrite=True)) == []
