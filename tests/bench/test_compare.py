"""Contestants take turns; medians, ratios, shares of a limit, and who is absent and why."""

import json

import pytest

from primegpt.bench.compare import (
    NO_TIME,
    PYTHON,
    Absent,
    Allowance,
    Comparison,
    Measure,
    Result,
    compare,
    compare_measures,
    environment,
    milliseconds_of,
    milliseconds_to_output,
    missing,
    output_of,
)


def test_contestants_take_turns_and_medians_are_compared():
    order, rates = [], {"ours": iter([10.0, 30.0, 20.0]), "theirs": iter([8.0, 1.0, 5.0])}

    def turn(name):
        order.append(name)
        return next(rates[name])

    contestants = {name: lambda name=name: turn(name) for name in rates} | {"gone": "not installed"}
    found = compare("work", "MB/s", contestants, turns=3)
    assert order == ["ours", "theirs"] * 3
    assert [found.ratio(result) for result in found.results[:2]] == [1.0, 4.0]
    lines = found.as_markdown().splitlines()
    assert "| theirs | 5.000 | 1.000 | 8.000 | 4.00× |" in lines
    assert "| gone | absent: not installed | | | |" in lines
    assert '"medians"' in found.as_json()
    assert isinstance(found, Comparison)
    assert isinstance(found.results[0], Result)


def test_where_less_is_better_the_ratio_turns_round():
    runs = {"ours": lambda: (2.0, 50.0), "theirs": lambda: (3.0, 25.0)}
    seconds, rate = compare_measures(
        [Measure("work", "s", less_is_better=True), Measure("work", "tok/s")], runs, turns=2
    )
    assert seconds.ratio(seconds.results[1]) == 1.5
    assert rate.ratio(rate.results[1]) == 2.0
    assert "| theirs | 3.000 | 3.000 | 3.000 | 1.50× |" in seconds.as_markdown().splitlines()
    assert json.loads(seconds.as_json())["medians"] == {"ours": 2.0, "theirs": 3.0}


def test_the_share_of_a_limit_is_a_column_of_its_own():
    found = compare("reading", "GB/s", {"ours": lambda: 20.0, "gone": "not installed"}, turns=1)
    lines = found.with_limits({"ours": 50.0}).as_markdown().splitlines()
    assert lines[2:] == [
        "| | GB/s | from | to | ours is | of the limit |",
        "| --- | --- | --- | --- | --- | --- |",
        "| ours | 20.0 | 20.0 | 20.0 | 1.00× | 40% |",
        "| gone | absent: not installed | | | | |",
    ]


def test_what_the_end_of_the_time_cuts_short_keeps_its_turns(monkeypatch):
    clock, turns = [0.0], iter([(1.0,)])

    def cut_short():
        if turn := next(turns, None):
            return turn
        clock[0] = 11.0
        raise Absent("it was not done after 1 seconds")

    monkeypatch.setattr("primegpt.bench.compare.time.monotonic", lambda: clock[0])
    runs = {"ours": lambda: (2.0,), "theirs": cut_short, "last": lambda: (3.0,)}
    allowance = Allowance(until=10.0)
    (found,) = compare_measures([Measure("work", "MB/s")], runs, turns=3, allowance=allowance)
    assert [result.rates for result in found.results] == [(2.0, 2.0), (1.0,), (3.0,)]
    assert not any(result.absent for result in found.results)
    assert (allowance.patience(300), Allowance(until=20.0).patience(300), Allowance().patience(300)) == (0, 9, 300)


def test_a_contestant_that_fails_is_absent_and_asked_no_more():
    asked, said = [], []

    def fails_the_second_time():
        asked.append(1)
        if len(asked) == 2:
            raise Absent("it needs\nanother package")
        return (1.0,)

    runs = {"ours": lambda: (1.0,), "theirs": fails_the_second_time}
    found = compare_measures([Measure("work", "MB/s")], runs, turns=4, say=said.append)[0]
    assert len(asked) == 2
    assert len(found.results[0].rates) == 4
    assert found.results[1] == Result("theirs", (), "it needs another package")
    assert "theirs is absent: it needs another package" in said


def test_peers_do_not_inherit_what_primegpt_sets_for_itself(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "GOMP_SPINCOUNT" not in environment(3)
    assert environment(3)["OMP_NUM_THREADS"] == "3"
    assert environment()["OMP_NUM_THREADS"] == "7"


def test_the_first_output_counts_not_the_end():
    slow = "import sys, time; sys.stdout.write('a'); sys.stdout.flush(); time.sleep(0.5); print('b')"
    to_output, whole = milliseconds_to_output([PYTHON, "-c", slow]), milliseconds_of([PYTHON, "-c", slow])
    assert 0 < to_output < whole - 300


def test_a_failure_is_an_absence_with_its_last_line():
    with pytest.raises(Absent, match="failed: ValueError: no such thing"):
        output_of([PYTHON, "-c", "raise ValueError('no such thing')"])
    with pytest.raises(Absent, match="exit code 3"):
        output_of([PYTHON, "-c", "raise SystemExit(3)"])
    with pytest.raises(Absent, match="wrote nothing"):
        milliseconds_to_output([PYTHON, "-c", "pass"])


def test_what_is_missing():
    assert missing("json") == ""
    assert missing("a_package_that_nobody_has") == "no package a_package_that_nobody_has is installed"


def test_turns_end_with_the_time_and_each_is_told(monkeypatch):
    clock, told = iter([0.0, 1.0, 2.0, 3.0, *[9.0] * 9]), []
    monkeypatch.setattr("primegpt.bench.compare.time.monotonic", lambda: next(clock))
    allowance = Allowance(until=2.5, after_turn=lambda found: told.append([len(r.rates) for r in found[0].results]))
    runs = {name: lambda: (1.0,) for name in "abcd"}
    found = compare_measures([Measure("work", "MB/s")], runs, turns=2, allowance=allowance)[0]
    assert [len(result.rates) for result in found.results] == [1, 1, 1, 0]
    assert found.results[3].absent == NO_TIME
    assert told == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]


def test_a_table_whose_first_contestant_is_absent_has_no_ratios():
    found = compare("work", "MB/s", {"ours": "broken", "theirs": lambda: 20.0}, turns=1)
    assert "| theirs | 20.0 | 20.0 | 20.0 | |" in found.as_markdown().splitlines()


def test_a_process_that_does_not_end_is_absent():
    with pytest.raises(Absent, match="not done after 1 seconds"):
        output_of([PYTHON, "-c", "import time; time.sleep(60)"], patience=1)
