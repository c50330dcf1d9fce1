"""An analysis of one's own is given what was trained; what it expects of later arms is written before they begin."""

import json
import shutil

import pytest

from primegpt import api
from primegpt.cli.main import run as command
from primegpt.errors import ConfigError, PrimegptError, UsageError
from primegpt.experiments import perform
from primegpt.experiments.analysis import NOTE
from primegpt.inference.run import load
from primegpt.model.size import flops_per_token, parameter_count
from primegpt.terminal import silent

FILE = """
name = "ahead"
seeds = 1
budget.steps = 2
measure = ["val/loss"]
tokenizer.kind = "char"
analysis = "{mine}:{function}"
[data]
sources = ["{text}"]
[model]
n_layer = 1
n_head = 2
n_embd = 16
block_size = 16
[train]
batch_size = 2
threads = 1
eval_interval = 2
[generate]
max_new_tokens = 4
[[arm]]
name = "large"
after = true
model.n_embd = 32
budget.tokens = 130
[[arm]]
name = "small"
[[arm]]
name = "longer"
grid.model.n_embd = [8]
budget.flops = 1e6
"""
MINE = """
from primegpt.experiments.analysis import Findings
from primegpt.report.chart import Series
from primegpt.report.pictures import Plot

def analysis(given):
    seen = [[r.arm, r.seed, r.after, r.parameters, r.tokens, r.flops, r.budget, r.values] for r in given.runs]
    return Findings(
        ["a larger one was expected"], [[("size", "loss"), ("one", "2.5")]],
        [Plot("losses", "Losses by size", [Series("runs", [(1.0, 2.0), (2.0, 1.0)])], "x", "y")],
        {"runs": seen, "first": given.came_first, "told": given.forecast}, seen,
    )

def nothing(given):
    return {"a": 1}

def endless(given):
    return Findings(figures=float("nan"))

def failing(given):
    return 1 / 0
"""


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    folder = tmp_path_factory.mktemp("file")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    (folder / "mine.py").write_text(MINE, encoding="utf-8")

    def write(function="analysis", edit=("", "")):
        path = folder / "xp.toml"
        text = FILE.format(mine=folder / "mine.py", text=folder / "text.txt", function=function)
        path.write_text(text.replace(*edit), encoding="utf-8")
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(folder / "cache"))
        yield write


@pytest.fixture(scope="module")
def whole(write, tmp_path_factory):
    return api.experiment(write(), tmp_path_factory.mktemp("whole"), say=silent)


def test_it_is_given_what_was_trained(whole):
    noted = whole.results["analysis"]
    assert noted == json.loads((whole.folder / "results.json").read_text())["analysis"]
    runs = {of[0].partition(",")[0]: of for of in noted["figures"]["runs"]}
    assert list(runs) == ["small", "longer", "large"]  # those that come after stand last
    for arm, (_, seed, after, parameters, tokens, flops, budget, values) in runs.items():
        run = load(next((whole.folder / "made").glob(f"{arm}-*")), checkpoint="last", say=silent)
        assert (seed, after) == (1337, arm == "large")
        assert parameters == parameter_count(run.config.model) == sum(p.numel() for p in run.model.parameters())
        assert tokens == run.step * 2 * 16
        assert flops == tokens * flops_per_token(run.config.model, 16)
        named = next(name for name in whole.results["arms"] if name.startswith(arm))
        assert values == {"val/loss": whole.results["values"]["val/loss"][named][1337]}
        assert budget == {"small": {"steps": 2}, "longer": {"flops": 1e6}, "large": {"tokens": 130}}[arm]
    assert runs["large"][4] == 160  # five steps of 32 hold 130


def test_the_page_and_the_command_say_what_it_found(whole, write, capsys):
    page = whole.report.read_text(encoding="utf-8")
    for text in ("a larger one was expected", "2.5", "Losses by size", "Arms compared"):
        assert text in page
    assert (whole.folder / "losses.png").exists()
    assert command(["experiment", str(write()), "--out", str(whole.folder)], 0.0) == 0
    assert "a larger one was expected" in capsys.readouterr().out


def test_a_forecast_is_written_before_what_it_is_of(whole, write, tmp_path, monkeypatch):
    """Stopped before and in that training as well: the same forecast, the same results.json."""
    out, do, note = tmp_path / "out", perform.Doer.do, perform.Place.note
    order, stopped = list[str](), set[str]()

    def watched(doer, job):
        order.append(job.label.partition(",")[0])
        assert (out / NOTE).exists() is (order[-1] == "large")
        if order[-1] == "large" and "before" not in stopped:
            stopped.add("before")
            raise PrimegptError("killed")
        do(doer, job)

    def stop_after_training(place, job, result):
        if job.label.startswith("large") and "in" not in stopped:
            stopped.add("in")
            raise PrimegptError("killed")
        note(place, job, result)

    out.mkdir()
    shutil.copy(whole.folder / "plan.json", out)  # the same attention kernels
    monkeypatch.setattr(perform.Doer, "do", watched)
    monkeypatch.setattr(perform.Place, "note", stop_after_training)
    for _ in stopped | {"before", "in"}:
        with pytest.raises(PrimegptError, match="killed"):
            api.experiment(write(), out, say=silent)
    found = api.experiment(write(), out, say=silent)
    assert order == ["small", "longer", "large", "large", "large"]
    told = json.loads((out / NOTE).read_text())
    assert found.results["analysis"]["forecast"] == found.results["analysis"]["figures"]["told"] == told["forecast"]
    ended = found.results["analysis"]["figures"]["runs"]
    assert told["forecast"] == [*ended[:2], [*ended[2][:-1], {}]]  # all but what it has come to
    assert told["came_first"]
    assert (out / "results.json").read_bytes() == (whole.folder / "results.json").read_bytes()


@pytest.mark.reliability
def test_a_forecast_after_the_fact_is_called_one(write, tmp_path):
    api.experiment(write(), tmp_path / "out", say=silent)
    edited = write(edit=("[8]", "[8, 24]"))
    found = api.experiment(edited, tmp_path / "out", say=silent)
    assert not found.results["analysis"]["came_first"]
    assert not found.results["analysis"]["figures"]["first"]
    assert len(found.results["analysis"]["forecast"]) == 4


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "mine.py:nothing returned .*; return a primegpt.experiments.analysis.Findings"),
        ("endless", "mine.py:endless: its figures are no JSON"),
        ("failing", r"mine.py:21: ZeroDivisionError"),
        ("analysi", "has no function 'analysi'; did you mean 'analysis'"),
    ],
)
def test_mistakes_are_one_line(whole, write, function, message):
    with pytest.raises(UsageError, match=message):
        api.experiment(write(function), whole.folder, say=silent)


def test_what_comes_after_needs_something_to_come_after(write):
    with pytest.raises(ConfigError, match="have nothing to come after"):
        api.experiment(write(edit=("analysis =", "better.'val/loss' = 'lower' #")), say=silent)
    twice = (
        '[[arm]]\nname = "small"',
        '[[arm.stage]]\ndo="train"\n[[arm.stage]]\ndo="finetune"\n[[arm]]\nname="small"',
    )
    with pytest.raises(ConfigError, match="arm 'large' has after = true and trains twice"):
        api.experiment(write(edit=twice), say=silent)
