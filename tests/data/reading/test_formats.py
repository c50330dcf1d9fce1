"""Every kind of file as documents and records, and the one line that each kind of damage gives."""

import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from primegpt.data.reading.formats import parse_dataset, read_file
from primegpt.data.reading.records import Reading
from primegpt.data.reading.sources import Document, read_documents, source_bytes
from primegpt.errors import DataError

RECORDS = [{"text": 'One\r\n two, "three"', "n": "1"}, {"text": "漢字 🎵\x00", "n": ";"}, {"text": "plain", "n": ""}]


def zipped(data: bytes) -> bytes:
    """The same bytes at any time: they are part of the names of tests."""
    return gzip.compress(data, mtime=0)


def read(path: Path, text_field: str | None = "text") -> list[Document]:
    return list(read_documents([str(path)], songs=1, text_field=text_field))


def refusal(path: Path | str, text_field: str | None = "text") -> str:
    with pytest.raises(DataError) as caught:
        read(path, text_field)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_jsonl(records: list[dict]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def as_csv(records: list[dict], **options: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(records[0]), **options)
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def as_parquet(records: list[dict]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(records), file)
    return file.getvalue()


KINDS: dict[str, Callable[[list[dict]], bytes]] = {
    "a.jsonl": as_jsonl,
    "a.NDJSON": as_jsonl,
    "a.csv": as_csv,
    "semicolons.csv": lambda records: as_csv(records, delimiter=";"),
    "a.tsv": lambda records: as_csv(records, delimiter="\t"),
    "a.parquet": as_parquet,
    "a.jsonl.gz": lambda records: zipped(as_jsonl(records)),
    "a.csv.gz": lambda records: zipped(as_csv(records)),
    "bom.csv": lambda records: b"\xef\xbb\xbf" + as_csv(records),
    "bom.jsonl": lambda records: b"\xef\xbb\xbf" + as_jsonl(records),
}


@pytest.mark.parametrize("name", KINDS)
def test_records_of_every_kind_are_kept_as_they_are(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(KINDS[name](RECORDS))
    documents = read(path)
    assert [document.text for document in documents] == [record["text"] for record in RECORDS]
    assert [document.fields for document in documents] == RECORDS
    assert {document.source for document in documents} == {str(path)}
    records = read(path, text_field=None)
    assert [document.fields for document in records] == RECORDS
    assert {document.text for document in records} == {""}
    assert [document.text for document in read(path, text_field="n")] == ["1", ";"]  # the empty one is no document


def test_the_place_of_a_record_is_where_it_begins(tmp_path):
    for name, places in {"a.jsonl": (1, 2, 3), "a.csv": (2, 4, 5), "a.parquet": (1, 2, 3)}.items():
        (tmp_path / name).write_bytes(KINDS[name](RECORDS))
        unit = "row" if name == "a.parquet" else "line"
        found = [document.place for document in read(tmp_path / name)]
        assert found == [f"{tmp_path / name}, {unit} {place}" for place in places]


def test_gzipped_text_is_one_document(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(zipped(b"\xef\xbb\xbfone\r\ntwo"))
    assert read(tmp_path / "a.txt.gz") == [Document("one\r\ntwo", str(tmp_path / "a.txt.gz"))]
    assert source_bytes([str(tmp_path / "a.txt.gz")], songs=1) == 3 * (tmp_path / "a.txt.gz").stat().st_size


def test_a_template_wants_records(tmp_path):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    assert "a.txt is plain text, and a template needs records" in refusal(tmp_path / "a.txt", text_field=None)


def test_null_is_an_empty_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": null}\n\n{"text": "a"}')
    assert [document.text for document in read(tmp_path / "a.jsonl")] == ["a"]
    (tmp_path / "a.parquet").write_bytes(as_parquet([{"text": None}, {"text": "b"}]))
    assert [document.text for document in read(tmp_path / "a.parquet")] == ["b"]


GOOD = b'{"text": "fine"}\n'


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", GOOD + b'{"text": "cut', ", line 2: not valid JSON: Unterminated string"),
        ("a.jsonl", GOOD + b'["text"]', ", line 2: a list instead of an object; an object looks like"),
        ("a.jsonl", b'{"txt": "a", "n": 1}', "no field 'text', only 'txt', 'n'; say --data.text_field txt"),
        ("a.jsonl", b'{"lyrics": "a"}', "only 'lyrics'; say --data.text_field NAME"),
        ("a.jsonl", b'{"messages": []}', "only 'messages'; say --data.template chat, or --data.text_field NAME"),
        ("a.csv", b"prompt,lyrics\na,b\n", "'lyrics'; say --data.template song, or --data.text_field NAME"),
        ("a.jsonl", b'{"instruction": "a", "input": "b", "output": "c"}', "say --data.template response, or --data."),
        ("a.jsonl", b'{"instruction": "a", "response": "c"}', "say --data.template response, or --data."),
        ("a.jsonl", GOOD + b'{"text": 5}', ", line 2: field 'text' holds a number, not text"),
        ("a.jsonl", b'{"text": ["a"]}', "field 'text' holds a list, not text"),
        ("a.jsonl", GOOD + b'{"text": "caf\xe9"}', ", line 2 is not UTF-8: byte 0xe9 at offset 30; save it as UTF-8"),
        ("a.jsonl", '{"text": "é漢"}\n'.encode() + b'{"text": "\xe9"}', "line 2 is not UTF-8: byte 0xe9 at offset 28"),
        ("a.jsonl", GOOD + b'{"text": "\\ud83d"}', ", line 2: a \\u escape is half of a character"),
        ("a.jsonl", b'{"a":' * 100_000, "line 1: JSON that cannot be read"),
        ("a.jsonl", b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "line 1: JSON that cannot be read"),
        ("a.csv", b"n,m\n1,2\n", ", line 1: there is no column 'text', only 'n', 'm'"),
        ("a.csv", b"text,n\na,b\nc,d,e\n", ", line 3: 3 fields under a header of 2; quote fields that hold ','"),
        ("a.csv", b'text,n\na,b\n"c,d\ne,f\n', ", line 3: broken CSV: unexpected end of data"),
        ("a.csv", b"text,text\na,b\n", ", line 1: there are two columns 'text'"),
        ("a.csv", b"text,n\na,b\nc,\xff\n", ", line 3 is not UTF-8: byte 0xff at offset 13"),
        ("a.csv", b"text,n\ra,b\r", ", line 1: broken CSV"),
        ("a.csv", b"text,n\n", "is empty"),
        ("a.parquet", b"PAR1nothing of the kindPAR1", "is damaged after row 0, or no Parquet file"),
        ("a.parquet", as_parquet([{"n": "1"}]), "there is no column 'text', only 'n'"),
        ("a.parquet", as_parquet([{"text": 1}]), ", row 1: field 'text' holds a number, not text"),
        ("a.parquet", as_parquet([{"text": "a" * 500}])[:-40], "no Parquet file"),
        ("a.parquet.gz", b"", "a Parquet file is compressed by itself; unpack it"),
        ("a.txt.gz", zipped(os.urandom(5000))[:-1000], "is cut short: its compressed data ends too early"),
        ("a.jsonl.gz", zipped(GOOD * 9)[:-3], "is cut short: its compressed data ends too early"),
        ("a.txt.gz", b"plain text", "is damaged, or no gzip file: Not a gzipped file"),
        ("a.txt.gz", zipped(b"a" * 999)[:10] + b"\x07" * 30, "is damaged, or no gzip file"),
        ("a.txt.gz", zipped(b"abc\xff"), "is not UTF-8: byte 0xff at offset 3"),
    ],
)  # fmt: skip
def test_damage_is_one_line_with_its_place(tmp_path, name, data, expected):
    path = tmp_path / name
    path.write_bytes(data)
    message = refusal(path)
    assert message.startswith(str(path))
    assert expected in message


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_a_date_beyond_what_python_knows_is_one_line(tmp_path, unit):
    when = pyarrow.array([0, 2**62 if unit == "us" else 2**55], pyarrow.timestamp(unit))
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "when": when}), tmp_path / "a.parquet")
    assert "a.parquet: after row 0 is a value that Python cannot represent: " in refusal(tmp_path / "a.parquet")


