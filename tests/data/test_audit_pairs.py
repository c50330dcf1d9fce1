"""What is wrong with pairs is counted as one would count by hand, and said in one line each."""

import dataclasses

import numpy as np
import pytest

from primegpt.data.audit import AuditReport
from primegpt.data.audit_pairs import Pair, PairCounts, PairReport, pairs_in, report_of
from primegpt.data.preparing.shards import CONTEXT, REJECTED, SUPERVISED
from primegpt.errors import DataError


def pair(prompt: str, chosen: str, rejected: str) -> Pair:
    return Pair(prompt.encode(), chosen.encode(), rejected.encode())


FINE = [pair(f"p{n}", f"yes {n}", f"not {n}") for n in range(100)]


def report(*more: Pair, held_out: list[Pair] | None = None) -> PairReport:
    return report_of([*FINE, *more], held_out or [pair("new", "a", "b")])


def warnings(found: PairReport) -> str:
    return "\n".join(found.warnings())


def test_nothing_is_said_of_sound_pairs():
    found = report()
    assert warnings(found) == ""
    assert dataclasses.asdict(found) == {
        "pairs": 100, "identical_share": 0, "duplicate_share": 0, "swapped_share": 0, "longer_share": 0.5,
        "length_ratio": 1.0, "shared_prompts": 0.0, "repeated_prompts": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "share", "value", "said"),
    [
        ([pair("q", "a", "a")] * 4, "identical_share", 4 / 104, "have the same answer twice"),
        (FINE[:20], "duplicate_share", 20 / 120, "--data.duplicates exact"),
        ([pair("p1", "not 1", "yes 1")], "swapped_share", 1 / 101, "the other way round"),
        ([pair(f"l{n}", "longer", "so") for n in range(40)], "longer_share", 1.0, "write longer ones"),
        ([pair(f"l{n}", "so", "longer") for n in range(40)], "longer_share", 0.0, "write shorter ones"),
        ([pair(f"p{n}", f"x{n}", f"y{n}") for n in range(9)], "repeated_prompts", 9 / 109, ""),
    ],
)
def test_each_fault_is_counted_and_said(more, share, value, said):
    found = report(*more)
    assert getattr(found, share) == pytest.approx(value)
    assert said in warnings(found)
    assert bool(said) == bool(warnings(found))
    assert len(list(found.rows())) == 5


def test_prompts_in_both_splits():
    found = report(held_out=[pair("p1", "a", "b"), pair("new", "a", "b")])
    assert found.shared_prompts == 0.5
    assert "50% of the validation pairs have a prompt that is learnt from too" in warnings(found)
    assert ("prompts", "50.0% of those held out are learnt from too") in list(found.rows())


def test_pairs_that_prefer_nothing_at_all_are_refused():
    with pytest.raises(DataError, match="chosen and rejected are the same in all pairs"):
        report_of([pair("a", "b", "b")] * 3, []).refuse_what_says_nothing()
    report(pair("q", "a", "a")).refuse_what_says_nothing()
    PairCounts().report().refuse_what_says_nothing()


def test_pairs_are_read_from_shards(tmp_path, write_shards):
    roles = np.array([CONTEXT, SUPERVISED, SUPERVISED, REJECTED], np.uint8)
    shards = write_shards(tmp_path, [(np.array([7, n, n, 9]), roles) for n in range(5)], roles=True)
    assert list(pairs_in(shards, 9)) == [
        Pair(*(np.array(ids, "<u2").tobytes() for ids in ([7], [n, n], [9]))) for n in range(3)
    ]


def test_a_report_comes_back_from_json():
    fields = {f.name for f in dataclasses.fields(AuditReport)}
    assert "pairs" in fields
    values = {
        "n_documents": 1, "bytes": 1, "characters": 1, "complete": True, "tokens": 1, "tokens_are_exact": True,
        "n_parameters": None, "lengths": {}, "duplicate_share": 0.0, "near_duplicate_share": 0.0,
        "near_duplicates_of": "documents", "repeated_share": 0.0, "repeated_elsewhere_share": 0.0,
        "repeated_examples": [], "leaked_share": 0.0, "held_out": "", "distinct_characters": 1,
        "non_ascii_share": 0.0, "unknown_share": None, "html_share": 0.0,
    }  # fmt: skip
    whole = AuditReport(**values, pairs=report())
    assert AuditReport.from_json(whole.as_json()) == whole
    assert AuditReport.from_json(values).pairs is None
