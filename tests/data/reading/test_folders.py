"""Which files a folder or a pattern stands for: each once, whatever links there are, and what is left out is said."""

import ast
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from primegpt.data.reading.sources import read_documents, source_bytes
from primegpt.errors import DataError

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    return folder


def read(*sources: str | Path) -> list[str]:
    return [document.text for document in read_documents([str(source) for source in sources], songs=1)]


def remarks(*sources: str | Path) -> list[str]:
    said = list[str]()
    list(read_documents([str(source) for source in sources], songs=1, say=said.append))
    return said


def refusal(*sources: str | Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        list(read_documents([str(source) for source in sources], songs=1, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- links


@needs_links
@pytest.mark.parametrize("pattern", ["", "**/*.txt", "**", "**/**/*", "a/**/*.txt", "**/a/**/*.txt", "*/**/*.txt"])
def test_links_in_circles_give_each_file_once(tmp_path, pattern):
    """With two of them glob's own `**` has 2 ** 40 ways to go."""
    filled(tmp_path, "top.txt", "a/x.txt", "a/b/y.txt")
    for name in ("loop", "a/loop", "a/b/up", "a/b/again"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    found = read(f"{tmp_path}/{pattern}")
    expected = ["a/b/y.txt", "a/x.txt", "top.txt"]
    assert len(set(found)) == len(found)
    assert set(found) <= set(expected)
    assert {"a/x.txt", "a/b/y.txt"} <= set(found)


@needs_links
def test_linked_folders_are_entered_and_linked_files_read_once(tmp_path):
    filled(tmp_path, "elsewhere/a.txt", "here/b.txt", "here/c.txt")
    (tmp_path / "here" / "aaa").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "again.txt").symlink_to(tmp_path / "here" / "b.txt")
    (tmp_path / "here" / "broken.txt").symlink_to(tmp_path / "nowhere")
    expected = ["elsewhere/a.txt", "here/b.txt", "here/c.txt"]
    assert read(tmp_path / "here") == expected
    assert read(tmp_path / "here" / "**" / "*.txt") == expected
    assert source_bytes([str(tmp_path / "here")], songs=1) == sum(map(len, expected))


def test_a_folder_that_may_not_be_entered_is_named(tmp_path, monkeypatch):
    """By a stand-in: permissions do not stop root."""
    filled(tmp_path, "a.txt", "locked/b.txt")
    scandir = os.scandir

    def denied(place: str):
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr("primegpt.data.reading.folders.os.scandir", denied)
    assert f"{tmp_path / 'locked'} cannot be reached: Permission denied" in refusal(tmp_path)


def test_names_with_the_signs_of_patterns(tmp_path):
    filled(tmp_path, "odd [1]/a.txt", "odd [1]/deep [2]/b.txt", "odd 1/c.txt")
    assert read(tmp_path / "odd [1]") == ["odd [1]/a.txt", "odd [1]/deep [2]/b.txt"]


def test_a_file_that_several_sources_name_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(filled(tmp_path, "a.txt", "b.txt", "c.txt"))
    assert read("a.txt", "*.txt") == ["a.txt", "a.txt", "b.txt", "c.txt"]
    assert remarks("a.txt", "*.txt") == ["a.txt is named by several sources, and learnt from each time"]
    assert remarks(".", "[ab].txt", "./a.txt") == [
        "a.txt (and 1 more) is named by several sources, and learnt from each time"
    ]
    assert remarks("a.txt", "b.txt") == []


# ---- what is left out


def test_text_is_what_people_write_to_be_read(tmp_path):
    names = ["a.txt", "b.md", "c.rst", "d.tex", "e.org", "f.TXT", "g.markdown", "h.adoc", "i.text"]
    assert read(filled(tmp_path, *names, "page.html", "settings.json", "code.py")) == names


def test_files_that_are_left_out_are_counted_by_their_endings(tmp_path):
    filled(tmp_path, "README.md", *(f"code/{n}.py" for n in range(12)), "code/a.c", "code/b.c", "Makefile", ".git/x")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    (tmp_path / "paper.txt").write_bytes(b"%PDF-1.4 (text) Tj")
    (tmp_path / "wide.txt").write_bytes("Hello to you\n".encode("utf-16-le"))
    (said,) = remarks(tmp_path)
    assert said == (
        f"{tmp_path}: 18 of 19 files left out: 12 .py, 2 .c, 1 without an ending, 1 .png, "
        f"1 .txt that is a PDF document and 1 more; to take these too, name '{tmp_path}/**/*.py' '{tmp_path}/**/*.c'"
    )
    assert len(read(tmp_path / "**" / "*.py")) == 12


def test_a_folder_of_nothing_but_other_files_names_the_pattern(tmp_path):
    filled(tmp_path, *(f"{n}.py" for n in range(3)), "b.json")
    assert refusal(tmp_path) == (
        f"{tmp_path}: no text in this folder (.txt, .md, .jsonl, .csv, .parquet, .gz of them); 4 of 4 files left out: "
        f"3 .py, 1 .json; to take these too, name '{tmp_path}/**/*.py' '{tmp_path}/**/*.json'"
    )


def test_the_pattern_that_is_named_is_one_of_that_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(filled(tmp_path, "odd [1]/a.py", "odd [1]/b.py", "odd 1/c.py"))
    *_, pattern = refusal("odd [1]").split("name ")
    assert read(ast.literal_eval(pattern)) == ["odd [1]/a.py", "odd [1]/b.py"]


def test_a_pattern_leaves_out_what_is_no_text(tmp_path):
    filled(tmp_path, "a.py", "b.py")
    (tmp_path / "c.py").write_bytes(b"\x7fELF\2\1\1" + bytes(60))
    assert read(tmp_path / "*") == ["a.py", "b.py"]
    assert remarks(tmp_path / "*") == [f"{tmp_path}/*: 1 of 3 files left out: 1 .py that is a program"]
    assert "no text in what matches; 1 of 1 files left out: 1 .py that is a program" in refusal(tmp_path / "c*")


# ---- what is no file


@needs_pipes
def test_special_files_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as open_socket:
        open_socket.bind("socket")
        for name, what in {
            "pipe": "a named pipe",
            "socket": "a socket",
            "/dev/zero": "a device",
            "/dev/null": "a device",
        }.items():
            assert f"{name} is {what}, no file; name a file, or give its text to standard input" in refusal(name)
        (tmp_path / "a.txt").write_text("text", encoding="utf-8")
        os.mkfifo("b.txt")
        assert read(tmp_path) == ["text"]


def test_names_that_are_no_text(tmp_path):
    assert "the name 'caf\\udce9.txt' is not UTF-8; rename it" in refusal("caf\udce9.txt")
    assert "a\\x00b does not exist" in refusal("a\0b")
    if sys.platform == "linux":
        (tmp_path / "caf\udce9.txt").write_text("text", encoding="utf-8")
        (tmp_path / "na\x1b[31mme.txt").write_bytes(b"\xff")
        (tmp_path / "other").mkdir()
        assert r"na\x1b[31mme.txt is not UTF-8" in refusal(tmp_path)
        (tmp_path / "na\x1b[31mme.txt").unlink()
        assert read(tmp_path) == ["text"]
        assert refusal(tmp_path / "caf\udce9.txt").isprintable()


# ---- fields of plain text


def test_a_field_is_refused_where_nothing_has_fields(tmp_path):
    filled(tmp_path, "a.txt")
    expected = f"data.text_field = 'lyrics': {tmp_path / 'a.txt'} is plain text, without fields"
    assert expected in refusal(tmp_path / "a.txt", text_field="lyrics")
    assert "standard input is plain text" in refusal("-", text_field="lyrics")
    (tmp_path / "b.jsonl").write_text('{"lyrics": "la"}', encoding="utf-8")
    documents = read_documents([str(tmp_path)], songs=1, text_field="lyrics")
    assert [document.text for document in documents] == ["a.txt", "la"]
    titles = [document.text for document in read_documents(["songbook"], songs=3, text_field="title")]
    assert len(titles) == 3
    assert all("\n" not in title for title in titles)
    assert "there is no field 'titel', only 'prompt'" in refusal("songbook", text_field="titel")
    shutil.rmtree(tmp_path)
