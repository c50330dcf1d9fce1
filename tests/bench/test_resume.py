"""Going on after a kill, and checkpoints beside torch's: what is timed is what is said to be."""

import sys

import pytest

from primegpt.bench import resume
from primegpt.bench.resume import compare_checkpoints, killed_run, seconds_to_next_step, trained
from primegpt.config import resolve
from primegpt.errors import PrimegptError
from primegpt.run.checkpoint import list_checkpoints, verify_checkpoint

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 300}


def test_the_same_tensors_are_saved_and_loaded(tmp_path):
    saving, loading = compare_checkpoints(tmp_path, resolve({"model": TINY}).model, turns=2)
    for comparison in (saving, loading):
        assert [len(result.rates) for result in comparison.results] == [2, 2, 2]
        assert comparison.unit == "MB/s"
    verify_checkpoint(tmp_path / "checkpoints" / "step-000000")
    assert f"{(tmp_path / 'model.safetensors').stat().st_size / 1e6:.1f} MB" in saving.task


def test_a_training_is_timed_until_it_gets_on_and_then_killed(tmp_path, monkeypatch):
    marks = tmp_path / "marks"
    script = f"import time; time.sleep(0.2); open({str(marks)!r}, 'w').close(); time.sleep(60); print('never')"
    monkeypatch.setattr(resume, "PRIMEGPT", [sys.executable, "-c", script])
    assert 0.2 < trained([], marks.exists) < 20


def test_a_training_that_fails_is_told_in_its_own_words(monkeypatch):
    monkeypatch.setattr(resume, "PRIMEGPT", [sys.executable, "-c", "raise SystemExit('no text to train on')"])
    with pytest.raises(PrimegptError, match="did not get on: no text to train on"):
        trained(["train"], lambda: False)


@pytest.mark.reliability
def test_a_killed_run_goes_on(tmp_path):
    killed = killed_run(tmp_path)
    steps = list_checkpoints(killed.checkpoints_dir)
    assert max(steps) > 0
    before = killed.metrics_path.read_bytes()
    assert 0 < seconds_to_next_step(killed, tmp_path / "resumed") < 60
    assert killed.metrics_path.read_bytes() == before  # only a copy was resumed
    rows = [row["step"] for row in resume.RunFolder(tmp_path / "resumed").read_metrics() if "train/loss" in row]
    assert max(rows) > max(steps)
