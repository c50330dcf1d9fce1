"""What can happen to a run, through the command line: one line, an exit code, and a run that goes on where it was."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from primegpt.cli.main import run
from primegpt.run import atomic
from primegpt.run.checkpoint import list_checkpoints, load_checkpoint
from primegpt.run.folder import RunFolder
from primegpt.training import trainer
from primegpt.training.metrics import TIMING_KEYS

FLAGS = [
    "--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "16",
    "--tokenizer.kind", "char", "--train.max_steps", "6", "--train.batch_size", "2", "--train.threads", "1",
    "--train.eval_interval", "2", "--train.log_interval", "1", "--train.precision", "fp32",
    "--train.attention", "sdpa", "--data.val_tokens", "64", "--generate.max_new_tokens", "3",
]  # fmt: skip
BEGIN = ["train", "text.txt", "--out", "run", *FLAGS]
RESUME = ["train", "--resume", "run"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a text, a cache and a run of six steps, to be copied."""
    place = tmp_path_factory.mktemp("finished")
    (place / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("PRIMEGPT_CACHE", "cache")
        assert run(BEGIN, 0.0) == 0
    return place


@pytest.fixture
def place(finished, tmp_path, monkeypatch) -> Path:
    shutil.copytree(finished, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("PRIMEGPT_CACHE", "cache")
    return tmp_path / "place"


@pytest.fixture
def command(capsys):
    """Carry out a command that ends with `code`; the last line that it said."""

    def carry_out(arguments: list[str], code: int = 0) -> str:
        capsys.readouterr()
        assert run(arguments, 0.0) == code
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert said.count("primegpt: ") == bool(code)
        return said if code == 0 else said.splitlines()[-1]

    return carry_out


def outcome(path: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    rows = [{k: v for k, v in row.items() if k not in TIMING_KEYS} for row in RunFolder(path).read_metrics()]
    return rows, load_checkpoint(path / "checkpoints" / "step-000006").tensors["model"]


def assert_as_finished(path: Path, finished: Path) -> None:
    (rows, weights), (expected, theirs) = outcome(path), outcome(finished / "run")
    assert rows == expected
    assert all(torch.equal(weights[name], tensor) for name, tensor in theirs.items())


def steps(path: Path) -> list[int]:
    return list(list_checkpoints(path / "checkpoints"))


def rewind(path: Path, step: int) -> None:
    """As if the process had been killed behind `step`."""
    for later in [found for found in steps(path) if found > step]:
        shutil.rmtree(path / "checkpoints" / f"step-{later:06d}")


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_weights_ruined_at_a_step(place, finished, command, monkeypatch):
    """Nothing of them is saved, the last good step is named, and once the fault is gone the run ends as it should."""
    shutil.rmtree("run")
    calls, update = 0, trainer.update

    def ruinous(model, *arguments):
        nonlocal calls
        calls += 1
        norm = update(model, *arguments)
        if calls == 4:
            with torch.no_grad():
                model.wte.weight[5, 5] = float("nan")
        return norm

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "update", ruinous)
        line = command(BEGIN, 1)
    assert "weights became NaN or infinite at step 4; last good is step 2" in line
    assert steps(Path("run")) == [0, 2]
    command(RESUME)
    assert_as_finished(Path("run"), finished)


@pytest.mark.parametrize(
    ("file", "number"),
    [
        ("metrics.jsonl", errno.ENOSPC),
        ("model.safetensors", errno.ENOSPC),
        ("model.safetensors", errno.EIO),
        ("evaluation.json", errno.EROFS),
        ("step-000004.txt", errno.ENOSPC),
    ],
)
def test_a_disk_that_refuses_during_a_run(place, finished, command, monkeypatch, file, number):
    rewind(Path("run"), 2)
    perform, writes = atomic.perform, 0

    def failing(operation, *arguments, **options):
        nonlocal writes
        name = (
            Path(getattr(getattr(operation, "__self__", None), "name", "")).name
            if operation.__name__ == "write"
            else ""
        )
        writes += file in name
        if file in name and (file != "metrics.jsonl" or writes > 3):
            raise OSError(number, os.strerror(number))
        return perform(operation, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "perform", failing)
        line = command(RESUME, 1)
    assert os.strerror(number) in line
    saved = max(steps(Path("run")))
    assert f"last good is step {saved}" in line
    assert saved == (2 if file in ("metrics.jsonl", "model.safetensors") else 4)
    command(RESUME)
    assert_as_finished(Path("run"), finished)


def test_a_folder_that_may_not_be_written(place, command, monkeypatch):
    perform = atomic.perform

    def read_only(operation, *arguments, **options):
        if operation.__name__ == "mkdir":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return perform(operation, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "perform", read_only)
        line = command([*BEGIN[:3], "elsewhere", *BEGIN[4:]], 2)
    assert "could not create the run elsewhere: Read-only file system; choose a folder that can be written" in line


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_run_that_may_not_be_written(place, command):
    for folder in ("run", "run/checkpoints"):
        os.chmod(folder, 0o555)
    try:
        assert "could not lock run: Permission denied; is it read-only?" in command(RESUME, 2)
    finally:
        for folder in ("run", "run/checkpoints"):
            os.chmod(folder, 0o755)


def test_a_damaged_newest_checkpoint(place, finished, command):
    rewind(Path("run"), 4)
    flip_a_bit(Path("run/checkpoints/step-000004/optimizer.safetensors"))
    said = command(RESUME)
    assert "step-000004/optimizer.safetensors is damaged" in said.replace(os.sep, "/")
    assert "using step-000002 instead" in said
    assert "continuing at step 2 of 6" in said
    assert_as_finished(Path("run"), finished)


def test_no_checkpoint_is_whole(place, command):
    before = steps(Path("run"))
    for step in before:
        flip_a_bit(Path(f"run/checkpoints/step-{step:06d}/model.safetensors"))
    line = command(RESUME, 1)
    assert line.startswith("primegpt: no checkpoint is whole: ")
    assert f"step-{max(before):06d}" in line
    assert "model.safetensors is damaged" in line
    assert steps(Path("run")) == before


def test_a_changed_text(place, finished, command):
    """The run has its text in the cache and goes on; without the cache it needs the same text again."""
    rewind(Path("run"), 4)
    text = Path("text.txt").read_text(encoding="utf-8")
    Path("text.txt").write_text(text.replace("dog", "cat"), encoding="utf-8")
    shutil.copytree("run", "twin")
    command(RESUME)
    assert_as_finished(Path("run"), finished)
    shutil.rmtree("cache")
    line = command(["train", "--resume", "twin"], 2)
    recorded = json.loads(Path("twin/data.json").read_bytes())["source_fingerprint"]
    assert f"the text of this run has changed: its fingerprint was {recorded} and is now " in line
    Path("text.txt").write_text(text, encoding="utf-8")
    command(["train", "--resume", "twin"])
    assert_as_finished(Path("twin"), finished)


@pytest.mark.parametrize("arguments", [RESUME, ["generate", "run", "the"], ["evaluate", "run"]])
def test_a_changed_tokenizer(place, command, arguments):
    other = ["tokenizer", "train", "text.txt", "--kind", "bpe", "--vocab-size", "270", "--out", "other"]
    command(other)
    shutil.rmtree("run/tokenizer")
    shutil.copytree("other", "run/tokenizer")
    line = command(arguments, 2)
    for folder in (Path("other"), next(Path("cache/data").glob("*/tokenizer"))):
        assert json.loads((folder / "primegpt.json").read_bytes())["fingerprint"] in line


def test_a_second_writer_is_refused_within_two_seconds(place, command):
    """Before anything is prepared, whether it would go on with the run or replace it."""
    shutil.rmtree("cache")
    with RunFolder(Path("run")).lock():
        for arguments in (RESUME, [*BEGIN, "--overwrite"], BEGIN):
            started = time.monotonic()
            line = command(arguments, 2)
            assert time.monotonic() - started < 2
            assert ("in use by another process" in line) == (arguments != BEGIN)
        code = "import sys; from primegpt.cli.main import run; assert run(sys.argv[1:], 0.0) == 2; "
        code += "assert 'torch' not in sys.modules"  # whose import alone takes seconds
        subprocess.run([sys.executable, "-c", code, *RESUME], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([sys.executable, "-c", code, *BEGIN, "--overwrite"], check=True, stderr=subprocess.DEVNULL)
    assert not Path("cache").exists()


def test_the_lock_ends_with_its_process(place, command):
    code = "import sys, time; from pathlib import Path; from primegpt.run.folder import RunFolder\n"
    code += "with RunFolder(Path('run')).lock(): print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        assert f"in use by another process (pid {process.pid})" in command(RESUME, 2)
        process.kill()
    command(RESUME)
