"""Documents from every kind of source, byte for byte, and what a user is told when a source is no good."""

import gzip
import hashlib
import io
import itertools
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt.data.preparing.survey import survey
from primegpt.data.reading import formats, sources
from primegpt.data.reading.sources import Document, read_documents, source_bytes, split_at_byte, utf8_size
from primegpt.errors import DataError


def read(*sources: str | Path, songs: int = 3) -> list[Document]:
    return list(read_documents([str(source) for source in sources], songs=songs))


def refusal(*sources: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        read(*sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.txt", "README.md", "noextension", "poem.lyrics", "odd [1]*.txt"])
def test_a_file_is_one_document_kept_as_it_is(tmp_path, name):
    if sys.platform == "win32" and "*" in name:
        pytest.skip("no such name on Windows")
    text = "  Zeile 1\r\nline 2\rläuft\x00\u200b e\u0301 \t\n\n"
    (tmp_path / name).write_bytes(text.encode())
    assert read(tmp_path / name) == [Document(text, str(tmp_path / name))]


def test_only_a_byte_order_mark_at_the_start_is_dropped(tmp_path):
    path = tmp_path / "bom.txt"
    path.write_bytes("\ufeffone \ufefftwo\ufeff".encode())
    assert read(path)[0].text == "one \ufefftwo\ufeff"


def test_a_folder_is_its_text_files_sorted(tmp_path):
    hidden = ("._a.txt", ".ipynb_checkpoints/a.txt", "a/.cache/b.jsonl")
    for name in ("b.txt", "a/z.txt", "a/deep/er.txt", "a.txt", "a/notes.md", "B.txt", "x.gz", *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "b.jsonl"}', encoding="utf-8")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"text\nc.csv.gz"))
    expected = ["B.txt", "a/deep/er.txt", "a/notes.md", "a/z.txt", "a.txt", "b.jsonl", "b.txt", "c.csv.gz"]
    assert [document.text for document in read(tmp_path)] == expected


def test_globs_and_several_sources_in_the_order_given(tmp_path):
    for name in ("b.txt", "a.txt", "c.md", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "folder.txt").mkdir()  # matched, but no file
    assert [document.text for document in read(tmp_path / "*.txt")] == ["a.txt", "b.txt"]
    found = [document.text for document in read(tmp_path / "c.md", tmp_path / "**" / "*.txt")]
    assert found == ["c.md", "a.txt", "b.txt", "sub/d.txt"]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    """The shell expands it on the command line, but nobody does in a configuration file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "a.txt").write_text("home", encoding="utf-8")
    assert [document.text for document in read("~/a.txt", "~/*.txt")] == ["home", "home"]


def test_whitespace_only_documents_are_skipped_in_company_and_refused_alone(tmp_path):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "b.txt").write_text(" \n\u3000\t", encoding="utf-8")
    (tmp_path / "c.txt").touch()
    assert [document.text for document in read(tmp_path)] == ["text"]
    for name in ("b.txt", "c.txt"):
        assert f"{name} is empty" in refusal(tmp_path / name)


def joined(documents: list[Document]) -> list[str]:
    """Each text, its parts put together."""
    texts = list[str]()
    for document in documents:
        if document.continues:
            texts[-1] += document.text
        else:
            texts.append(document.text)
    return texts


@pytest.mark.parametrize("blank", [" ", "\n", " \r\n\t", "\u3000"])
def test_whitespace_longer_than_a_part_stays_where_it_is(tmp_path, monkeypatch, blank):
    """At the beginning, in the middle or at the end, alone or after another text: each text once, and whole."""
    monkeypatch.setattr(formats, "PART", 16)
    blank *= 50
    texts = ["one\n", f"{blank}two", f"th{blank}ree", f"four{blank}", f"{blank}fi{blank}ve{blank}", blank]
    for first, second in itertools.permutations(texts, 2):
        (tmp_path / "0.txt").write_bytes(first.encode())
        (tmp_path / "1.txt").write_bytes(second.encode())
        assert joined(read(tmp_path)) == [text for text in (first, second) if text != blank]
        for name, text in (("0.txt", first), ("1.txt", second)):
            if text == blank:
                assert "is empty: it holds no text but whitespace" in refusal(tmp_path / name)
            else:
                assert joined(read(tmp_path / name)) == [text]


def test_whitespace_is_not_held_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "PART", 16)
    monkeypatch.setattr(sources, "MOST_BLANK", 40)
    (tmp_path / "a.txt").write_text(" " * 60 + "a", encoding="utf-8")
    assert "a.txt begins with more than 40 characters of whitespace; cut them off" in refusal(tmp_path / "a.txt")


def remarks(*sources: str | Path) -> list[str]:
    said = list[str]()
    list(read_documents([str(source) for source in sources], songs=1, say=said.append))
    return said


def test_empty_documents_are_counted(tmp_path):
    records = ['{"text": "a"}', '{"text": ""}', '{"text": null}', '{"text": "b"}', '{"text": " "}']
    (tmp_path / "a.jsonl").write_text("\n".join(records), encoding="utf-8")
    (tmp_path / "b.txt").touch()
    assert remarks(tmp_path / "a.jsonl") == [f"{tmp_path / 'a.jsonl'}: 3 of 5 documents are empty, and left out"]
    assert remarks(tmp_path) == [f"{tmp_path}: 4 of 6 documents are empty, and left out"]
    (tmp_path / "c.txt").write_text("text", encoding="utf-8")
    assert remarks(tmp_path / "c.txt") == []


@pytest.mark.parametrize(
    ("text", "is_json"),
    [
        ('{"text": "a"}\n{"text": "b"}\n', True),
        ('\ufeff\n[\n {"text": "a"},\n {"text": "b"}]', True),
        ("{ braces }", False),
        ("[Verse 1]\nla", False),
        ("[1, 2]", False),
        ("{" * 100_000, False),
        ('say {"a": 1}', False),
    ],
)
def test_json_that_is_learnt_as_plain_text_is_said(tmp_path, monkeypatch, text, is_json):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    expected = (
        "looks like JSON, and is learnt as plain text, braces and all: to read its fields, name it .jsonl or .json"
    )
    assert remarks(tmp_path / "a.txt") == ([f"{tmp_path / 'a.txt'} {expected}"] if is_json else [])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="ascii"))
    assert remarks("-") == ([f"standard input {expected}"] if is_json else [])


def test_standard_input_is_read_from_where_it_stands(monkeypatch):
    """As after a shell's `read`, which has taken the first line of a file."""
    stream = io.BytesIO(b"header\nthe text")
    stream.seek(len(b"header\n"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream, encoding="ascii"))
    assert read("-") == [Document("the text", "standard input")]


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("häppy\r\n".encode()), encoding="ascii"))
    assert read("-") == [Document("häppy\r\n", "standard input")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\xff"), encoding="ascii"))
    assert "standard input is not UTF-8: byte 0xff at offset 3; save it as UTF-8" in refusal("-")


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"\xe9t\xe9", "byte 0xe9 at offset 0"),  # Latin-1
        ("é".encode() * 5 + b"\xc3", "byte 0xc3 at offset 10"),  # cut inside a character
        (b"\xef\xbb\xbfabc\x80", "byte 0x80 at offset 6"),  # counted in the file, mark included
        (b"a" * 3_000_000 + b"\xed\xa0\x80", "byte 0xed at offset 3000000"),  # a lone surrogate
    ],
)
def test_invalid_utf8_names_the_file_and_the_byte(tmp_path, data, where):
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    message = refusal(path)
    assert f"{path} is not UTF-8: {where}; save it as UTF-8" in message


