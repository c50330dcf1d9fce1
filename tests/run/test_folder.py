"""A run on disk: made once, never by accident on top of another, written by one process at a time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from primegpt.errors import CheckpointError, PrimegptError, RunFolderError
from primegpt.run import atomic
from primegpt.run.checkpoint import list_checkpoints, verify_checkpoint
from primegpt.run.folder import RunFolder, latest_run, next_run_path
from primegpt.run.saving import save_checkpoint


def make_run(path: Path, *steps: int) -> RunFolder:
    run = RunFolder.create(path)
    atomic.write_text_atomic(run.config_path, "[model]\n")
    for step in steps:
        save_checkpoint(run.checkpoints_dir, step, {"model": {"w": torch.full((2,), step)}}, {"step": step})
    return run


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


# Making and finding


def test_the_layout(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "a")
    assert sorted(os.listdir(run.path)) == ["checkpoints", "samples"]
    names = [run.config_path, run.tokenizer_dir, run.metrics_path, run.samples_dir, run.data_path, run.loss_png]
    assert [path.relative_to(run.path).as_posix() for path in names] == [
        *("config.toml", "tokenizer", "metrics.jsonl", "samples", "data.json", "loss.png")
    ]


def test_an_existing_run_is_refused_with_the_two_ways_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1)
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match=r"a already holds a run; .*`--resume .*a`.*`--overwrite`") as caught:
        RunFolder.create(run.path)
    assert caught.value.exit_code == 2
    assert contents(tmp_path) == before


def test_overwriting_deletes_a_run_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1, 2)
    run.append_metrics({"step": 1})
    run.point("best", 1)
    run.tokenizer_dir.mkdir()
    ours = ("tokenizer/tokenizer.json", "samples/step-000001.txt", "loss.png", "report.html", "data.json")
    mine = ("notes.txt", "samples/favourite.txt", "checkpoints/readme.md", "checkpoints/my-copy/model.safetensors")
    (run.checkpoints_dir / "my-copy").mkdir()
    for name in (*ours, *mine):
        (run.path / name).write_text(name, encoding="utf-8")
    again = RunFolder.create(run.path, overwrite=True)
    assert {name for name in contents(again.path) if name != ".lock"} == {str(Path(name)) for name in mine}
    assert not list_checkpoints(again.checkpoints_dir)
    assert again.checkpoints_dir.is_dir()


@pytest.mark.parametrize(
    "files", [["thesis.doc"], ["config.toml"], ["config.toml", "src/main.rs"], ["samples/a.wav", "x"]]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path: Path, files: list[str], overwrite: bool) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunFolderError, match="is not empty and holds no run; choose another folder with --out"):
        RunFolder.create(tmp_path, overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_and_a_creation_cut_short_are_free(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path)
    with run.lock():
        run.tokenizer_dir.mkdir()
    RunFolder.create(tmp_path)
    RunFolder.create(tmp_path, overwrite=True)


def test_checkpoints_without_a_config_are_still_not_buried(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1).config_path.unlink()
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(tmp_path / "a")
    RunFolder.create(tmp_path / "a", overwrite=True)


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunFolderError, match="file is a file"):
        RunFolder.create(tmp_path / "file")
    with pytest.raises(RunFolderError, match="file is a file, so there can be no run"):
        RunFolder.create(tmp_path / "file" / "run")


def test_overwriting_a_run_in_use_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1)
    with run.lock(), pytest.raises(RunFolderError, match="in use"):
        RunFolder.create(run.path, overwrite=True)
    assert list(list_checkpoints(run.checkpoints_dir)) == [1]


def test_a_missing_run_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match=r"there is no run a; make one with `primegpt train SOURCE`"):
        RunFolder.open(Path("a"))
    make_run(Path("runs/shakespeare-1"))
    make_run(Path("runs/imdb-1"))
    assert RunFolder.open(Path("runs/imdb-1")).path == Path("runs/imdb-1")
    nearest = str(Path("runs/shakespeare-1"))
    for wrong in ("runs/shakespear-1", "runs/shakespeare", "shakespeare-1"):
        with pytest.raises(RunFolderError) as caught:
            RunFolder.open(Path(wrong))
        assert nearest in str(caught.value).replace("\\\\", "\\")
    with pytest.raises(RunFolderError, match=r"is not a run: it has no config\.toml"):
        RunFolder.open(Path("runs"))


def test_the_next_free_name_makes_nothing(tmp_path: Path) -> None:
    base = tmp_path / "runs"
    assert next_run_path("a", base) == base / "a-1"
    assert not base.exists()
    for name in ("a-1", "a-2", "a-4", "b-3"):
        (base / name).mkdir(parents=True)
    assert next_run_path("a", base) == base / "a-3"
    assert next_run_path("a").parts == ("runs", "a-1")


def test_the_latest_run_is_the_one_written_to_last(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="there is no run in"):
        latest_run(tmp_path)
    for number, name in enumerate("abc"):
        run = make_run(tmp_path / name)
        os.utime(run.config_path, (number, number))
    (tmp_path / "d").mkdir()
    assert latest_run(tmp_path).name == "c"
    run = RunFolder.open(tmp_path / "a")
    run.append_metrics({"step": 0})
    assert latest_run(tmp_path).name == "a"


# One writer

HOLD = """
import sys, time
from pathlib import Path
from primegpt.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(run: RunFolder) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_within_two_seconds_and_told_which_has_it(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path)
    with holder(run) as process:
        start = time.monotonic()
        with pytest.raises(RunFolderError, match=rf"in use by another process \(pid {process.pid}\)"), run.lock():
            pass
        assert time.monotonic() - start < 2
        (tmp_path / ".lock.pid").unlink()
        with pytest.raises(RunFolderError, match="in use by another process; wait"), run.lock():
            pass
        process.communicate("done\n")
        assert process.returncode == 0
    with run.lock():
        assert (tmp_path / ".lock.pid").read_text(encoding="utf-8") == f"{os.getpid()}\n"
    assert not (tmp_path / ".lock.pid").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path)
    with holder(run) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / ".lock").exists()
        assert (tmp_path / ".lock.pid").exists()
        with run.lock():
            pass


