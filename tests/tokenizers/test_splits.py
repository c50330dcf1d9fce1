"""Expressions of whoever wrote a file: those that could take for ever are refused, and soon."""

import time

import pytest

from primegpt.tokenizers import splits
from primegpt.tokenizers.splits import refuse_slow_patterns, split

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def check(pattern):
    document = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(pattern), LEVEL]},
        "post_processor": None,
        "decoder": None,
    }
    refuse_slow_patterns(document, [pattern])


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(?:a|aa)*b", r"(x{2,}){3,}", r"a" * 30_000])
def test_loops_of_groups_are_refused_unseen(pattern, monkeypatch):
    monkeypatch.setattr(splits.subprocess, "run", None)
    with pytest.raises(ValueError, match="repeats a group, which may take for ever"):
        check(pattern)


def test_published_ones_are_known(monkeypatch):
    monkeypatch.setattr(splits.subprocess, "run", None)
    for pattern in splits.KNOWN:
        check(pattern)


@pytest.mark.parametrize("pattern", [r"\p{N}{1,2}| ?\p{L}+|[^\p{L}]+", r"[)*+]+|\)\*", r"<[^>]*>|."])
def test_harmless_ones_are_tried_and_taken(pattern):
    check(pattern)


def test_one_that_takes_minutes_is_stopped(monkeypatch):
    monkeypatch.setattr(splits, "SECONDS", 2.0)
    started = time.monotonic()
    with pytest.raises(ValueError, match="takes more than 2 s over a page"):
        check(r"[^\d]*[^\d]*\d\d\d\d\d\d")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("pattern", ["(", r"\p{Foo}", "[z-a]"])
def test_one_that_is_no_expression_is_refused(pattern):
    with pytest.raises(ValueError, match=r"cannot be used: .*Oniguruma error"):
        check(pattern)


def test_no_code_of_the_current_folder_is_run(tmp_path, monkeypatch):
    for name in ("json.py", "tokenizers.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    check(r"\p{N}{1,2}| ?\p{L}+|[^\p{L}]+")
    assert not (tmp_path / "marker").exists()
