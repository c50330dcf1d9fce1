"""All benchmarks of two commits: in turns, each by its own code, and what one cannot run is said of it alone."""

import subprocess
from pathlib import Path

import pytest

from primegpt.bench import suite
from primegpt.bench.suite import BENCHES, QUICK, bench_all
from primegpt.cli.bench import app
from primegpt.cli.main import run
from primegpt.errors import DiskError, UsageError

# A package that tells what it is asked, and measures a rate that grows by each turn.
PACKAGE = """
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
asked = pathlib.Path({asked!r})
with asked.open("a") as file:
    print({name!r}, *sys.argv[2:], sep=" ", file=file)
assert sys.argv[1] == "bench" and sys.argv[-3:] == ["--turns", "1", "--json"], sys.argv
if sys.argv[2] == {cannot!r}:
    sys.exit("primegpt: no such benchmark")
cache = pathlib.Path(os.environ["PRIMEGPT_CACHE"])
cache.mkdir(exist_ok=True)
(cache / str(len(list(cache.iterdir())))).touch()
ours = {{"name": "primegpt", "rates": [{rate} * len(list(cache.iterdir()))], "absent": ""}}
gone = {{"name": "nanoGPT", "rates": [], "absent": "no checkout"}}
task = {{"task": "Work", "unit": "tok/s", "less_is_better": False, "results": [ours, gone]}}
again = task | {{"unit": "ms a step", "less_is_better": True}}
print(json.dumps([task, again] if sys.argv[2] == "train" else task | {{"task": sys.argv[2]}}))
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Two checkouts, the second of which is taken for this one; gives what was asked of them, in order."""
    log = tmp_path / "asked"
    for name, rate, cannot in (("before", 1.0, "resume"), ("after", 3.0, "")):
        package = tmp_path / name / "src" / "primegpt"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        code = PACKAGE.format(asked=str(log), name=name, rate=rate, cannot=cannot)
        (package / "__main__.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(suite, "OWN", tmp_path / "after" / "src")
    monkeypatch.setattr(suite, "machine_rates", lambda megabytes: {"bf16 GFLOP/s": 912.3456})
    return log


def test_two_commits_take_turns_that_change_places(asked, tmp_path):
    said = []
    before, after = bench_all(against=tmp_path / "before", only=["small", "resume"], turns=2, say=said.append)
    lines = [line.split()[:2] for line in asked.read_text(encoding="utf-8").splitlines()]
    first = [["before", "train"], ["after", "train"], ["before", "resume"], ["after", "resume"]]
    second = [["after", "train"], ["before", "train"], ["after", "resume"]]  # the other one could not
    assert lines == first + second
    assert before.absent["resume"].endswith("primegpt: no such benchmark")
    assert not after.absent
    assert before.figures["Work: primegpt"].turns == [1.0, 2.0]
    assert after.figures["Work: primegpt"].turns == [3.0, 9.0]  # its cache was there for `resume` too
    assert list(before.figures) == ["Work: primegpt"]  # no milliseconds beside the rate, no contestant that is absent
    assert after.figures["resume: primegpt"].turns == [6.0, 12.0]
    assert before.rates == {"bf16 GFLOP/s": [912.35, 912.35]}
    assert said[0].startswith("turn 1 of 2: small of version-")


def test_a_commit_is_named_and_changes_are_marked(asked, tmp_path):
    root = tmp_path / "after"

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    (sheet,) = bench_all(only=["startup"], turns=1)
    assert len(sheet.commit) == 12
    assert set(sheet.commit) <= set("0123456789abcdef")
    (root / "src" / "primegpt" / "new.py").touch()
    (changed,) = bench_all(only=["startup"], turns=1)
    assert changed.commit == sheet.commit + "+"


def test_a_text_is_given_to_those_that_learn_from_one(asked, tmp_path):
    text = tmp_path / "my text.txt"
    text.write_text("the river\n", encoding="utf-8")
    bench_all(str(text), only=["small", "startup", "tokenize"], turns=1)
    train, startup, tokenize = asked.read_text(encoding="utf-8").splitlines()
    assert train == f"after train {text} --configurations small --steps 200 --alone --turns 1 --json"
    assert startup == "after startup --alone --turns 1 --json"
    assert tokenize.startswith(f"after tokenize {text} --tokenizer ")
    bench_all(only=["tokenize"], turns=1, quick=True)
    assert asked.read_text(encoding="utf-8").splitlines()[-1].startswith("after tokenize songbook --tokenizer ")


@pytest.mark.parametrize("commands", [BENCHES, QUICK], ids=["whole", "quick"])
def test_every_command_is_one_that_there_is(commands):
    assert commands.keys() == BENCHES.keys()
    for command in commands.values():
        words = [word for word in command.split() if word != "TEXT"]
        app.parse_args([*words, "--turns", "1", "--json"], exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"only": ["smal"]}, "did you mean 'small'"),
        ({"turns": 0}, "--turns 0: at least one"),
        ({"source": "nowhere.txt"}, "nowhere.txt: no such file"),
        ({"against": Path("nowhere")}, "no src/primegpt is there"),
    ],
)
def test_wrong_requests(asked, wrong, message):
    with pytest.raises(UsageError, match=message):
        bench_all(**wrong)
    assert not asked.exists()


