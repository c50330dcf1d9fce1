"""What can happen to a run, through the command line: one line, an exit code, and a run that goes on where it was."""

import errno
import io
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
from primegpt.run.saving import save_checkpoint
from primegpt.training import trainer
from primegpt.training.progress import TIMING_KEYS

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


def edit(key: str, value: object, run: str = "run") -> object:
    """Change one line of a run's config.toml, or remove it with None; what stood there, as TOML has it."""
    section, name = key.split(".")
    lines = Path(run, "config.toml").read_text(encoding="utf-8").splitlines()
    start = lines.index(f"[{section}]")
    where = next((i for i in range(start + 1, len(lines)) if lines[i].split(" = ")[0] == name), start + 1)
    was = lines[where].partition(" = ")[2] if where > start + 1 or lines[where].startswith(f"{name} = ") else None
    line = [] if value is None else [f"{name} = {json.dumps(value)}"]
    lines[where : where + (was is not None)] = line
    Path(run, "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return was


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.rope_theta", 20000.0), ("model.norm_eps", 1e-2), ("train.sequence_length", 8), ("model.n_head", 1)],
)
def test_an_edited_network_changes_nothing_that_a_checkpoint_computes(place, command, capsys, key, value):
    def said() -> list[str]:
        out = []
        for arguments in (["generate", "run", "the", "--json"], ["evaluate", "run", "--json"]):
            capsys.readouterr()
            assert run(arguments, 0.0) == 0
            out.append(capsys.readouterr().out)
        return out

    before = said()
    was = edit(key, value)
    assert said() == before
    if key.startswith("model."):
        line = command(["generate", "run", "the"])
        assert f"{key} was {was}, is {value}; step-000006 was trained with the former, which is used" in line
        # prime does not go there, whatever config.toml says
        assert run(["export", "run", "--to", "gguf", "--out", "out.gguf"], 0.0) == 2


def test_how_to_generate_can_be_edited(place, command):
    edit("generate.temperature", 0.5)
    assert "generate.temperature was 0.9, is 0.5, which is used" in command(["generate", "run", "the"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.n_layer", 2),
        ("model.vocab_size", 28),
        ("model.rope_theta", 9999.0),
        ("tokenizer.kind", "bpe"),
        ("data.template", "chat"),
        ("data.val_fraction", 0.2),
        ("train.optimizer", "adamw"),
        ("train.attention", "auto"),
        ("train.max_steps", None),
        ("train.eval_interval", None),
        ("plan.run", "0123456789abcdef"),
        ("plan.training_seconds", 5.0),
    ],
)
def test_an_edit_that_a_run_cannot_go_on_with(place, command, key, value):
    rewind(Path("run"), 4)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    was = edit(key, value)
    line = command(RESUME, 1 if key == "plan.run" else 2)
    if key == "plan.run":
        assert "step-000004 belongs to another run" in line
    else:
        now = "unset" if value is None else repr(value)
        assert f"{key} was {json.loads(was)!r}, is {now}" in line
    after = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != ".lock"}
    assert {path for path in after if after[path] != before.get(path)} == {Path("run/config.toml")}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.seed", 7),
        ("train.learning_rate", 1e-3),
        ("train.muon_learning_rate", 1e-3),
        ("train.beta2", 0.5),
        ("train.batch_size", 4),
        ("train.gradient_accumulation_steps", 2),
        ("train.precision", "bf16"),
        ("train.attention", "explicit"),
        ("train.schedule", "constant"),
        ("train.warmup_steps", 3),
        ("train.weight_decay", 0.5),
        ("train.grad_clip", 0.01),
        ("train.patience", 5),
        ("train.sequence_length", 8),
        ("model.dropout", 0.5),
        ("data.stride", 3),
        ("data.val_tokens", 32),
        ("data.isolate_documents", True),
        ("generate.max_new_tokens", 4),
    ],
)
def test_an_edit_that_a_run_goes_on_with_is_said_once(place, command, key, value):
    rewind(Path("run"), 4)
    was = edit(key, value)
    before = "unset" if was is None else repr(json.loads(was))
    assert f"changed    {key} was {before}, is {value!r}" in command(RESUME)
    assert "changed    " not in command(RESUME)