def test_a_damaged_page_of_parquet_is_one_line(tmp_path):
    data = bytearray(as_parquet([{"text": f"{number} " * 50} for number in range(1000)]))
    data[200:4000] = b"\xff" * 3800
    (tmp_path / "a.parquet").write_bytes(data)
    assert "is damaged after row 0" in refusal(tmp_path / "a.parquet")


def test_a_very_long_csv_field(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "x" * 300_000 + "\n", encoding="utf-8")
    assert len(read(tmp_path / "a.csv")[0].text) == 300_000


def test_without_the_libraries_it_is_said_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    assert "a.parquet: reading Parquet needs pyarrow, which is not installed; pip install 'primegpt[data]'" in refusal(
        tmp_path / "a.parquet"
    )
    assert "hf:x needs the package datasets, which is not installed; pip install 'primegpt[data]'" in refusal("hf:x")


def test_records_are_read_as_they_are_asked_for(tmp_path):
    """A stream: what follows the first record has not been looked at when it is given out."""
    for name in ("a.jsonl", "a.csv"):
        path = tmp_path / name
        path.write_bytes(KINDS[name](RECORDS[2:]) + b"\xff" * 200_000)
        documents = read_file(path, Reading("text"))
        assert next(documents).text == "plain"
        with pytest.raises(DataError, match="is not UTF-8"):
            next(documents)