def test_a_checkout_that_cannot_be_imported_is_one_line(asked, tmp_path):
    (tmp_path / "before" / "src" / "primegpt" / "__init__.py").write_text("import nowhere", encoding="utf-8")
    with pytest.raises(UsageError, match=r"before: its package cannot be imported: .*No module named 'nowhere'"):
        bench_all(against=tmp_path / "before", only=["startup"], turns=1)


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(UsageError, match="not a text file"):
        bench_all(str(tmp_path))


def test_a_rate_of_zero_is_absent(asked, tmp_path):
    main = tmp_path / "after" / "src" / "primegpt" / "__main__.py"
    main.write_text(main.read_text(encoding="utf-8").replace("3.0 *", "0.0 *"), encoding="utf-8")
    (sheet,) = bench_all(only=["resume"], turns=1)
    assert not sheet.figures
    assert sheet.absent == {"resume: primegpt": "it was measured as 0"}


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(asked, tmp_path, capsys):
    (tmp_path / "x").touch()
    assert run(["bench", "all", "--only", "small", "--turns", "1", "--out", str(tmp_path / "x")], 0.0) == 2
    assert not asked.exists()
    assert "could not make the folder" in capsys.readouterr().err


def test_what_cannot_be_written_has_been_shown(asked, tmp_path, capsys, monkeypatch):
    def write(self, folder):
        raise DiskError("the disk is full")

    monkeypatch.setattr("primegpt.bench.sheet.Sheet.write", write)
    assert run(["bench", "all", "--only", "small", "--turns", "1", "--out", str(tmp_path / "kept")], 0.0) == 1
    assert "| Work: primegpt | tok/s |" in capsys.readouterr().out


def test_another_package_than_that_of_the_checkout_is_refused(asked, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere" / "primegpt"
    elsewhere.mkdir(parents=True)
    (elsewhere / "__init__.py").touch()
    monkeypatch.chdir(elsewhere.parent)  # Python looks here first
    with pytest.raises(UsageError, match=r"Python takes .*elsewhere"):
        bench_all(only=["startup"], turns=1)


def test_the_command_writes_sheets_and_compares_them(asked, tmp_path, capsys):
    out = tmp_path / "kept"
    command = ["bench", "all", "--only", "small", "--turns", "2", "--out", str(out)]
    assert run([*command, "--against", str(tmp_path / "before")], 0.0) == 0
    table = capsys.readouterr().out
    assert "| Work: primegpt | tok/s | 1.500 | 4.500 | 3.00× | yes |" in table
    path, before = sorted(out.iterdir(), key=lambda path: "-before" in path.name)  # none has a commit of its own here
    assert run(["bench", "compare", str(before), str(path)], 0.0) == 0
    assert "| Work: primegpt | tok/s | 1.500 | 4.500 | 3.00× | yes |" in capsys.readouterr().out
    assert run(["bench", "compare", str(path), str(path)], 0.0) == 0
    assert "| Work: primegpt | tok/s | 4.500 | 4.500 | 1.00× | no |" in capsys.readouterr().out
    assert run(["bench", "compare", str(path), str(path), "--json"], 0.0) == 0
    assert '"ratios": {\n    "Work: primegpt": 1.0\n  }' in capsys.readouterr().out


@pytest.mark.reliability
def test_all_of_it_runs(capsys):
    assert run(["bench", "all", "--quick", "--turns", "1", "--json"], 0.0) == 0
    assert '"absent": {}' in capsys.readouterr().out
