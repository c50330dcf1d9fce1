"""Weights & Biases, MLflow and Trackio, each without a network, and read back with its own library."""

import json
import struct
import sys
from pathlib import Path

import pytest

from primegpt.cli.main import run

pytestmark = pytest.mark.peers
TINY = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "16"]
TINY += ["--train.eval_interval", "2", "--train.threads", "1", "--train.precision", "fp32", "--train.attention", "sdpa"]
TINY += ["--train.learning_rate", "0.004", "--generate.max_new_tokens", "8"]
STEPS = [1, 2, 3, 4, 4, 5, 6, 7, 8]  # the last line before the stop is told again: there might be others of its step


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a text, where all trackers keep to themselves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # TRL may have imported it, and with that its folder was chosen
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    Path("text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 400, encoding="utf-8")
    return tmp_path


def trained(tracker: str, capsys) -> str:
    """Train to step 4 and go on to step 8; what was said."""
    pytest.importorskip(tracker)
    assert run(["train", "text.txt", *TINY, "--train.max_steps", "4", "--train.track", tracker], 0.0) == 0
    assert run(["train", "--resume", "runs/text-1", "--train.max_steps", "8"], 0.0) == 0
    said = capsys.readouterr().err
    assert "warning: train.track" not in said
    return said


def logged(key: str) -> dict[int, float]:
    """What metrics.jsonl has of it, by step."""
    lines = map(json.loads, Path("runs/text-1/metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["step"]: pytest.approx(line[key]) for line in lines if key in line}


@pytest.mark.filterwarnings("ignore")  # that its own libraries have deprecated
def test_mlflow_has_one_run_with_every_value_and_setting(place, capsys):
    said = trained("mlflow", capsys)
    assert said.count(f"mlflow ui --backend-store-uri sqlite:///{place}/mlflow.db") == 2
    from mlflow import MlflowClient

    client = MlflowClient()
    (tracked,) = client.search_runs([client.get_experiment_by_name("primegpt").experiment_id])
    assert (tracked.info.run_name, tracked.info.status) == ("text-1", "FINISHED")
    assert tracked.data.params["train.learning_rate"] == "0.004"
    for key in ("train/loss", "val/loss", "final/val/loss"):
        history = client.get_metric_history(tracked.info.run_id, key)
        expected = logged(key)
        assert {metric.step for metric in history} - {4} == expected.keys() - {4}
        for metric in history:
            assert metric.step not in expected or metric.value == expected[metric.step]
    assert sorted(metric.step for metric in client.get_metric_history(tracked.info.run_id, "train/loss")) == STEPS


def test_trackio_has_one_run_with_every_value(place, capsys):
    said = trained("trackio", capsys)
    assert said.count("trackio show --project primegpt") == 2
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("primegpt")
    assert name.startswith("text-1-")
    rows = [row for row in SQLiteStorage.get_logs("primegpt", name) if "train/loss" in row]
    assert {row["step"]: row["train/loss"] for row in rows} == logged("train/loss")
    assert sorted(row["step"] for row in rows) == STEPS


def test_wandb_offline_has_the_whole_run_in_its_last_folder(place, capsys):
    said = trained("wandb", capsys)
    first, last = sorted((place / "wandb").glob("offline-run-*"))
    assert f"wandb sync {first}" in said
    assert f"wandb sync {last}" in said
    rows = [row for row in history_of(next(last.glob("*.wandb"))) if "train/loss" in row]
    assert {row["step"]: row["train/loss"] for row in rows} == logged("train/loss")
    assert len(rows) == 8


def history_of(path: Path) -> list[dict[str, float]]:
    """The rows of a file that `wandb sync` would send: LevelDB's log format, after a head of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, rows = path.read_bytes(), 7, b"", []
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left  # the rest of a block that is too small for a head is padding
            continue
        size, part = struct.unpack("<HB", data[at + 4 : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if part in (1, 4):  # a whole record, or its last part
            items = Record.FromString(whole).history.item
            rows.append({".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
            whole = b""
    return rows


@pytest.mark.parametrize("mode", ["online", "disabled"])
def test_wandb_without_an_account_or_switched_off_stops_nothing(place, capsys, monkeypatch, mode):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("NETRC", str(place / "nobody"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert run(["train", "text.txt", *TINY, "--train.max_steps", "2", "--train.track", "wandb"], 0.0) == 0
    said = capsys.readouterr().err
    assert said.count("warning: train.track: wandb fails: No API key") == (mode == "online")
    assert said.count("tracked    switched off") == (mode == "disabled")