def test_a_number_of_steps_that_is_edited_extends_a_run(place, command):
    """As a budget on the command line does, whether the run is killed on the way or not."""
    shutil.copytree("run", "twin")
    shutil.copytree("run", "killed")
    command(["train", "--resume", "twin", "--train.max_steps", "8"])
    for name in ("run", "killed"):
        edit("train.max_steps", 8, name)
        said = command(["train", "--resume", name])
        assert "changed    train.max_steps was 6, is 8" in said
        assert "extended to step 8" in said
        assert steps(Path(name))[-1] == 8
        if name == "killed":
            shutil.rmtree("killed/checkpoints/step-000008")
            assert "continuing at step 6 of 8" in command(["train", "--resume", name])
    final = [load_checkpoint(Path(name, "checkpoints/step-000008")).tensors for name in ("twin", "run", "killed")]
    for stem, tensors in final[0].items():
        for other in final[1:]:
            assert all(torch.equal(other[stem][name], tensor) for name, tensor in tensors.items())
    edit("train.max_steps", 7)
    assert "is at step 8 already" in command(RESUME, 2)


def test_a_configuration_that_was_cut_short(place, command):
    """With checkpoints to compare it with, and, of a run that was killed at once, without."""
    text = Path("run/config.toml").read_text(encoding="utf-8")
    Path("run/config.toml").write_text(text[: text.index("[train]")], encoding="utf-8")
    assert "belongs to another run" in command(RESUME, 1)
    Path("run/config.toml").write_text(text.replace('attention = "sdpa"\n', ""), encoding="utf-8")
    shutil.rmtree("run/checkpoints")
    assert "config.toml does not say train.attention: it was edited, or cut short" in command(RESUME, 2)


def test_a_checkpoint_of_another_run_is_not_adopted(place, finished, command):
    command([*BEGIN[:3], "other", *BEGIN[4:]])
    rewind(Path("run"), 4)
    shutil.copytree("other/checkpoints/step-000006", "run/checkpoints/step-000006")
    said = command(["generate", "run", "the"])
    assert "step-000006 belongs to another run" in said.replace(os.sep, "/")
    said = command(RESUME)
    assert "using step-000004 instead" in said
    assert_as_finished(Path("run"), finished)


def test_a_run_from_before_runs_had_an_identity(place, finished, command):
    """It opens and goes on; its checkpoints then say what they said before."""
    rewind(Path("run"), 4)
    edit("plan.run", None)
    for path in Path("run/checkpoints").iterdir():
        found = load_checkpoint(path)
        del found.state["config"]["plan"]["run"]
        save_checkpoint(path.parent, found.step, found.tensors, found.state, resumable=found.resumable)
    assert "belongs to" not in command(["generate", "run", "the"])
    said = command(RESUME)
    assert "continuing at step 4 of 6" in said
    assert "changed" not in said
    assert_as_finished(Path("run"), finished)


