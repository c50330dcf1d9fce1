"""`primegpt runs` and `primegpt info RUN`: what happened, and not what was planned."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import primegpt
from primegpt.cli.main import run
from primegpt.errors import RunFolderError
from primegpt.run.folder import RunFolder
from primegpt.tokenizers import store

TINY = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "32"]
TINY += ["--tokenizer.kind", "char", "--train.max_steps", "4", "--train.batch_size", "2", "--train.threads", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 100, encoding="utf-8")
    assert run(["train", str(folder / "text.txt"), "--out", str(folder / "run"), *TINY], 0.0) == 0
    return folder / "run"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def copy(finished: Path, to: Path, age: float, ended: bool = True) -> Path:
    """The run in another place, last written `age` seconds ago; as it was before its end if it has not `ended`."""
    shutil.copytree(finished, to)
    metrics = to / "metrics.jsonl"
    if not ended:
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        metrics.write_text("".join(line for line in lines if "final/" not in line), encoding="utf-8")
        RunFolder(to).seal()
    written = metrics.stat().st_mtime - age
    for file in (metrics, to / "config.toml"):
        os.utime(file, (written, written))
    return to


def test_runs_are_listed_with_what_came_of_them(finished, place, random_model, save_run, capsys):
    copy(finished, place / "done", 50)
    copy(finished, place / "stopped", 40, ended=False)
    (copy(finished, place / "killed", 30, ended=False) / ".lock.pid").write_text("1\n")
    copy(finished, place / "now", 20, ended=False)
    tokenizer = store.train("char", ["abc"])
    shutil.move(save_run(random_model(vocab_size=tokenizer.vocab_size), tokenizer), place / "brought")
    (place / "no run").mkdir()
    (place / "notes.txt").touch()
    with RunFolder(place / "now").lock():
        found = primegpt.runs()
        assert run(["runs"], 0.0) == 0
        printed, error = capsys.readouterr()
        assert run(["runs", "--json"], 0.0) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert [(each["name"], each["state"]) for each in found] == [
        ("brought", "imported"),
        ("now", "running"),
        ("killed", "killed"),
        ("stopped", "stopped"),
        ("done", "finished"),
    ]
    done = found[-1]
    assert (done["steps"], done["planned_steps"], done["tokenizer"], done["vocab_size"]) == (4, 4, "char", 28 + 4)
    assert done["final_loss"] == pytest.approx(done["best_loss"], abs=0.2)
    assert done["folder"] == str(Path("runs") / "done")
    assert (found[0]["steps"], found[0]["seconds"], found[0]["best_loss"]) == (0, None, None)
    rows = [line.split() for line in printed.splitlines()]
    assert [row[:2] for row in rows] == [["run", "state"]] + [[each["name"], each["state"]] for each in found]
    assert f"{done['final_loss']:.4f}" in printed.splitlines()[-1]
    assert error == ""
    assert [each["name"] for each in primegpt.runs(place / "done")] == ["done"]


def damage(path: Path, what: str) -> None:
    if what == "cut":
        content = path.read_bytes()
        half = len(content) // 2
        # Between two lines a file of settings would be whole, only shorter.
        path.write_bytes(content[: content.index(b"=", half) + 1 if path.suffix == ".toml" else half])
    elif what == "noise":
        path.write_bytes(bytes(range(256)) * 4)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize("what", ["cut", "noise", "gone"])
@pytest.mark.parametrize("name", ["config.toml", "data.json", "metrics.jsonl", "tokenizer", "checkpoints", "best"])
def test_a_damaged_run_is_listed_with_the_others(finished, place, name, what, capsys):
    copy(finished, place / "good", 10)
    bad = copy(finished, place / "bad", 20)
    target = bad / name
    if target.is_dir() and what != "gone":
        target = next(path for path in sorted(target.rglob("*.json")))
    damage(target, what)
    found = {each["name"]: each for each in primegpt.runs()}
    assert found["good"]["state"] == "finished"
    assert found["good"]["remarks"] == []
    assert run(["runs"], 0.0) == 0
    printed, error = capsys.readouterr()
    assert len(printed.splitlines()) == 3
    if name == "config.toml":
        assert found["bad"]["state"] == "damaged"
    for remark in found["bad"]["remarks"]:
        assert " ".join(remark.split()) in error


def test_a_name_of_several_lines_is_one_row_and_a_link_has_its_own_name(finished, place, capsys):
    copy(finished, place / "two\nlines\x1b[31m", 10)
    (place / "linked").symlink_to(finished)
    assert run(["runs"], 0.0) == 0
    printed, _ = capsys.readouterr()
    assert [line.split()[0] for line in printed.splitlines()] == ["run", "linked", r"two\nlines\x1b[31m"]


def test_where_there_is_no_run(place, capsys):
    assert primegpt.runs() == []
    assert run(["runs"], 0.0) == 0
    assert capsys.readouterr() == ("", "no run in runs: make one with `primegpt train SOURCE`\n")
    place.rmdir()
    assert primegpt.runs() == []
    with pytest.raises(RunFolderError, match="there is no folder"):
        primegpt.runs("elsewhere")


def test_a_list_does_not_wait_for_torch():
    code = "import sys; import primegpt; primegpt.runs('.'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_info_of_a_finished_run_tells_what_happened(finished, capsys):
    assert run(["info", str(finished), "--json"], 0.0) == 0
    facts = json.loads(capsys.readouterr().out)
    (listed,) = primegpt.runs(finished)
    assert facts["run"] == listed
    assert run(["info", str(finished)], 0.0) == 0
    printed = capsys.readouterr().out
    rows = {line[:22].strip(): line[23:] for line in printed.splitlines()}
    assert rows["state"] == "finished after 4 steps"
    assert rows["done"].startswith("4 steps, 256 tokens in ")
    assert "(planned: " in rows["done"]
    assert rows["best evaluation"] == f"{listed['best_loss']:.4f} nats per character, step {listed['best_step']}"
    assert rows["result"].startswith(f"{listed['final_loss']:.4f} nats per character, ")
    assert "expected time" not in rows


def test_info_of_a_run_that_was_killed_says_how_far_it_came(finished, place, capsys):
    killed = copy(finished, place / "killed", 10, ended=False)
    (killed / ".lock.pid").write_text("1\n")
    assert run(["info", str(killed)], 0.0) == 0
    assert "killed at step 4 of 4; go on with: primegpt train --resume" in capsys.readouterr().out
