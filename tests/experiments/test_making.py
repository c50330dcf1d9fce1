"""Stages that make records: tasks, instructions, a run's own answers; and rewards as measures."""

import json

import pytest

from primegpt import api
from primegpt.errors import UsageError
from primegpt.experiments.file import read_experiment
from primegpt.experiments.stages import plan_work
from primegpt.terminal import silent

FILE = """
seeds = 1
budget.steps = 2
measure = ["reward.mean", "reward.rewards.exact.mean"]
tokenizer.kind = "char"
[data]
template = "chat"
sources = ["@learnt"]
[model]
n_layer = 1
n_head = 2
n_embd = 16
block_size = 64
[train]
batch_size = 2
threads = 1
[generate]
max_new_tokens = 4
[evaluate]
prompts = "@asked"
reward = ["exact", "0.5*mine.py:score"]
[[stage]]
do = "data tasks"
name = "learnt"
kind = "add"
records = 20
levels = [1, 2]
seed = "@seed"
[[stage]]
do = "data tasks"
name = "asked"
kind = "add"
records = 6
levels = [2]
held_out = true
[[stage]]
do = "train"
name = "base"
[[arm]]
name = "more of the same"
[[arm.stage]]
do = "finetune"
data.sources = ["@learnt"]
[[arm]]
name = "best of 3"
[[arm.stage]]
do = "data sample"
name = "own"
prompts = "@learnt"
reward = ["mine.py:score"]
num_samples = 3
temperature = 1.5
[[arm.stage]]
do = "finetune"
data.sources = ["@own"]
[[arm]]
name = "rewarded"
[[arm.stage]]
do = "reinforce"
data.sources = ["@learnt"]
train.batch_size = 4
[arm.stage.reinforce]
reward = ["mine.py:score"]
num_generations = 2
prompts_per_step = 2
max_new_tokens = 4
[[arm]]
name = "instructions"
[[arm.stage]]
do = "data instruct"
name = "instructed"
sources = ["book.jsonl"]
labels = "none"
[[arm.stage]]
do = "train"
name = "anew"
data.template = "response"
data.sources = ["@instructed"]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def score(prompt, completion, record): return len(completion)")
    texts = [{"text": f"The {word} was old.\nNobody saw the {word}."} for word in ("lantern", "harbour", "winter")]
    (tmp_path / "book.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts * 4))
    (tmp_path / "xp.toml").write_text(FILE)
    return tmp_path


@pytest.mark.reliability
def test_records_are_made_by_stages_and_rewards_are_measures(place):
    found = api.experiment(place / "xp.toml", place / "out", say=silent)
    assert set(found.results["values"]["reward.mean"]) == {"more of the same", "best of 3", "rewarded", "instructions"}
    for arm, (value,) in ((arm, each.values()) for arm, each in found.results["values"]["reward.mean"].items()):
        (exact,) = found.results["values"]["reward.rewards.exact.mean"][arm].values()
        assert 0 <= exact <= value <= 1 + 0.5 * 4
    made = [path.read_text() for path in (found.folder / "made").glob("*.jsonl")]
    assert len(made) == 4  # of tasks two, and those of two arms
    (own,) = (json.loads(text.splitlines()[0]) for text in made if '"reward"' in text)
    assert own["messages"][-1]["role"] == "assistant"
    assert own["answer"]


def test_an_edited_reward_makes_anew_what_depends_on_it(place):
    before = plan_work(read_experiment(place / "xp.toml")).jobs
    (place / "mine.py").write_text("def score(prompt, completion, record): return 0")
    after = plan_work(read_experiment(place / "xp.toml")).jobs
    assert any(job.do == "reinforce" for key, job in before.items() if key not in after)
    changed = [job.label for key, job in before.items() if key not in after]
    assert [label.rpartition(", ")[2] for label in changed if label.startswith("best")] == [
        "own",
        "finetune",
        "evaluate",
    ]
    assert not [label for label in changed if "base" in label or "learnt" in label]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("records = 20", "record = 20"), "stage 'data tasks': got an unexpected keyword argument 'record'"),
        (("records = 20", "records = true"), "records = True; it takes a whole number"),
        (("levels = [", "levels = 2  # ["), "levels = 2; it takes a list"),
        (('prompts = "@learnt"\n', ""), "stage 'data sample': missing a required argument: 'prompts'"),
        (("labels = ", "label = "), "stage 'data instruct': got an unexpected keyword argument 'label'"),
    ],
)
def test_keys_that_a_stage_does_not_take_are_refused_before_anything_is_done(place, edit, said):
    (place / "xp.toml").write_text(FILE.replace(*edit))
    with pytest.raises(UsageError) as error:
        api.experiment(place / "xp.toml", place / "out", say=silent)
    assert said in str(error.value)
