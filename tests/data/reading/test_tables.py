"""Rows whatever separates them, and what is said of a file that is no table."""

import csv
import gzip
import io
import time

import pytest

from primegpt.config import DataConfig
from primegpt.data.cleaning.clean import clean_documents
from primegpt.data.reading.formats import read_file
from primegpt.data.reading.records import Reading
from primegpt.errors import DataError

ROWS = [
    {"id": "1", "text": "Moon, river; and\ta | boat", "lang": "en"},
    {"id": "2", "text": 'He said "no",\nand went', "lang": "en"},
    {"id": "3", "text": "", "lang": ""},
    {"id": "", "text": "a; b; c, d", "lang": "de"},
]


def table(rows: list[dict[str, str]], separator: str, **options) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=separator, **options)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def fields(path, text: str | bytes, text_field: str | None = None, limit: int = 10**9, named=()) -> list[dict]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [dict(document.fields) for document in read_file(path, Reading(text_field, limit, named))]


def refusal(path, text: str, text_field: str | None = None, limit: int = 10**9) -> str:
    with pytest.raises(DataError) as caught:
        fields(path, text, text_field, limit)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message) < len(str(path)) + 300
    return message


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "before", ["", "\n", "\r\n \n", "sep={}\r\n", "SEP={}\n", '\n"sep={}"\n', "\ufeff", "\ufeff\n"]
)
@pytest.mark.parametrize("options", [{}, {"quoting": csv.QUOTE_ALL}, {"lineterminator": "\n"}])
def test_every_separator_is_told(tmp_path, separator, before, options):
    text = before.format(separator) + table(ROWS, separator, **options)
    assert fields(tmp_path / "a.csv", text) == ROWS
    assert fields(tmp_path / "a.csv", text, "text") == ROWS


def test_the_rows_decide_where_the_header_has_other_separators(tmp_path):
    rows = [{"id": str(n), "text, raw, full": "so, it; is", "x;y;z;w": "1"} for n in range(300)]
    for separator in "\t|":
        text = "\n".join(separator.join(row) for row in ([*rows[0]], *(row.values() for row in rows))) + "\n"
        assert fields(tmp_path / "a.csv", text) == rows
        assert fields(tmp_path / "a.csv", text, "text, raw, full") == rows


def test_an_ending_of_tsv_means_tabs(tmp_path):
    assert fields(tmp_path / "a.tsv", "a,b,c\td\n1,2,3\t4\n") == [{"a,b,c": "1,2,3", "d": "4"}]
    assert fields(tmp_path / "a.tsv", "text\none, two\n") == [{"text": "one, two"}]
    assert fields(tmp_path / "a.tsv.gz", gzip.compress(b"a,b\tc\n1\t2\n")) == [{"a,b": "1", "c": "2"}]


def test_a_single_column(tmp_path):
    assert fields(tmp_path / "a.csv", 'text\n"one, two"\nthree\n', "text") == [{"text": "one, two"}, {"text": "three"}]
    assert "line 2: 2 fields under a header of 1; quote fields that hold ','" in refusal(
        tmp_path / "a.csv", "text\none, two\n", "text"
    )


def test_a_field_larger_than_what_the_separator_is_told_from(tmp_path):
    for separator in ",;\t|":
        rows = [{"id": "1", "text": "x,;|\t\n" * 40_000}, {"id": "2", "text": "y"}]
        assert fields(tmp_path / "a.csv", table(rows, separator), "text") == rows


def test_places_count_the_lines_of_the_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"\nsep=;\n{table(ROWS, ';')}", encoding="utf-8", newline="")
    assert [document.place.rpartition(" ")[2] for document in read_file(path, Reading("text"))] == ["4", "5", "7", "8"]
    assert "line 5: 1 fields under a header of 2" in refusal(path, "\n\na,b\n1,2\n3\n")


SONG = "Down by the river where the old boats sleep, and the moon\nwrites names on the water that it cannot keep"


@pytest.mark.parametrize(
    "text",
    [
        f'"{SONG}"\n"{SONG} again"\n',
        f'pop,"{SONG}"\nrock,"{SONG} again"\n',
        "1,Hello there\n2,And good bye\n",
        "The boat and the river are old and small.\nNothing here is a table\n",
        "x" * 100_000 + "\n",
    ],
)
def test_a_file_without_a_header_is_told_so_in_short(tmp_path, text):
    expected = "line 1: this looks like data, where the names of columns are expected; put a line of names first"
    assert expected in refusal(tmp_path / "a.csv", text, "text")
    if not text.startswith("1,"):  # a template asks for other names, and says which it misses
        assert expected in refusal(tmp_path / "a.csv", text)


QUESTIONS = "Which song would you like to hear next?,Why?\n" + "a,b\n" * 3


def test_a_question_names_a_column_that_is_asked_for(tmp_path):
    """As surveys are exported. It was refused as looking like data, although the user had named it."""
    question, _, _ = QUESTIONS.partition(",")
    assert fields(tmp_path / "a.csv", QUESTIONS, named=["genre", question]) == [{question: "a", "Why?": "b"}] * 3
    assert fields(tmp_path / "a.csv", QUESTIONS, question) == [{question: "a", "Why?": "b"}] * 3
    assert "this looks like data" in refusal(tmp_path / "a.csv", QUESTIONS)
    config = DataConfig(sources=(str(tmp_path / "a.csv"),), template="response", prompt_field=(question,))
    assert len(list(clean_documents(config))) == 3


def test_spaces_around_names_are_not_of_the_names(tmp_path):
    assert fields(tmp_path / "a.csv", "id, text \n1, a b\n", "text") == [{"id": "1", "text": " a b"}]
    assert "there are two columns 'text'" in refusal(tmp_path / "a.csv", "text, text\na,b\n", "text")


def test_columns_that_numbers_name(tmp_path):
    assert fields(tmp_path / "a.csv", "0,1\na,b\n", "1") == [{"0": "a", "1": "b"}]
    assert fields(tmp_path / "a.csv", ",text\n0,b\n", "text") == [{"": "0", "text": "b"}]  # as pandas writes an index


def test_a_hundred_thousand_columns_take_no_time(tmp_path):
    names = [f"c{n}" for n in range(100_000)]
    text = ",".join(names) + "\n" + ",".join("1" for _ in names) + "\n"
    started = time.perf_counter()
    assert len(fields(tmp_path / "a.csv", text, "c9")[0]) == 100_000
    assert "there is no column 'text', only 'c0', 'c1'" in refusal(tmp_path / "a.csv", text, "text")
    assert "there are two columns 'c5'" in refusal(tmp_path / "a.csv", f"c5,{text}", "c9")
    assert time.perf_counter() - started < 10


def test_a_record_has_a_size(tmp_path):
    for text in ('a,b\n1,"' + "x\n" * 600 + '"\n', "a,b\n1," + "x" * 1200, "x" * 1200):
        assert "the record is larger than 1,000 bytes; divide it, or raise data.max_record_bytes" in refusal(
            tmp_path / "a.csv", text, None, 1000
        )
    many = "a,b\n" + "1,2\n" * 5000  # together they may be larger
    assert len(fields(tmp_path / "a.csv", many, None, 1000)) == 5000
