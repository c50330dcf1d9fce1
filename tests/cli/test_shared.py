"""Tables: ruled and within the screen in a terminal, plain columns in a pipe; nothing in a cell is an order."""

import re
import sys

import pytest

from primegpt.cli.shared import show_table
from primegpt.terminal import Table

LONG = "songs-about-a-river-that-nobody-has-crossed-in-a-hundred-years"
RULED = Table(
    ("adherence", "own prompt", "others'", "lift", "95% interval"),
    [("words", "12.3%", "8.1%", "+0.042", "+0.010 … +0.074"), ("  real answers", "100.0%", "20.0%", "+0.800", "")],
    "left out: genre, emotion, theme, which can be judged of the songbook's songs alone, as they know of themselves",
)
NUMBERS = ("12.3%", "8.1%", "+0.042", "+0.010 … +0.074", "100.0%", "20.0%", "+0.800")


@pytest.fixture
def in_terminal(monkeypatch, capsys):
    """What a table looks like in a terminal of `width` columns, its colours left out."""

    def shown(table: Table, width: int) -> str:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        for name, value in {"COLUMNS": str(width), "TERM": "xterm-256color"}.items():
            monkeypatch.setenv(name, value)
        show_table(table)
        return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)

    return shown


@pytest.mark.parametrize("width", [80, 120])
def test_in_a_terminal_a_table_is_ruled_and_no_line_is_wider_than_the_screen(in_terminal, width):
    lines = in_terminal(RULED, width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert set(lines[1].strip()) == {"─"}
    assert all(any(number in line for line in lines) for number in NUMBERS)
    ends = {lines[at].index(word) + len(word) for at, word in ((0, "own prompt"), (2, "12.3%"), (3, "100.0%"))}
    assert len(ends) == 1
    assert " ".join(" ".join(lines[4:]).split()) == RULED.note  # wrapped, where it is too long


def test_words_give_way_to_numbers_and_nothing_is_left_out(in_terminal):
    wide = Table(("run", "steps", "loss"), [(LONG * 2, "1,000/1,000", "1.2345"), ("[red]b[/red]", "2", "3")])
    lines = in_terminal(wide, 60).splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert "1,000/1,000   1.2345" in lines[2]
    assert "".join(line.split()[0] for line in lines[2:-1]) == LONG * 2
    assert lines[-1].startswith("[red]b[/red]")


def test_a_terminal_is_not_ordered_about(in_terminal):
    hostile = Table(("run", "x"), [("a\x1b[2Jb", "1")], "c\x1b]0;d")
    assert r"a\x1b[2Jb" in in_terminal(hostile, 80)
    assert r"c\x1b]0;d" in in_terminal(hostile, 80)


def test_in_a_pipe_it_is_plain_and_as_wide_as_it_has_to_be(capsys):
    show_table(Table(("run", "steps", "what"), [(LONG, "9", "a\nb"), ("b", "1,000", "")], "note"))
    assert capsys.readouterr().out.splitlines() == [
        f"{'run':<{len(LONG)}}  steps  what",
        f"{LONG}      9  a\\nb",
        f"{'b':<{len(LONG)}}  1,000",
        "note",
    ]
