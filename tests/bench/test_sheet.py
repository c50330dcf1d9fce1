"""Sheets: a file says again what was measured, and two of them what has become better, and what else differed."""

import json

import pytest

from primegpt.bench.sheet import Figure, Sheet, changes, doubts, read_sheet, short, side_by_side
from primegpt.errors import UsageError

MACHINE = {"processor": "AMD EPYC", "cores": "2 cores", "system": "Linux"}


def sheet(commit, figures, **given):
    values = {
        "date": "2026-11-30",
        "machine": MACHINE,
        "load": "0.1",
        "rates": {"bf16 GFLOP/s": [900.0, 950.0, 1000.0]},
        "versions": {"python": "Python 3.11.7", "torch": "torch 2.13.0"},
        "commands": {"small": "train --steps 200"},
    }
    return Sheet(commit=commit, figures=figures, **values | given)


def rate(*turns):
    return Figure(unit="tok/s", turns=list(turns))


def seconds(*turns):
    return Figure(unit="s", turns=list(turns), less_is_better=True)


def test_a_file_gives_back_what_was_measured(tmp_path):
    made = sheet("1f2e3d4c5b6a", {"training": rate(10, 12.5, 11)}, absent={"race": "no such command"})
    path = made.write(tmp_path / "kept")
    assert path.name == "1f2e3d4c5b6a-amd-epyc-2-cores.json"
    assert read_sheet(path) == made
    assert '"turns": [ 10.0, 12.5, 11.0 ]' in path.read_text(encoding="utf-8")
    assert "| training | tok/s | 11.0 | 10.0 | 12.5 |" in made.as_markdown()
    assert "race: absent, no such command" in made.as_markdown()


def test_more_is_better_of_a_rate_and_less_of_seconds():
    before = sheet("a", {"rate": rate(10, 20, 30), "time": seconds(4, 5, 6), "gone": rate(1)})
    after = sheet("b", {"rate": rate(40, 50, 60), "time": seconds(5, 10, 20), "new": rate(1)})
    faster, slower = changes(before, after)
    assert (faster.ratio, slower.ratio) == (2.5, 0.5)
    assert faster.is_beyond_turns
    assert not slower.is_beyond_turns  # 5 to 6 seconds are in both
    lines = side_by_side(before, after).splitlines()
    assert "| rate | tok/s | 20.0 | 50.0 | 2.50× | yes |" in lines
    assert "| time | s | 5.000 | 10.0 | 0.50× | no |" in lines
    assert "only a has: gone" in lines
    assert "only b has: new" in lines


def test_single_turns_say_nothing_of_their_spread():
    assert not changes(sheet("a", {"rate": rate(1)}), sheet("b", {"rate": rate(9)}))[0].is_beyond_turns


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"machine": MACHINE | {"processor": "Apple M4"}}, "machine differ: AMD EPYC, 2 cores, Linux; Apple M4"),
        ({"versions": {"python": "Python 3.11.7", "torch": "torch 2.14.0"}}, "torch 2.13.0; Python 3.11.7, torch 2.14"),
        ({"rates": {"bf16 GFLOP/s": [400.0]}}, "another rate, bf16 GFLOP/s: 950; 400"),
        ({"commands": {"small": "train --steps 8"}}, "small was another measurement: train --steps 200; train --steps"),
    ],
)
def test_other_conditions_are_doubts(other, said):
    (doubt,) = doubts(sheet("a", {}), sheet("b", {}, **other))
    assert said in doubt


def test_the_same_conditions_are_none():
    assert not list(doubts(sheet("a", {}), sheet("b", {}, load="3.0", rates={"bf16 GFLOP/s": [990.0]})))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"commit": "a"}',
        json.dumps(sheet("a", {"x": rate(1)}).model_dump() | {"more": 1}),
    ],
)
def test_what_is_no_sheet_is_one_line(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"a\.json: no sheet of figures"):
        read_sheet(path)
    with pytest.raises(UsageError, match="nowhere"):
        read_sheet(tmp_path / "nowhere.json")


@pytest.mark.parametrize("turns", [[0.0], [2.0, -1.0], []])
def test_a_figure_that_no_ratio_can_be_taken_of_is_one_line(turns, tmp_path):
    path = tmp_path / "a.json"
    text = sheet("a", {"x": rate(1)}).model_dump()
    text["figures"]["x"]["turns"] = turns
    path.write_text(json.dumps(text), encoding="utf-8")
    with pytest.raises(UsageError, match=r"a\.json: no sheet of figures \(figures\.x\.turns"):
        read_sheet(path)


def test_what_was_absent_of_either_is_said_beside_the_ratios():
    before = sheet("a", {"x": rate(1)}, absent={"race": "no such command"})
    after = sheet("b", {"x": rate(1)}, absent={"decode": "it failed"})
    lines = side_by_side(before, after).splitlines()
    assert "a, race: absent, no such command" in lines
    assert "b, decode: absent, it failed" in lines


def test_doubts_about_rates_come_in_one_order():
    names = [f"{n} GFLOP/s" for n in range(9)]
    slow, fast = ({name: [rate] for name in names} for rate in (1.0, 2.0))
    said = list(doubts(sheet("a", {}, rates=slow), sheet("b", {}, rates=fast)))
    assert [next(name for name in names if name in doubt) for doubt in said] == names


def test_rates_are_kept_with_five_digits():
    assert [short(rate) for rate in (0.123456789, 123456.7, 2.0)] == [0.12346, 123460.0, 2.0]