def test_locking_twice_in_one_process_is_refused(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path)
    with run.lock():
        with pytest.raises(RunFolderError, match="in use"), RunFolder(tmp_path).lock():
            pass
        command = [sys.executable, "-c", HOLD, str(run.path)]
        result = subprocess.run(command, capture_output=True, text=True, input="\n")
        assert "in use by another process" in result.stderr  # the first lock outlives the refusal of the second
    with run.lock():
        pass


def test_locking_clears_what_a_dead_process_left(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1, 2)
    (run.checkpoints_dir / "step-000002").rename(run.checkpoints_dir / ".trash-step-000002-7")
    (run.checkpoints_dir / ".tmp-step-000003-7").mkdir()
    for name in (".tmp-best-7", "samples/.tmp-step-000001.txt-7"):
        (run.path / name).write_text("half", encoding="utf-8")
    with run.lock():
        assert list(list_checkpoints(run.checkpoints_dir).values())[-1].name == "step-000002"
    assert not list(run.path.rglob(".tmp*"))
    assert not list(run.path.rglob(".trash*"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "gone")
    with pytest.raises(PrimegptError, match=r"could not (lock|write)") as caught:
        run.append_metrics({"step": 1})
    assert "\n" not in str(caught.value)
    (tmp_path / "gone").write_text("a file", encoding="utf-8")
    with pytest.raises(RunFolderError, match="could not lock"), run.lock():
        pass


@pytest.mark.skipif(os.name == "nt", reason="modes mean little on Windows")
def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1)
    run.path.chmod(0o555)
    run.checkpoints_dir.chmod(0o555)
    try:
        if os.access(run.path, os.W_OK):
            pytest.skip("root may write anywhere")
        with pytest.raises(RunFolderError, match="could not lock"), run.lock():
            pass
        with pytest.raises(PrimegptError, match=r"could not save step 2 .* last good is step 1"):
            save_checkpoint(run.checkpoints_dir, 2, {}, {})
        assert run.load_checkpoint("best", print).step == 1
    finally:
        run.path.chmod(0o755)
        run.checkpoints_dir.chmod(0o755)


# Metrics


def test_metrics_are_one_object_a_line(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path)
    assert run.read_metrics() == []
    nan, inf = float("nan"), float("inf")
    run.append_metrics({"step": 0, "val/loss": nan, "parts": [1.5, -inf, {"x": inf}]})
    run.append_metrics({"step": 1, "train/loss": 0.1 + 0.2, "name": "é\n"})
    lines = run.metrics_path.read_bytes().split(b"\n")
    assert len(lines) == 3
    assert lines[-1] == b""
    assert [json.loads(line) for line in lines[:-1]] == run.read_metrics()
    assert run.read_metrics() == [
        {"step": 0, "val/loss": None, "parts": [1.5, None, {"x": None}]},
        {"step": 1, "train/loss": 0.1 + 0.2, "name": "é\n"},
    ]
    run.sync_metrics()