def damaged(file: str, how: str) -> None:
    """Do to a file of the run what a disk or a person may."""
    path = Path("run", file)
    content = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if how != "deleted":
        kinds = {"emptied": b"", "garbage": b"\xff\xfe\x00{", "cut": content[: len(content) // 2], "list": b"[1, 2]"}
        path.write_bytes(kinds.get(how, b"[" * 100000))


@pytest.mark.parametrize("how", ["deleted", "emptied", "garbage", "cut", "list", "deep"])
def test_a_record_of_the_text_that_is_damaged_is_made_good(place, finished, command, how):
    """The checkpoint knows what it was trained on; from a run of an earlier version it is one line."""
    rewind(Path("run"), 4)
    whole = Path("run/data.json").read_bytes()
    damaged("data.json", how)
    shutil.copytree("run", "old")
    assert "what the checkpoint knows of the text is used" in command(["evaluate", "run"])
    assert "imported" not in command(["report", "run"])
    said = command(RESUME)
    assert "run/data.json" in said.replace(os.sep, "/")
    assert_as_finished(Path("run"), finished)
    record = json.loads(Path("run/data.json").read_bytes())
    assert record == {name: value for name, value in json.loads(whole).items() if name != "audit"}

    for path in Path("old/checkpoints").iterdir():
        found = load_checkpoint(path)
        del found.state["data"]
        save_checkpoint(path.parent, found.step, found.tensors, found.state, resumable=found.resumable)
    for arguments in (["evaluate", "old"], ["train", "--resume", "old"]):
        assert "data.json" in command(arguments, 2)


def test_a_record_of_another_text_is_not_believed(place, finished, command):
    Path("other.txt").write_text("something else altogether, again and again\n" * 60, encoding="utf-8")
    command(["train", "other.txt", "--out", "other", *FLAGS])
    rewind(Path("run"), 4)
    shutil.copy("other/data.json", "run/data.json")
    assert "than the checkpoint, whose is used" in command(["evaluate", "run"])
    assert "run/data.json is not as it was written" in command(RESUME).replace(os.sep, "/")
    assert_as_finished(Path("run"), finished)


@pytest.mark.parametrize("how", ["deleted", "emptied", "garbage", "cut", "list", "deep"])
def test_metrics_that_are_damaged_are_told_and_a_run_goes_on(place, finished, command, how):
    rewind(Path("run"), 4)
    command(["report", "run"])
    assert "metrics.jsonl" not in Path("run/report.html").read_text(encoding="utf-8")
    damaged("metrics.jsonl", how)
    command(["report", "run"])
    assert "metrics.jsonl" in Path("run/report.html").read_text(encoding="utf-8")
    assert "damaged    " in command(RESUME)
    assert_weights_as_finished(Path("run"), finished)
    assert "damaged    " not in command(RESUME)


def test_checkpoints_that_are_gone_are_told_and_a_run_begins_again(place, finished, command):
    shutil.rmtree("run/checkpoints")
    assert "holds no checkpoint, though" in command(RESUME)
    assert_as_finished(Path("run"), finished)


def test_a_digit_of_a_loss_that_changed_is_told(place, finished, command):
    rewind(Path("run"), 4)
    path = Path("run/metrics.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"val/loss": 3', b'"val/loss": 2', 1))
    assert "run/metrics.jsonl is not as it was written" in command(RESUME).replace(os.sep, "/")
    assert_weights_as_finished(Path("run"), finished)


def assert_weights_as_finished(path: Path, finished: Path) -> None:
    weights, theirs = outcome(path)[1], outcome(finished / "run")[1]
    assert all(torch.equal(weights[name], tensor) for name, tensor in theirs.items())


def test_a_missing_folder_of_samples_is_made_again(place, finished, command):
    rewind(Path("run"), 4)
    shutil.rmtree("run/samples")
    assert "run/samples/step-000000.txt cannot be read" in command(RESUME).replace(os.sep, "/")
    assert_as_finished(Path("run"), finished)
    assert Path("run/samples/step-000006.txt").exists()


@pytest.mark.parametrize("content", [None, "", "step-000002\n", "step-000099\n", "\x00"])
def test_the_best_checkpoint_is_the_one_that_was_the_best(place, command, capsys, content):
    best = Path("run/best").read_text(encoding="utf-8")
    assert best != "step-000002\n"
    run(["generate", "run", "the"], 0.0)
    before = capsys.readouterr().out
    Path("run/best").unlink()
    if content is not None:
        Path("run/best").write_text(content, encoding="utf-8")
    assert run(["generate", "run", "the"], 0.0) == 0
    captured = capsys.readouterr()
    assert captured.out == before
    assert f"but the best evaluation was that of {best.strip()}, which is used" in captured.err


def test_an_evaluation_of_another_run_is_not_its_own(place, finished, command):
    """At the same step; it would be committed in place of the one that was interrupted."""
    command([*BEGIN[:3], "other", *BEGIN[4:], "--train.seed", "5"])
    rewind(Path("run"), 4)
    shutil.copy("other/checkpoints/step-000004/evaluation.json", "run/checkpoints/step-000004/evaluation.json")
    assert "evaluation.json belongs to another checkpoint; evaluating again" in command(RESUME)
    assert_as_finished(Path("run"), finished)


# What a person does to a run's surroundings


class Gone(io.StringIO):
    """A stream whose reader leaves after the first lines."""

    def write(self, text: str) -> int:
        if self.getvalue().count("\n") >= 2:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        return super().write(text)


def test_training_goes_on_when_nobody_reads_what_it_says(place, finished, monkeypatch):
    for name, arguments in (("run", RESUME), ("new", [*BEGIN[:3], "new", *BEGIN[4:]])):
        rewind(Path("run"), 2)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Gone())
            patch.setattr(sys, "stdout", Gone())
            assert run(arguments, 0.0) == 0
        assert_as_finished(Path(name), finished)


def test_what_writes_to_standard_output_ends_with_its_reader(place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Gone())
        assert run(["info", "run"], 0.0) == 0
        assert sys.stdout.getvalue().count("\n") == 2


@pytest.mark.reliability
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a shell and /dev/full")
@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("2>&1 | head -n 3", 0),
        (">/dev/null 2>&-", 0),
        ("<&- >&- 2>&-", 0),
        (">/dev/null 2>/dev/full", 0),
        (">/dev/full 2>/dev/full", 1),
        (">/dev/full", 1),
    ],
)
def test_a_command_line_whose_output_goes_nowhere(place, finished, ending, code):
    rewind(Path("run"), 2)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} if "|" in ending else os.environ
    shell = f"set -o pipefail; {sys.executable} -m primegpt train --resume run {ending}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == code, done
    assert_as_finished(Path("run"), finished)
    if ending == ">/dev/full":
        assert done.stderr.splitlines()[-1].startswith("primegpt: the output cannot be written: No space left")


