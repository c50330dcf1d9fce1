"""An experiment of one's own: each job once, whatever stops it, and the same results."""

import json
import shutil

import pytest

from primegpt import api, tokenizers
from primegpt.cli.main import run as command
from primegpt.errors import NonFiniteError, PrimegptError, RunFolderError, UsageError
from primegpt.experiments import perform
from primegpt.experiments.file import read_experiment
from primegpt.experiments.place import Place
from primegpt.experiments.stages import plan_work
from primegpt.inference.run import load
from primegpt.model.size import flops_per_token
from primegpt.terminal import silent

SHARED = """
seeds = 2
budget.steps = 4
measure = ["val/loss", "text.loss"]
tokenizer.kind = "char"
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
"""
ARMS = """
[[arm]]
name = "with"
[[arm]]
name = "without"
model.qk_norm = false
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Write a file of an experiment, its shared part above `text`."""
    folder = tmp_path_factory.mktemp("file")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")

    def write(text, name="xp", shared=SHARED):
        path = folder / f"{name}.toml"
        path.write_text(shared.format(text=folder / "text.txt") + text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def whole(write, tmp_path_factory):
    """An experiment that nothing has stopped."""
    return api.experiment(write(ARMS), tmp_path_factory.mktemp("whole"), say=silent)


def test_results_are_what_the_runs_and_evaluations_say(whole):
    for arm, qk_norm in (("with", True), ("without", False)):
        for seed in (1337, 1338):
            (path,) = (whole.folder / "made").glob(f"{arm}-*seed-{seed}*")
            run = load(path, checkpoint="last", say=silent)
            assert (run.config.model.qk_norm, run.config.train.seed, run.step) == (qk_norm, seed, 4)
            last = [row["val/loss"] for row in run.metrics if "val/loss" in row][-1]
            assert whole.results["values"]["val/loss"][arm][seed] == last
            told = whole.results["values"]["text.loss"][arm][seed]
            assert told == pytest.approx(run.evaluate(say=silent)["text"]["loss"])
    compared = whole.comparisons[0]
    assert (compared.first, compared.lower_is_better) == ("with", True)
    assert whole.results["steps"] == {"with": 4, "without": 4}
    page = whole.report.read_text(encoding="utf-8")
    assert "qk_norm = false" in page
    assert str(whole.folder) not in (whole.folder / "results.json").read_text("utf-8")


def test_stopped_anywhere_it_ends_the_same(whole, write, tmp_path, monkeypatch):
    """Stopped before, in and after each job: the same results.json, byte for byte, and nothing done twice."""
    done, out = list[str](), tmp_path / "out"
    do, note = perform.Doer.do, perform.Place.note

    def stop_after_training(place, job, result):
        if job.trains and job.key not in stopped:
            stopped.add(job.key)
            raise PrimegptError("killed before it could say that it was done")
        note(place, job, result)

    def count(doer, job):
        done.append(job.key)
        do(doer, job)

    stopped = set[str]()
    begin_with_plan_of(whole, out)
    monkeypatch.setattr(perform.Place, "note", stop_after_training)
    monkeypatch.setattr(perform.Doer, "do", count)
    for _ in range(4):
        with pytest.raises(PrimegptError, match="killed before"):
            api.experiment(write(ARMS), out, say=silent)
    found = api.experiment(write(ARMS), out, say=silent)
    assert (found.folder / "results.json").read_bytes() == (whole.folder / "results.json").read_bytes()
    assert len(done) == 4 * 2 + 4  # each training twice, each evaluation once
    done.clear()
    api.experiment(write(ARMS), out, say=silent)
    assert not done


def begin_with_plan_of(whole, out):
    """A folder where the machine has decided as it did for `whole`."""
    out.mkdir()
    shutil.copy(whole.folder / "plan.json", out)


@pytest.mark.reliability
def test_several_processes_find_the_same(whole, write, tmp_path):
    begin_with_plan_of(whole, tmp_path / "out")
    found = api.experiment(write(ARMS), tmp_path / "out", processes=2, say=silent)
    assert (found.folder / "results.json").read_bytes() == (whole.folder / "results.json").read_bytes()


def test_an_edited_file_does_what_is_new(whole, write, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(whole.folder, out)
    done = list[str]()
    do = perform.Doer.do
    monkeypatch.setattr(perform.Doer, "do", lambda doer, job: (done.append(job.title), do(doer, job)))
    more = ARMS + '[[arm]]\nname = "wide"\nmodel.n_embd = 32\n'
    found = api.experiment(write(more.replace('"with"', '"plain"')), out, say=silent)
    assert [title for title in done if "train" in title] == ["wide, train, seed 1337", "wide, train, seed 1338"]
    assert found.results["arms"] == ["plain", "without", "wide"]
    assert found.results["values"]["val/loss"]["plain"] == whole.results["values"]["val/loss"]["with"]


STAGES = """
[[stage]]
do = "data songbook"
name = "book"
songs = 12
[[stage]]
do = "{mine}:shout"
name = "loud"
text = "{text}"
suffix = ".txt"
[[stage]]
do = "tokenizer"
name = "letters"
tokenizer.kind = "char"
data.sources = ["@book", "@loud"]
[[stage]]
do = "train"
name = "base"
tokenizer.path = "@letters"
data.sources = ["@loud"]
[[stage]]
do = "evaluate"
name = "before"
text = "@book"
[[arm]]
name = "all weights"
[[arm.stage]]
do = "finetune"
data.sources = ["@book"]
train.sequence_length = 16
train.batch_size = 2
[[arm]]
name = "adapters"
[[arm.stage]]
do = "finetune"
data.sources = ["@book"]
lora.rank = 2
train.sequence_length = 16
train.batch_size = 2
"""
MINE = """
from pathlib import Path

def shout(out: Path, text: str) -> None:
    out.write_text(Path(text).read_text().upper())

def letters(run) -> dict:
    return {"vocabulary": run.tokenizer.vocab_size, "none": 0.5}

def half(run):
    return 1 / 0
"""


OWN = """
import torch
from primegpt import extend

@extend.norm("scaled")
class Scaled(torch.nn.Module):
    def __init__(self, config):
        super().__init__()

    def forward(self, x):
        return x / 2

@extend.measure("width")
def width(run):
    return run.config.model.n_embd
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("mine") / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return path


def staged(write, mine, measure):
    shared = SHARED.replace("seeds = 2", "seeds = 1").replace(
        'measure = ["val/loss", "text.loss"]\n', f"measure = {json.dumps(measure)}\n"
    )
    shared = shared.replace('tokenizer.kind = "char"\n[data]\nsources = ["{text}"]\n', "")
    return write(
        STAGES.replace("{mine}", str(mine)).replace("{text}", str(write("").parent / "text.txt")), shared=shared
    )


def test_stages_build_on_each_other_and_are_shared(write, mine, tmp_path):
    measure = ["val/loss", "before.text.loss", "text.loss", f"{mine}:letters.vocabulary"]
    path = staged(write, mine, measure)
    work = plan_work(read_experiment(path))
    kinds = [job.do for job in work.jobs.values()]
    assert kinds.count("train") == 1  # for both arms
    assert kinds.count("finetune") == 2
    assert kinds.count("data songbook") == kinds.count("tokenizer") == 1
    found = api.experiment(path, tmp_path / "out", say=silent)
    before = found.results["values"]["before.text.loss"]
    assert before["all weights"] == before["adapters"]  # of one run
    assert found.results["values"]["text.loss"]["all weights"] != found.results["values"]["text.loss"]["adapters"]
    count = set(found.results["values"][measure[-1]]["adapters"].values())
    (folder,) = (found.folder / "made").glob("*letters*")
    assert count == {tokenizers.load(folder).vocab_size}


@pytest.mark.parametrize("change", ["the text", "the function", "a setting", "the seed", "the budget", "nothing"])
def test_a_job_is_known_by_all_that_decides_its_result(write, mine, change):
    path = staged(write, mine, ["val/loss"])
    text = path.parent / "text.txt"
    before, content = plan_work(read_experiment(path)).jobs.keys(), text.read_text()
    try:
        if change == "the text":
            text.write_text(content + "!", encoding="utf-8")
        elif change == "the function":
            mine.write_text(MINE + "\n", encoding="utf-8")
        else:
            edits = {"a setting": ("n_embd = 16", "n_embd = 18"), "the seed": ("seeds = 1", "seeds = [1]")}
            edits |= {"the budget": ("budget.steps = 4", "budget.steps = 5"), "nothing": ("seeds", "seeds")}
            path.write_text(path.read_text().replace(*edits[change]), encoding="utf-8")
        after = plan_work(read_experiment(path)).jobs.keys()
    finally:
        text.write_text(content, encoding="utf-8")
        mine.write_text(MINE, encoding="utf-8")
    trained = {key for key, job in plan_work(read_experiment(path)).jobs.items() if job.trains}
    assert bool(trained & before & after) is (change == "nothing")


@pytest.mark.reliability
def test_a_budget_of_the_processor_is_measured_once_for_all_seeds(write, tmp_path):
    for budget in ("seconds = 0.2", "flops = 1e8"):
        path = write(ARMS, shared=SHARED.replace("steps = 4", budget))
        out = tmp_path / budget.partition(" ")[0]
        found = api.experiment(path, out, quick=True, say=silent)
        plan = json.loads((out / "plan.json").read_text())
        assert sorted(of["max_steps"] for of in plan["rehearsed"].values()) == sorted(found.results["steps"].values())
        assert min(found.results["steps"].values()) > 1
    config = load(next((out / "made").iterdir()), say=silent).config
    step = 2 * 16 * flops_per_token(config.model, 16)
    assert found.results["steps"]["with"] == pytest.approx(1e8 / step, abs=1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("val/loss", "val/los"), "measure 'val/los': with, train has no 'val/los'; did you mean 'val/loss'"),
        (("text.loss", "text.los"), "with, evaluate has no 'los'; did you mean 'loss'"),
        (("text.loss", "text"), "measure 'text'"),
        (("text.loss", "nothing.py:f"), "nothing.py: No such file or directory"),
        (("text.loss", "{mine}:letter"), "has no function 'letter'; did you mean 'letters'"),
        (("text.loss", "{mine}:half"), "mine.py:11: ZeroDivisionError: division by zero"),
        (("text.loss", "{mine}:letters"), "is no number: .*; name one of its parts"),
        (("[data]", "[evaluate]\ntekst = 'x'\n[data]"), "unexpected keyword argument 'tekst'"),
        (('sources = ["{text}"]', 'sources = ["@book"]'), "no earlier stage is called '@book'"),
        (('sources = ["{text}"]', 'sources = ["nowhere.txt"]'), "nowhere.txt does not exist"),
        (("n_embd = 16", "n_embd = 15"), "n_embd"),
        (("[data]", "[evaluate]\nlimit = '5'\n[data]"), "limit = '5'; it takes a whole number"),
    ],
)
def test_mistakes_are_one_line(write, mine, tmp_path, monkeypatch, capsys, edit, message):
    path = write(ARMS, shared=SHARED.replace(edit[0], edit[1].replace("{mine}", str(mine))))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        api.experiment(path, tmp_path / "out", quick=True, say=silent)
    assert command(["experiment", str(path), "--quick", "--out", str(tmp_path / "out")], 0.0) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_parts_of_ones_own_are_arms_and_measures(write, tmp_path):
    (tmp_path / "mine.py").write_text(OWN, encoding="utf-8")
    arms = ARMS.replace('"without"\nmodel.qk_norm = false', '"scaled"\nmodel.norm = "scaled"')
    shared = f"extension = {json.dumps(str(tmp_path / 'mine.py'))}\n" + SHARED.replace('"text.loss"', '"width"')
    found = api.experiment(write(arms, shared=shared), tmp_path / "out", quick=True, say=silent)
    assert found.results["values"]["width"] == {"with": {1337: 16}, "scaled": {1337: 16}}
    losses = [of_seeds[1337] for of_seeds in found.results["values"]["val/loss"].values()]
    assert losses[0] != losses[1]
    with pytest.raises(UsageError, match=r"model\.norm = 'scaled'"):
        api.experiment(write(arms), tmp_path / "other", say=silent)


def test_an_arm_that_diverges_is_a_finding(write, tmp_path, monkeypatch):
    real = perform.train

    def train(*sources, settings, **options):
        if settings["train"].get("learning_rate") == 9 and settings["train"]["max_steps"] == 4:  # not in rehearsal
            raise NonFiniteError("the loss is nan at step 2")
        return real(*sources, settings=settings, **options)

    monkeypatch.setattr(perform, "train", train)
    wild = '[[arm]]\nname = "tame"\n[[arm]]\nname = "wild"\ntrain.learning_rate = 9\n'
    said = list[str]()
    found = api.experiment(write(wild), tmp_path / "out", quick=True, say=said.append)
    values = found.results["values"]
    assert all(values[name]["wild"] == {1337: None} for name in values)
    assert all(isinstance(values[name]["tame"][1337], float) for name in values)
    assert [arm.missing for arm in found.comparisons[0].arms] == [(), (1337,)]
    assert any("wild, train, seed 1337: diverged" in line for line in said)


def test_a_plan_is_for_all_seeds_and_for_nothing_else(write):
    def plans(stage: str) -> list[str]:
        text = (
            f'[[stage]]\ndo = "train"\nname = "small"\n[[arm]]\nname = "a"\n[[arm.stage]]\n{stage}\n[[arm]]\nname = "b"'
        )
        jobs = plan_work(read_experiment(write(text, name="plans"))).jobs.values()
        return [job.plan_key for job in jobs if job.trains]

    small, tuned, *others = plans('do = "finetune"\nfrom = "@small"')
    assert {small, tuned} == {small, tuned, *others}  # of two seeds
    assert small != tuned
    (_, recipe, *_), (_, other, *_) = (plans(f'do = "train"\nrecipe = "{name}"') for name in ("char-10m", "gpt2-124m"))
    assert recipe != other


def test_figures_are_nothing_to_go_on_with(write):
    text = '[[stage]]\ndo = "train"\n[[stage]]\ndo = "evaluate"\nname = "e"\n[[arm]]\nname = "a"\n'
    text += '[[arm.stage]]\ndo = "finetune"\ndata.sources = ["@e"]\n'
    with pytest.raises(UsageError, match="@e is figures, and makes nothing to go on with"):
        plan_work(read_experiment(write(text, name="figures")))


def test_a_kill_before_the_plan_and_a_damaged_one(whole, write, tmp_path):
    for name in ("jobs", "made"):
        (tmp_path / "killed" / name).mkdir(parents=True)
    (tmp_path / "killed" / ".lock").touch()
    Place(tmp_path / "killed").make("xp")
    shutil.copytree(whole.folder, tmp_path / "damaged")
    for damage in ("{", "[]", '{"machine": 1, "rehearsed": {}}'):
        (tmp_path / "damaged" / "plan.json").write_text(damage)
        with pytest.raises(UsageError, match=r"plan\.json is damaged"):
            api.experiment(write(ARMS), tmp_path / "damaged", say=silent)


def test_a_folder_is_of_one_experiment(tmp_path):
    (tmp_path / "plan.json").touch()
    (tmp_path / "experiment.toml").write_text('name = "depth"')
    Place(tmp_path).make("depth")
    with pytest.raises(RunFolderError, match="holds the experiment 'depth', and this one is called 'width'"):
        Place(tmp_path).make("width")


def test_a_file_that_changes_meanwhile_is_noticed(write, tmp_path, monkeypatch):
    path = write(ARMS, name="changes")
    text = path.parent / "text.txt"
    content, do = text.read_text(), perform.Doer._do

    def edit(doer, job, said, folder):
        text.write_text(content + "!")
        return do(doer, job, said, folder)

    monkeypatch.setattr(perform.Doer, "_do", edit)
    try:
        with pytest.raises(UsageError, match="was changed meanwhile"):
            api.experiment(path, tmp_path / "out", quick=True, say=silent)
    finally:
        text.write_text(content)


def test_the_command_prints_a_table(whole, write, capsys, tmp_path):
    assert command(["experiment", str(write(ARMS)), "--out", str(whole.folder)], 0.0) == 0
    told = capsys.readouterr()
    assert "| val/loss | mean ± spread | difference [95%] | verdict |" in told.out
    assert "with, train" not in told.err  # all had been done
    assert command(["experiment", str(write(ARMS)), "--out", str(whole.folder), "--json"], 0.0) == 0
    assert json.loads(capsys.readouterr().out)["arms"] == ["with", "without"]
    (tmp_path / "file").write_text("")
    assert command(["experiment", str(write(ARMS)), "--out", str(tmp_path)], 0.0) == 2
    assert "holds no experiment" in capsys.readouterr().err