def test_truncating_drops_later_rows_and_torn_lines_and_keeps_the_rest_to_the_byte(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path)
    run.truncate_metrics(lambda row: True)
    assert not run.metrics_path.exists()
    whole = b'{"step": 1, "lr": 6e-4}\n{"lr":0.00060, "step":2}\n'
    torn = b'{"step": 2, "lr'
    run.metrics_path.write_bytes(whole + b'{"step": 3}\n' + torn)
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3]
    run.truncate_metrics(lambda row: row["step"] <= 2)
    assert run.metrics_path.read_bytes() == whole
    run.metrics_path.write_bytes(whole + torn + b'{"step": 3}\n' + b"\xff\n[1]\n\n" + whole[:-1])
    run.truncate_metrics(lambda row: True)
    assert run.metrics_path.read_bytes() == whole + whole
    assert sorted(os.listdir(run.path)) == ["MANIFEST.json", "checkpoints", "metrics.jsonl", "samples"]


NO_LINES = [
    *(b'{"step": 1', b"\xff\xfe", b"[1]", b"null", b"[" * 100_000, b'{"stap": 1}', b'{"step": "1"}', b'{"step": -1}'),
    *(b'{"step": 1e3}', b'{"step": true}', b'{"step": 9' + b"9" * 5000 + b"}"),
]


