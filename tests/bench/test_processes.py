"""Contestants as processes: what they are given, how their time is taken, and what becomes of a failure."""

import pytest

from primegpt.bench.compare import Absent
from primegpt.bench.processes import PYTHON, environment, milliseconds_of, milliseconds_to_output, missing, output_of


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
