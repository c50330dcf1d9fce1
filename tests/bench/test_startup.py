"""Start-up times: which commands are timed, and beside what."""

import sys

import pytest

from primegpt.bench import startup
from primegpt.bench.startup import compare_checkpoints, killed_run, seconds_to_next_step, trained
from primegpt.config import resolve
from primegpt.errors import PrimegptError
from primegpt.run.checkpoint import list_checkpoints, verify_checkpoint


def test_each_table_begins_with_ours(monkeypatch):
    timed = []

    def milliseconds(command):
        timed.append(command[1:])
        return 100.0 if "primegpt" in command else 50.0

    monkeypatch.setattr(startup, "milliseconds_of", milliseconds)
    monkeypatch.setattr(startup, "milliseconds_to_output", milliseconds)
    monkeypatch.setattr(startup, "missing", lambda module: f"no {module}")
    found = startup.bench_startup(turns=2)
    assert [c.results[0].name.split(",")[0] for c in found] == [
        "primegpt --help",
        "import primegpt",
        "primegpt generate",
    ]
    assert all(comparison.less_is_better and comparison.unit == "ms" for comparison in found)
    assert found[0].ratio(found[0].results[1]) == 0.5
    assert found[1].results[2].absent == "no transformers"
    for command in (["-m", "primegpt", "--help"], ["-c", "pass"], ["-c", "import primegpt"], ["-c", "import torch"]):
        assert timed.count(command) >= 2  # turns
    generate = next(command for command in timed if "generate" in command)
    assert generate[-2:] == ["--max-new-tokens", "8"]
    alone = startup.bench_startup(turns=1, alone=True)
    assert [[result.name for result in c.results][1:] for c in alone] == [["python -c pass"], *[["import torch"]] * 2]


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
    monkeypatch.setattr(startup, "PRIMEGPT", [sys.executable, "-c", script])
    assert 0.2 < trained([], marks.exists) < 20


def test_a_training_that_fails_is_told_in_its_own_words(monkeypatch):
    monkeypatch.setattr(startup, "PRIMEGPT", [sys.executable, "-c", "raise SystemExit('no text to train on')"])
    with pytest.raises(PrimegptError, match="did not get on: no text to train on"):
        trained(["train"], lambda: False)


@pytest.mark.reliability
@pytest.mark.alone
def test_a_killed_run_goes_on(tmp_path):
    killed = killed_run(tmp_path)
    steps = list_checkpoints(killed.checkpoints_dir)
    assert max(steps) > 0
    before = killed.metrics_path.read_bytes()
    assert 0 < seconds_to_next_step(killed, tmp_path / "resumed") < 60
    assert killed.metrics_path.read_bytes() == before  # only a copy was resumed
    rows = [row["step"] for row in startup.RunFolder(tmp_path / "resumed").read_metrics() if "train/loss" in row]
    assert max(rows) > max(steps)
