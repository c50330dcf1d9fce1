"""Records as JSON: a list, or objects in a row, read as far as they are asked for."""

import gzip
import json
import random

import pytest

from primegpt.data.reading import objects
from primegpt.data.reading.formats import read_file
from primegpt.data.reading.records import Reading
from primegpt.errors import DataError


def records_of(draw: random.Random) -> list[dict]:
    """Records of every kind of value, of awkward characters."""

    def text() -> str:
        return "".join(draw.choice('ab\n\t"\\{}[],:é漢🎵\x00\u2028 ') for _ in range(draw.randrange(9)))

    def value(depth: int = 0):
        kinds = [text, lambda: None, lambda: True, lambda: draw.randrange(-(10**20), 10**20), lambda: draw.random()]
        if depth < 3:
            kinds.append(lambda: [value(depth + 1) for _ in range(draw.randrange(4))])
            kinds.append(lambda: {text(): value(depth + 1) for _ in range(draw.randrange(4))})
        return draw.choice(kinds)()

    return [{text(): value() for _ in range(draw.randrange(5))} for _ in range(draw.randrange(9))]


def read(path, data: str | bytes, limit: int = 10**9) -> list[dict]:
    path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    return [dict(document.fields) for document in read_file(path, Reading(None, limit))]


def refusal(path, data: str | bytes, limit: int = 10**9) -> str:
    with pytest.raises(DataError) as caught:
        read(path, data, limit)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


@pytest.mark.parametrize("seed", range(60))
def test_a_list_and_objects_in_a_row_give_what_was_written(tmp_path, monkeypatch, seed):
    draw = random.Random(seed)
    records, indent, ascii_only = records_of(draw), draw.choice([None, 0, 1, 4]), draw.random() < 0.5
    monkeypatch.setattr(objects, "HEAD", draw.randint(1, 50))  # wherever a piece that was read ends, nothing changes
    listed = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
    in_a_row = "\n".join(json.dumps(record, indent=indent, ensure_ascii=ascii_only) for record in records)
    for text in (listed, in_a_row):
        assert read(tmp_path / "a.json", f"\ufeff \n{text}\r\n ") == records


def test_places_and_texts(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"text": "a"},\n {"text": "b", "n": 1}]', encoding="utf-8")
    documents = list(read_file(path, Reading("text")))
    assert [(document.text, document.place) for document in documents] == [
        ("a", f"{path}, record 1"),
        ("b", f"{path}, record 2"),
    ]
    assert read(tmp_path / "a.json.gz", gzip.compress(path.read_bytes())) == [{"text": "a"}, {"text": "b", "n": 1}]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('[{"a": 1},\n{"a": 2]', ", record 2, line 2: not valid JSON: Expecting ',' delimiter; mend or remove it"),
        ('[{"a": 1}, {"b": "cut', ", record 2, line 1: not valid JSON: Unterminated string"),
        ('[{"a": 1}, {"b": 1}', ", record 2: neither , nor ] comes after it; mend the list"),
        ('[{"a": 1} {"b": 1}]', ", record 1: neither , nor ] comes after it"),
        ('[{"a": 1},]', ", record 2, line 1: not valid JSON"),
        ('[{"a": 1}] {"a": 2}', ", record 1: the list ends, and the file goes on"),
        ('["a", "b"]', ", record 1: a string instead of an object; an object looks like"),
        ("[[1]]", ", record 1: a list instead of an object"),
        (
            '{"version": 1, "data": [{"a": 1}, {"a": 2}]}\n',
            " is one object, and its records are in 'data'; save",
        ),
        ("5", ", record 1: a number instead of an object"),
        ("null", ", record 1: null instead of an object"),
        ("{oops}", ", record 1, line 1: not valid JSON"),
        (b'[{"a": "caf\xe9"}]', " is not UTF-8: byte 0xe9 at offset 11"),
        (b'[{"a": "caf"}, \n"' + b"x" * 200_000 + b"\xff", " is not UTF-8: byte 0xff at offset 200017"),
        ('[{"a": "\\ud83d"}]', ", record 1: a \\u escape is half of a character"),
        ('[{"a": ' + "[" * 100_000, ", record 1: JSON that cannot be read"),
        ('[{"a": ' + "1" * 5000 + "}]", ", record 1: JSON that cannot be read"),
    ],
)
def test_damage_is_one_line_with_its_place(tmp_path, data, expected):
    assert expected in refusal(tmp_path / "a.json", data)


def test_an_early_fault_of_a_long_file_is_found_early(tmp_path):
    data = '[{"a": 1}, {"a": oops}' + ', {"a": "xxxxxxxxxxxxxxxxxxxxxxxx"}' * 100_000
    assert "record 2, line 1: not valid JSON: Expecting value" in refusal(tmp_path / "a.json", data)


def test_records_are_read_as_they_are_asked_for(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"text": "fine"},' + b" " * 100_000 + b"\xff" * 200_000)
    documents = read_file(path, Reading("text"))
    assert next(documents).text == "fine"
    with pytest.raises(DataError, match="is not UTF-8"):
        next(documents)


@pytest.mark.parametrize("name", ["a.json", "b.json", "a.jsonl"])
def test_a_record_has_a_size(tmp_path, name):
    draw = random.Random(0)
    records = [{"a": draw.randbytes(200).hex()} for _ in range(500)]
    lines = [json.dumps(record) for record in records]
    text = f"[{','.join(lines)}]" if name == "a.json" else "\n".join(lines)
    assert read(tmp_path / name, text, 1000) == records
    large = json.dumps({"a": "x" * 1200})
    place = "line 501" if name == "a.jsonl" else "record 501"
    longer = f"[{','.join([*lines, large])}]" if name == "a.json" else "\n".join([*lines, large])
    expected = f", {place}: the record is larger than 1,000 bytes; divide it, or raise data.max_record_bytes"
    assert refusal(tmp_path / name, longer, 1000) == expected
    assert refusal(tmp_path / name, longer.replace(large, '{"a": "' + "x" * 300_000), 1000) == expected


def test_one_conversation_and_objects_with_lists_are_records(tmp_path):
    one = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert read(tmp_path / "a.json", json.dumps(one)) == [one]
    several = [{"data": [{"a": 1}, {"a": 2}]}, {"data": []}]
    assert read(tmp_path / "a.json", json.dumps(several)) == several


@pytest.mark.parametrize("text", ['[{"text": "a"}, {"text": "b"}]', '[\n{"text": "a"}\n]', '{\n "text": "a"\n}'])
def test_lines_that_are_a_list_are_told_to_be_json(tmp_path, text):
    assert "; name it .json, which may" in refusal(tmp_path / "a.jsonl", text)