def test_a_missing_file_suggests_its_nearest_neighbour(tmp_path, monkeypatch):
    (tmp_path / "shakespeare.txt").touch()
    wanted = tmp_path / "shakespear.txt"
    assert refusal(wanted) == f"{wanted} does not exist; did you mean {str(tmp_path / 'shakespeare.txt')!r}?"
    assert "check the path" in refusal(tmp_path / "qqq")
    assert f"there is no folder {tmp_path / 'nowhere'} either" in refusal(tmp_path / "nowhere" / "a.txt")
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'songbook'?" in refusal("songbok")
    assert "does not exist" in refusal("~nobody-of-this-name")


def test_what_else_cannot_be_read(tmp_path, monkeypatch):
    assert "no text in this folder" in refusal(tmp_path)
    assert "no file matches" in refusal(tmp_path / "*.txt")
    assert "no text was given" in refusal()
    assert "cannot be reached: File name too long" in refusal("x" * 5000)
    (tmp_path / "secret.txt").write_text("text", encoding="utf-8")

    def denied(path: Path, mode: str) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    assert f"{tmp_path / 'secret.txt'} cannot be read: Permission denied" in refusal(tmp_path / "secret.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_process_substitution(tmp_path):
    """`primegpt train <(zcat text.gz)` names a pipe, which is no regular file."""
    source, target = os.pipe()
    os.write(target, b"piped")
    os.close(target)
    assert source_bytes([f"/dev/fd/{source}"], songs=1) is None
    assert [document.text for document in read(f"/dev/fd/{source}")] == ["piped"]
    os.close(source)


SONG_FIELDS = {"prompt": "a sad song", "genre": "pop", "emotion": "sad", "title": "Rain", "lyrics": "[verse]\nRain"}


@pytest.fixture
def fake_songbook(monkeypatch):
    """Songs of 10 to 19 bytes that say which they are."""
    module = ModuleType("songbook")
    module.songbook = lambda songs, seed, alignment: (
        SimpleNamespace(text=f"{seed} {alignment} {index:03d}\n" + "x" * (index % 10), **SONG_FIELDS)
        for index in range(songs)
    )
    monkeypatch.setitem(sys.modules, "primegpt.data.songbook", module)


def test_songs_are_documents_of_their_own_whatever_the_run(fake_songbook):
    assert read("songbook", songs=2) == [
        Document("0 1.0 000\n", "songbook", SONG_FIELDS, "songbook, song 1"),
        Document("0 1.0 001\nx", "songbook", SONG_FIELDS, "songbook, song 2"),
    ]


def test_the_size_of_a_songbook_is_told_from_a_few_songs(fake_songbook):
    assert source_bytes(["songbook"], songs=1000) == 14_500
    assert source_bytes(["songbook"], songs=2) == 21


def test_the_songbook_can_be_read_as_text_and_as_records():
    (song, _), (record, _) = read("songbook", songs=2), list(read_documents(["songbook"], songs=2, text_field=None))
    assert record.text == ""
    assert record.fields == song.fields
    assert set(record.fields) == {"prompt", "genre", "emotion", "title", "lyrics"}
    assert song.text == f"{record.fields['prompt']}\n\n{record.fields['lyrics']}"


def test_the_size_of_sources_is_known_before_they_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes("é!".encode())
    (tmp_path / "b.txt").write_bytes(b"1234")
    folder = str(tmp_path)
    assert source_bytes([folder], songs=1) == 7
    assert source_bytes([folder, str(tmp_path / "b*")], songs=1) == 11
    assert source_bytes([folder, "-"], songs=1) is None
    assert source_bytes([], songs=1) == 0
    assert source_bytes(["hf:any/thing"], songs=1) is None
    with pytest.raises(DataError, match="does not exist"):
        source_bytes([str(tmp_path / "c.txt")], songs=1)


def test_fingerprint_is_of_contents_in_order():
    def fingerprint(*texts: str) -> str:
        documents = [Document(text, f"{index}.txt") for index, text in enumerate(texts)]
        return survey(documents).fingerprint

    expected = hashlib.sha256("é!".encode() + (3).to_bytes(8, "little") + b"b" + (1).to_bytes(8, "little"))
    assert fingerprint("é!", "b") == expected.hexdigest()
    assert fingerprint("a" * 3_000_000) == fingerprint("a" * 3_000_000)
    cases = [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), ("ab", "C"), ("ab", "c\n")]
    assert len({fingerprint(*texts) for texts in cases}) == len(cases)