# ---- twelve awkward inputs: each works or is one clear line


def awkward_inputs(folder: Path) -> None:
    """The inputs, each under the name that the test gives it."""
    inputs = {
        "empty.txt": b"",
        "bom.txt": b"\xef\xbb\xbfhello",
        "crlf.txt": b"one\r\ntwo\r\n",
        "nul.txt": b"a\x00b",
        "long.txt": b"x" * 1_000_000,
        "latin.txt": b"caf\xe9",
        "broken.jsonl": GOOD + b"{oops\n",
        "column.csv": b"lyrics,genre\nla,pop\n",
        "cut.txt.gz": zipped(os.urandom(999))[:500],
        "emoji.txt": "漢字 🎵👩‍👩‍👧".encode(),
    }
    for name, data in inputs.items():
        (folder / name).write_bytes(data)
    (folder / "nothing").mkdir()
    (folder / "nothing" / "photo.jpg").touch()
    (folder / "unreadable.txt").mkdir()  # what opening it says is the system's word; permissions do not stop root


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("empty.txt", DataError("empty.txt is empty: it holds no text but whitespace")),
        ("bom.txt", "hello"),
        ("crlf.txt", "one\r\ntwo\r\n"),
        ("nul.txt", "a\x00b"),
        ("long.txt", "x" * 1_000_000),
        ("latin.txt", DataError("latin.txt is not UTF-8: byte 0xe9 at offset 3")),
        ("broken.jsonl", DataError("broken.jsonl, line 2: not valid JSON")),
        ("column.csv", DataError("column.csv, line 1: there is no column 'text', only 'lyrics', 'genre'")),
        ("unreadable.txt", DataError("unreadable.txt cannot be read: ")),
        ("nothing", DataError("nothing: no text in this folder")),
        ("cut.txt.gz", DataError("cut.txt.gz is cut short")),
        ("emoji.txt", "漢字 🎵👩‍👩‍👧"),
    ],
)
def test_awkward_inputs(tmp_path, monkeypatch, name, expected):
    awkward_inputs(tmp_path)
    if isinstance(expected, str):
        assert [document.text for document in read(tmp_path / name)] == [expected]
        return
    if name == "unreadable.txt":
        monkeypatch.setattr(Path, "is_dir", lambda path: False)
    assert str(tmp_path / str(expected)) in refusal(tmp_path / name)


READ = """if True:
    from primegpt.data.reading.sources import read_documents
    print(sum(len(document.text) for document in read_documents([sys.argv[1]], songs=1)))"""


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["line.txt", "line.jsonl", "line.csv"])
def test_one_line_of_100_megabytes(tmp_path, peak_memory, name):
    path = tmp_path / name
    with path.open("wb") as file:
        file.write({"line.txt": b"", "line.jsonl": b'{"text": "', "line.csv": b"text\n"}[name])
        for _ in range(100):
            file.write(b"abcdefghi " * 100_000)
        file.write({"line.txt": b"", "line.jsonl": b'"}', "line.csv": b"\n"}[name])
    printed, peak = peak_memory(READ, str(path))
    assert printed == "100000000"
    assert peak < 1.5e9


