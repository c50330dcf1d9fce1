"""What reaches a terminal is text and nothing else."""

import io
import json
import sys
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primegpt import terminal
from primegpt.errors import LONGEST, UsageError
from primegpt.terminal import (
    MOST_MEANS,
    Course,
    as_json,
    never_fail_to_print,
    printable,
    printable_pieces,
    sparkline,
    wrapped,
)

ANY = st.text(st.characters(exclude_categories=[]))  # surrogates too
PATIENT = settings(suppress_health_check=[HealthCheck.too_slow])  # beside other programs
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_lines_end_between_words_however_the_text_comes():
    text = "The river is wide,\nand  nobody knows an extraordinarily-long-word\n\nto cross it. "
    for size in (1, 2, 7, 100):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        shown = "".join(wrapped(pieces, 12))
        lines = shown.split("\n")
        assert all(len(line.rstrip()) <= 12 or " " not in line.strip() for line in lines)
        assert shown.split() == text.split()
        assert "\n\n" in shown  # the writer's own lines stay
    assert "".join(wrapped(["tall trees"], 12, column=4)) == "tall\ntrees"
    assert "".join(wrapped(["  two  spaces "], 80)) == "  two  spaces "


def test_a_language_without_spaces_is_shown_as_it_comes():
    came: list[str] = []

    def pieces():
        for _ in range(150):
            came.append("河")  # two columns wide
            yield came[-1]

    shown = wrapped(pieces(), 40)
    assert next(shown) == "河" * 21  # what fits a line is held, as it may be a word
    assert len(came) == 21
    assert next(shown) == "河"
    assert len(came) == 22
    assert "".join(shown) == "河" * 128
    assert "".join(wrapped(["a 河河河 b"], 7)) == "a\n河河河\nb"


@given(st.lists(st.text(st.sampled_from("ab河 \n"), max_size=9)), st.integers(1, 9))
def test_wrapping_changes_nothing_but_white_space(pieces, width):
    text, shown = "".join(pieces), "".join(wrapped(pieces, width))
    assert shown.split() == text.split()
    assert "".join(wrapped([text], width)) == shown  # however it comes
    assert "".join(wrapped(pieces, 10_000)) == text


def test_a_course_is_drawn_from_its_lowest_to_its_highest():
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([8.0, 4.0, 2.0, 1.0], 9) == "█▄▂▁"  # no more bars than values
    assert sparkline([3, 1, 3, 1, 2, 2], 3) == "▁▁▁"  # means of stretches
    assert sparkline([float("nan"), 1.0, float("inf"), 2.0], 5) == "▁█"
    assert sparkline([], 5) == ""


def test_a_long_course_is_kept_in_few_means():
    course, values = Course(), [float(step) for step in range(10_000)]
    for value in [*values, float("nan")]:
        course.add(value)
    assert len(course.means) < MOST_MEANS
    assert course.means[0] == sum(values[: course.stretch]) / course.stretch
    assert course.bars(8) == sparkline(values, 8) == "▁▂▃▄▅▆▇█"


def test_a_course_is_drawn_anew_for_a_new_value_alone(monkeypatch):
    drawn = []
    monkeypatch.setattr(terminal, "sparkline", lambda values, width: drawn.append(len(values)) or "")
    course = Course()
    for value in (3.0, 2.0):
        course.add(value)
        for _ in range(5):
            course.bars(8)
    assert drawn == [1, 2]


def is_an_order(character: str) -> bool:
    control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n"
    return control or unicodedata.bidirectional(character) in BIDI


@PATIENT
@given(ANY)
def test_no_order_is_left_and_nothing_else_is_changed(text):
    shown = printable(text)
    assert not any(map(is_an_order, shown))
    assert printable(shown) == shown
    kept = "".join(c for c in text if not is_an_order(c) and c not in "\ufffe\uffff")
    if len(kept) == len(text):
        assert shown == text


@PATIENT
@given(st.lists(st.text(st.sampled_from("a\r\n\x1b"))))
def test_a_text_in_pieces_is_shown_as_the_whole_text_is(pieces):
    assert "".join(printable_pieces(pieces)) == printable("".join(pieces))


def test_each_is_spelt_out():
    assert printable("a\x1b[2J\x9b\x00\x7f\u202eb\r\nc\td\re") == r"a\x1b[2J\x9b\x00\x7f\u202eb" + "\nc\td" + r"\re"


@PATIENT
@given(ANY)
def test_json_holds_the_text_itself_and_no_order(text):
    printed = as_json({"text": text})
    assert not any(map(is_an_order, printed))
    assert json.loads(printed)["text"] == text


def test_json_has_no_number_that_json_has_not():
    """`evaluate --json` of a model with NaN in its weights printed NaN, which no other program reads."""
    value = {"loss": float("nan"), "rows": [(1.5, float("inf")), {"x": -float("inf")}], "n": 10**30}
    refuse = {"parse_constant": lambda name: pytest.fail(f"{name} is no JSON")}
    assert json.loads(as_json(value), **refuse) == {"loss": None, "rows": [[1.5, None], {"x": None}], "n": 10**30}


def test_json_is_plain_where_the_terminal_knows_no_other_letters(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert as_json("é中") == r'"\u00e9\u4e2d"'
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert as_json("é中") == '"é中"'


def test_what_an_encoding_lacks_is_spelt_out(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    never_fail_to_print()
    print("né » ── \udc80日", flush=True)
    assert raw.getvalue() == rb"n\xe9 > -- \udc80\u65e5" + b"\n"


def test_an_error_is_one_line_that_can_be_read():
    text = str(UsageError("the label \x1b[31m" + "x" * 5_000_000 + "\nend", "give another\u2028one"))
    assert len(text) < 2 * LONGEST + 100
    assert text.startswith(r"the label \x1b[31mxxx")
    assert text.endswith("x end; give another one")
