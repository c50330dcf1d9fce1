"""What is kept of a text rather than read again, and what it is counted by."""

import json

import pytest

from primegpt.config import DataConfig
from primegpt.data.preparing import survey
from primegpt.data.preparing.survey import Library
from primegpt.data.reading.records import held_bytes


def silent(line: str) -> None:
    pass


@pytest.mark.parametrize("settings", [{}, {"template": "response"}])
@pytest.mark.parametrize("kept", [True, False])
def test_fields_that_are_not_read_count_as_well(tmp_path, monkeypatch, settings, kept):
    """They are in memory with the rest: 300 short texts with a page of metadata each are no short text."""
    monkeypatch.setattr(survey, "IN_MEMORY", 300_000)
    page = ["x" * 10] if kept else [{"html": "x" * 5000}]
    record = json.dumps({"text": "a", "prompt": "b", "response": "c", "page": page})
    (tmp_path / "records.jsonl").write_text("\n".join([record] * 300), encoding="utf-8")
    library = Library(DataConfig(sources=(str(tmp_path / "records.jsonl"),), **settings), silent)
    assert len(list(library)) == 300
    assert (library._kept is not None) == kept
    assert len(list(library)) == 300


def test_the_size_of_a_value_is_told_without_writing_it_out():
    class Silent:
        def __str__(self) -> str:
            raise AssertionError("written out")

        __repr__ = __str__

    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert held_bytes({"a": Silent(), "b": [1.5, None, {"c": "é" * 1000}]}) > 1000
    assert held_bytes(deep) > 100_000 * 8