def test_a_lock_that_is_deleted_under_a_run_stops_it(place, finished, command, monkeypatch):
    """A second process can then have the lock of a new file; the first notices before it writes again."""
    rewind(Path("run"), 2)
    update, stolen = trainer.update, []

    def stealing(*arguments):
        if not stolen:
            os.unlink("run/.lock")
            stolen.append(RunFolder(Path("run")).lock())
            stolen[0].__enter__()
            stolen.append(Path("run/metrics.jsonl").read_bytes())
        return update(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "update", stealing)
        line = command(RESUME, 1)
    assert "run/.lock was deleted or replaced while this process trained" in line.replace(os.sep, "/")
    assert Path("run/metrics.jsonl").read_bytes() == stolen[1]
    assert steps(Path("run")) == [0, 2]
    assert Path("run/.lock.pid").exists()  # the other one's
    stolen[0].__exit__(None, None, None)
    command(RESUME)
    assert_as_finished(Path("run"), finished)


LONG = "n" * 256


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "text.txt", "--out", LONG],
        ["train", LONG],
        ["train", "--resume", LONG],
        ["finetune", "run", "text.txt", "--out", LONG],
        ["finetune", LONG, "text.txt"],
        ["evaluate", LONG],
        ["evaluate", "run", "--text", LONG],
        ["export", "run", "--to", "gguf", "--out", LONG],
        ["info", LONG],
        ["report", LONG],
        ["import", LONG],
        ["tokenizer", "show", LONG],
        ["data", "audit", LONG],
        ["generate", "run", "--prompts", LONG],
    ],
)
def test_a_name_that_is_too_long(place, command, arguments):
    assert run(arguments, 0.0) in (1, 2)
    line = command(arguments, 2)
    assert len(line) < 1500


def test_a_long_prompt_is_a_prompt(place, monkeypatch, capsys):
    """It is looked for as a folder first, which no name of this length can be."""
    Path("runs").mkdir()
    shutil.move("run", "runs/run")
    assert run(["generate", "the quick " * 50], 0.0) == 0
    assert capsys.readouterr().out.startswith("the quick the quick ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "run", "caf\udce9"],
        ["train", "caf\udce9.txt"],
        ["train", "text.txt", "--out", "caf\udce9"],
        ["train", "text.txt", "--generate.stop_strings", "\udce9"],
        ["evaluate", "caf\udce9"],
    ],
)
def test_an_argument_that_is_not_utf_8(place, command, arguments):
    assert "is not UTF-8 at character" in command(arguments, 2)


def test_a_prompt_on_standard_input_that_is_not_utf_8(place, command, monkeypatch):
    for errors in ("strict", "surrogateescape"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8", errors))
        assert "standard input is not UTF-8; convert it" in command(["generate", "run", "-"], 2)