@pytest.mark.parametrize("line", NO_LINES)
def test_a_line_that_is_no_longer_one_is_counted(tmp_path: Path, line: bytes) -> None:
    run = make_run(tmp_path)
    run.metrics_path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n{"step')
    assert [row["step"] for row in run.read_metrics()] == [0, 2]
    assert run.damages() == [f"left out, since damaged: 1 line of {run.metrics_path}"]


def test_what_lies_outside_the_checkpoints_is_known_by_its_hash(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.append_metrics({"step": 0, "val/loss": 4.25})
    run.data_path.write_text("{}", encoding="utf-8")
    run.write_sample(0, "once")
    assert run.damages() == []
    run.append_metrics({"step": 1})  # more lines are to be expected
    assert run.damages() == []
    whole = contents(tmp_path)
    changes = {
        "metrics.jsonl": lambda data: data.replace(b"4.25", b"4.35"),
        "samples/step-000000.txt": lambda data: b"twice",
        "data.json": lambda data: b"{ }",
    }
    for name, change in changes.items():
        (tmp_path / name).write_bytes(change(whole[str(Path(name))]))
        assert run.damages() == [f"{tmp_path / name} is not as it was written"]
        (tmp_path / name).unlink()
        assert len(run.damages()) == 1
        assert f"{tmp_path / name} cannot be read" in run.damages()[0]
        (tmp_path / name).write_bytes(whole[str(Path(name))])
    (tmp_path / "MANIFEST.json").write_bytes(whole["MANIFEST.json"][:-9])
    assert "what lies outside the checkpoints cannot be checked" in run.damages()[0]


def test_killed_while_lines_are_cut_off_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    for step in range(5):
        run.append_metrics({"step": step})
    run.seal()
    run.append_metrics({"step": 5})
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_bytes_atomic", dying_before(run.metrics_path))
        with pytest.raises(KeyboardInterrupt):
            run.truncate_metrics(lambda row: row["step"] < 3)
    assert len(run.read_metrics()) == 6
    assert run.damages() == []


def dying_before(file: Path) -> Callable[[Path, bytes], None]:
    write = atomic.write_bytes_atomic

    def write_or_die(path: Path, data: bytes) -> None:
        if path == file:
            raise KeyboardInterrupt
        write(path, data)

    return write_or_die


# Checkpoints


def test_best_last_and_a_step(tmp_path: Path) -> None:
    run = make_run(tmp_path, 100, 200, 300)
    assert run.checkpoint_path().name == "step-000300"  # no best yet
    assert run.pointed("best") is None
    run.point("best", 200)
    run.point("last", 100)  # only a hint
    assert (run.path / "best").read_bytes() == b"step-000200\n"
    assert run.pointed("best") == 200
    names = {which: run.checkpoint_path(which).name for which in ("best", "last", 100, "100", "step-000100")}
    assert list(names.values()) == ["step-000200", "step-000300", *["step-000100"] * 3]
    for junk in (b"", b"step-000400\n", b"../../etc", b"\xff\xfe"):
        (run.path / "best").write_bytes(junk)
        assert run.checkpoint_path("best").name == "step-000300"


@pytest.mark.parametrize("which", [150, "150", "newest", "step-", "../a", -1])
def test_an_unknown_checkpoint_names_the_steps_there_are(tmp_path: Path, which: int | str) -> None:
    run = make_run(tmp_path, 100, 200)
    with pytest.raises(RunFolderError, match=r"has no checkpoint .*: 100, 200$"):
        run.checkpoint_path(which)


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(RunFolderError, match="has no checkpoint yet; train it: `primegpt train --resume"):
        run.load_checkpoint("best", print)


def test_a_damaged_best_falls_back_loudly_but_a_named_step_does_not(tmp_path: Path) -> None:
    run, warnings = make_run(tmp_path, 100, 200, 300), list[str]()
    run.point("best", 100)
    assert run.load_checkpoint("best", warnings.append, ["model"]).step == 100
    assert not warnings
    for step in (100, 300):
        (run.checkpoints_dir / f"step-{step:06d}" / "model.safetensors").write_bytes(b"")
    assert run.load_checkpoint("last", warnings.append).step == 200
    assert len(warnings) == 1
    assert "step-000300" in warnings[0]
    assert run.load_checkpoint("best", warnings.append).step == 200
    assert "step-000100" in warnings[1]
    with pytest.raises(CheckpointError, match="step-000100"):
        run.load_checkpoint(100, warnings.append)
    run.point("best", 999)
    assert run.load_checkpoint("best", warnings.append).step == 200


def test_pruning_keeps_the_last_few_the_best_and_the_milestones(tmp_path: Path) -> None:
    run = make_run(tmp_path, *range(0, 1000, 100))
    run.point("best", 300)
    run.prune(keep_last=2, keep_milestones=True)
    existing = list_checkpoints(run.checkpoints_dir)
    assert list(existing) == [0, 100, 200, 300, 500, 800, 900]
    run.prune()
    assert list(list_checkpoints(run.checkpoints_dir)) == [300, 800, 900]


def test_what_nothing_goes_on_from_is_none_of_the_last_few(tmp_path: Path) -> None:
    run = make_run(tmp_path, 0, 100, 200)
    for step in (1, 2, 5, 210, 220, 250):
        save_checkpoint(run.checkpoints_dir, step, {"model": {"w": torch.zeros(2)}}, {}, resumable=False)
    run.prune(keep_last=2, keep_milestones=True)
    existing = list_checkpoints(run.checkpoints_dir)
    assert list(existing) == [0, 1, 2, 5, 100, 200]
    assert [step for step, path in existing.items() if verify_checkpoint(path).resumable] == [100, 200]


def test_weights_after_the_step_that_a_run_goes_on_from_are_undone(tmp_path: Path) -> None:
    run = make_run(tmp_path, 0, 100, 200)
    for step in (1, 110, 150):
        save_checkpoint(run.checkpoints_dir, step, {"model": {"w": torch.zeros(2)}}, {}, resumable=False)
    run.undo_after(100)
    assert list(list_checkpoints(run.checkpoints_dir)) == [0, 1, 100, 200]  # a newer one that is damaged is not hidden


def test_last_never_names_what_nothing_goes_on_from(tmp_path: Path) -> None:
    run = make_run(tmp_path, 0, 100, 200)
    save_checkpoint(run.checkpoints_dir, 150, {"model": {"w": torch.zeros(2)}}, {}, resumable=False)
    run.discard(200)
    assert run.pointed("last") == 100


def test_a_run_can_be_moved(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1)
    run.point("best", 1)
    run.path.rename(tmp_path / "b")
    assert RunFolder.open(tmp_path / "b").load_checkpoint("best", print).step == 1


def test_a_seal_takes_in_what_is_new_and_nothing_that_was_sealed_before(tmp_path: Path) -> None:
    """It read all of metrics.jsonl and every sample again: long runs got slow, and damage in between was sealed in."""
    run = make_run(tmp_path)
    for step in range(3):
        run.append_metrics({"step": step, "val/loss": 4.25})
        run.write_sample(step, f"text {step}")
    run.metrics_path.write_bytes(run.metrics_path.read_bytes().replace(b"4.25", b"4.35", 1))
    run.sample_path(1).write_text("other")
    run.append_metrics({"step": 3})
    run.write_sample(3, "text 3")
    assert run.damages() == [
        f"{run.metrics_path} is not as it was written",
        f"{run.sample_path(1)} is not as it was written",
    ]
    run.write_sample(1, "anew")
    run.truncate_metrics(lambda row: row["step"] < 2)
    run.append_metrics({"step": 2})
    run.seal()
    assert run.damages() == []


def test_seals_of_a_run_that_goes_on_elsewhere_are_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.append_metrics({"step": 0})
    run.write_sample(0, "once")
    run.append_metrics({"step": 1})
    run.seal()
    sealed = (tmp_path / "MANIFEST.json").read_bytes()
    again = RunFolder(tmp_path)
    again.seal()
    assert (tmp_path / "MANIFEST.json").read_bytes() == sealed