TEXT = st.text(st.sampled_from("aé漢🎵\u0301"), max_size=40)


@given(text=TEXT, share=st.floats(0, 1))
def test_a_cut_at_a_byte_moves_to_the_end_of_the_character(text, share):
    data = text.encode()
    offset = int(len(data) * share)
    before, after = split_at_byte(text, offset)
    assert before + after == text
    assert 0 <= len(before.encode()) - offset < 4
    assert before == "" or len(before[:-1].encode()) < offset  # no later than needed
    assert utf8_size(text) == len(data)


def test_cuts_in_long_text():
    text = "é🎵x" * 700_000
    for offset in (0, 1, 2_097_151, 2_450_000, 4_899_999, 4_900_000):
        before, after = split_at_byte(text, offset)
        assert before + after == text
        assert 0 <= utf8_size(before) - offset < 4


@pytest.mark.reliability
@pytest.mark.parametrize(("text", "times"), [("a", 2.2), ("я", 2.2), ("漢", 2.2), ("a" * 99 + "’", 3.2)])
def test_reading_takes_little_more_memory_than_the_text(tmp_path, peak_memory, text, times):
    """Beside the text as Python holds it (1 or 2 bytes a character here) there may be the file's bytes, no more."""
    script = """if True:
    from primegpt.data.reading.sources import read_documents
    from primegpt.data.preparing.survey import survey
    survey(read_documents([sys.argv[1]], songs=1))"""
    peaks = []
    for name, size in (("small.txt", 1_000), ("large.txt", 20_000_000)):
        (tmp_path / name).write_text(text * (size // len(text)), encoding="utf-8")
        peaks.append(peak_memory(script, str(tmp_path / name))[1])
    assert peaks[1] - peaks[0] < times * (tmp_path / "large.txt").stat().st_size + 4e6