REFUSED = """if True:
    import time
    from primegpt.data.reading.sources import read_documents
    from primegpt.errors import DataError
    started = time.monotonic()
    try:
        for document in read_documents([sys.argv[1]], songs=1):
            pass
    except DataError as error:
        print(time.monotonic() - started, error)"""


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("name", "before", "expected"),
    [
        ("a.txt.gz", b"", "begins with more than"),
        ("a.jsonl.gz", b'{"text": "', "line 1: the record is larger than 128,000,000 bytes"),
        ("a.json.gz", b'[{"text": "', "record 1: the record is larger than 128,000,000 bytes"),
        ("a.csv.gz", b'text\n"', "line 2: the record is larger than 128,000,000 bytes"),
        ("b.csv.gz", b'"', "line 1: the record is larger than 128,000,000 bytes"),
    ],
)
def test_three_gigabytes_in_three_megabytes(tmp_path, peak_memory, name, before, expected):
    """One record, field or stretch of spaces: refused soon, in little memory."""
    with (tmp_path / name).open("wb") as file:
        file.write(gzip.compress(before))
        member = gzip.compress(b" " * 100_000_000, 6)
        for _ in range(30):
            file.write(member)
    printed, peak = peak_memory(REFUSED, str(tmp_path / name))
    seconds, message = printed.split(" ", 1)
    assert expected in message
    assert float(seconds) < 60
    assert peak < 900e6


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_records_take_the_same_memory_however_many_they_are(tmp_path, peak_memory, name):
    """Eight times the records (and, in Parquet, all of them in one row group): far less on top than their text."""
    peaks = []
    for times in (1, 8):
        draw = random.Random(0)  # letters that do not compress well: Parquet is packed
        path = tmp_path / str(times) / name
        path.parent.mkdir()
        path.write_bytes(KINDS[name]([{"text": draw.randbytes(2000).hex()} for _ in range(1000 * times)]))
        peaks.append(peak_memory(READ, str(path))[1])
    assert peaks[1] - peaks[0] < 18e6  # of 28 MB more text


# ---- data sets


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("stanfordnlp/imdb", ("stanfordnlp/imdb", None, "train")),
        ("imdb:test", ("imdb", None, "test")),
        ("wikitext:wikitext-2-raw-v1", ("wikitext", "wikitext-2-raw-v1", "train")),
        ("wikitext:wikitext-2-raw-v1:validation", ("wikitext", "wikitext-2-raw-v1", "validation")),
        ("odd::my-split", ("odd", None, "my-split")),
    ],
)
def test_addresses_of_data_sets(address, expected):
    assert parse_dataset(address) == expected


def test_an_address_with_too_many_parts():
    assert "hf:a:b:c:d is no data set; write hf:NAME" in refusal("hf:a:b:c:d")


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    """A folder in the layout of the hub: data files named by split."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    folder = tmp_path / "songs"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(as_jsonl([{"text": f"song {n}", "genre": "pop"} for n in range(5)]))
    (folder / "test.jsonl").write_bytes(as_jsonl([{"text": "held out", "genre": "rap"}]))
    return folder


@pytest.mark.peers  # heavy to install
@pytest.mark.filterwarnings("ignore")  # the library's own
def test_a_data_set_is_streamed(dataset):
    documents = read(f"hf:{dataset}")
    assert [document.text for document in documents] == [f"song {n}" for n in range(5)]
    assert documents[4].fields == {"text": "song 4", "genre": "pop"}
    assert documents[4].place == f"hf:{dataset}, row 5"
    assert [document.text for document in read(f"hf:{dataset}:test")] == ["held out"]
    assert "there is no field 'lyrics', only 'text', 'genre'" in refusal(f"hf:{dataset}", "lyrics")
    assert "cannot be read: ValueError" in refusal(f"hf:{dataset}::nothing")


@pytest.mark.peers  # heavy to install
@pytest.mark.filterwarnings("ignore")  # the library's own
def test_without_a_network_a_data_set_fails_at_once():
    """In a process of its own: where the hub is, is read when the library is imported. Nothing listens on port 9."""
    script = """if True:
        import time
        from primegpt.data.reading.formats import read_dataset
        from primegpt.errors import DataError
        import datasets
        started = time.monotonic()
        try:
            next(read_dataset("some/thing", "text"))
        except DataError as error:
            print(time.monotonic() - started, error)"""
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    seconds, message = printed.stdout.strip().split(" ", 1)
    assert float(seconds) < 4.0
    assert message.startswith("hf:some/thing cannot be read: ConnectError")
    assert "\n" not in message
