"""What a file of an experiment says, and what is said of one that is wrong."""

import pytest

from primegpt.errors import ConfigError
from primegpt.experiments.file import read_experiment

FILE = """
name = "qk"
question = "Does it help?"
seeds = 2
budget.tokens = 1000
data.sources = ["songbook"]
model.n_layer = 2

[[arm]]
name = "with"

[[arm]]
name = "without"
model.qk_norm = false
"""


@pytest.fixture
def read(tmp_path):
    def read(text, **options):
        path = tmp_path / "experiment.toml"
        path.write_text(text, encoding="utf-8")
        return read_experiment(path, **options)

    return read


def test_arms_are_what_all_share_and_what_differs(read):
    found = read(FILE)
    assert (found.name, found.seeds, found.measures) == ("qk", (1337, 1338), ("text.loss",))
    plain, other = ([stage.said["settings"] for stage in arm.stages] for arm in found.arms)
    assert plain == [{"data": {"sources": ["songbook"]}, "model": {"n_layer": 2}}]
    assert other == [{"data": {"sources": ["songbook"]}, "model": {"n_layer": 2, "qk_norm": False}}]
    assert found.arms[1].stages[0].said["budget"] == {"tokens": 1000}


def test_a_grid_makes_an_arm_a_point(read):
    found = read(FILE.partition("[[arm]]")[0] + "[grid]\ntrain.learning_rate = [0.1, 0.2]\nmodel.n_embd = [16, 32]\n")
    assert [arm.name for arm in found.arms] == [
        f"learning_rate {rate}, n_embd {width}" for rate in (0.1, 0.2) for width in (16, 32)
    ]
    assert found.arms[3].stages[0].said["settings"]["model"] == {"n_layer": 2, "n_embd": 32}
    crossed = read(FILE.replace("[[arm]]", "[grid]\nmodel.n_embd = [16, 32]\n[[arm]]", 1))
    assert [arm.name for arm in crossed.arms] == [
        f"{name}, n_embd {width}" for name in ("with", "without") for width in (16, 32)
    ]


def test_an_arm_may_have_a_grid_and_a_budget_of_its_own(read):
    own = "[grid]\nmodel.n_layer = [1, 2]\n[[arm]]\nbudget.flops = 1e9\ngrid.model.n_embd = [16, 32]"
    found = read(FILE.replace("[[arm]]", own, 1))
    assert [arm.name for arm in found.arms] == [
        *(f"with, n_layer {layers}, n_embd {width}" for layers in (1, 2) for width in (16, 32)),
        "without, n_layer 1",
        "without, n_layer 2",
    ]
    budgets = [arm.stages[0].said["budget"] for arm in found.arms]
    assert budgets == [{"flops": 1e9}] * 4 + [{"tokens": 1000}] * 2


def test_settings_of_the_file_are_of_what_is_trained_from_scratch_and_those_of_an_arm_of_its_own_stages(read):
    stages = '[[stage]]\ndo = "train"\n[[stage]]\ndo = "finetune"\ndata.sources = ["b.txt"]\n[[arm]]'
    found = read(FILE.replace("[[arm]]", stages, 1).replace("model.qk_norm = false", "lora.rank = 4"))
    for arm, lora in zip(found.arms, ({}, {"lora": {"rank": 4}}), strict=True):
        trained, tuned = arm.stages
        assert trained.said["settings"] == {"data": {"sources": ["songbook"]}, "model": {"n_layer": 2}}
        assert tuned.said["settings"] == {"data": {"sources": ["b.txt"]}} | lora
        assert tuned.said["from"] == "@last"


def test_an_arm_whose_own_stages_train_nothing_sets_the_last_one_that_does(read):
    text = FILE.replace("[[arm]]", '[[stage]]\ndo = "train"\n[[arm]]', 1)
    found = read(text + 'budget.steps = 5\n[[arm.stage]]\ndo = "evaluate"\nname = "more"\n')
    assert [stage.do for stage in found.arms[1].stages] == ["train", "evaluate"]
    assert found.arms[1].stages[0].said["settings"]["model"] == {"n_layer": 2, "qk_norm": False}
    assert found.arms[1].stages[0].said["budget"] == {"steps": 5}


def test_settings_of_nothing_are_refused(read):
    text = FILE.replace("[[arm]]", '[[stage]]\ndo = "finetune"\nfrom = "runs/base"\n[[arm]]', 1)
    with pytest.raises(ConfigError, match="nothing is trained from scratch"):
        read(text)


def test_what_is_set_stands_wherever_it_is_named(read):
    stages = '[[stage]]\ndo = "data songbook"\nname = "book"\nsongs = "@songs"\n[[arm]]'
    text = FILE.replace("[[arm]]", f"[set]\nsongs = 7\nwidth = 16\n[grid]\nset.width = [8, 24]\n{stages}", 1)
    text = text.replace("n_layer = 2", 'n_embd = "@width"').replace("model.qk_norm = false", "set.songs = 9")
    found = read(text)
    made = [(a.name, a.stages[0].said["songs"], a.stages[1].said["settings"]["model"]) for a in found.arms]
    assert made == [
        (f"{name}, width {width}", songs, {"n_embd": width})
        for name, songs in (("with", 7), ("without", 9))
        for width in (8, 24)
    ]


def test_quick(read):
    assert read(FILE, quick=True).seeds == (1337,)
    text = FILE.replace("[[arm]]", "[quick]\nseeds = [5]\nbudget.steps = 3\nmodel.n_layer = 1\n[[arm]]", 1)
    found = read(text, quick=True)
    assert found.seeds == (5,)
    assert found.arms[0].stages[0].said["budget"] == {"steps": 3}
    assert found.arms[0].stages[0].said["settings"]["model"] == {"n_layer": 1}
    assert read(text).seeds == (1337, 1338)


def test_which_way_is_better(read):
    found = read(FILE.replace("seeds = 2", 'seeds = 2\nmeasure = ["val/loss", "a.acc"]\nbetter."a.acc" = "lower"'))
    assert found.lower_is_better("val/loss")
    assert found.lower_is_better("a.acc")
    assert found.lower_is_better("adherence.words.lift") is False
    assert found.lower_is_better("mine.py:errors") is None  # nobody has said


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("seeds = 2", "seeds = 0"), "seeds .* = 0: input should be greater than or equal to 1"),
        (("seeds = 2", "seeds = [1, 1]"), "a seed stands there twice"),
        (("budget.tokens = 1000", "budget = {tokens = 1, steps = 1}"), "give one of steps, tokens, flops and seconds"),
        (("seeds = 2", "sedes = 2"), "unknown key 'sedes'; did you mean 'seeds'"),
        (("model.n_layer = 2", "model.n_layers = 2"), "unknown key 'model.n_layers'; did you mean 'n_layer'"),
        (("qk_norm = false", "qk_norms = false"), "arm 'without': unknown key 'model.qk_norms'"),
        (("qk_norm = false", "n_embd = 7\ntrain.max_steps = 3"), "arm 'without': train.max_steps is the experiment's"),
        (("qk_norm = false", "n_embd = 7\ntrain.seed = 3"), "train.seed is the experiment's"),
        (('name = "without"', 'name = "with"'), "two arms are called 'with'"),
        (("model.qk_norm = false", '[[arm.stage]]\ndo = "trian"'), "do = 'trian' is no stage; did you mean 'train'"),
        (("model.qk_norm = false", '[[arm.stage]]\ndo = "train"\nlr = 1'), "unknown key 'lr'"),
        (
            ("model.qk_norm = false", '[[arm.stage]]\ndo = "train"\n[[arm.stage]]\ndo = "train"'),
            "a stage cannot be called 'train', which is taken",
        ),
        (("model.qk_norm = false", '[[arm.stage]]\ndo = "train"\nname = "last"'), "cannot be called 'last'"),
        (("seeds = 2", "seeds = 2\nbetter.loss = 'lower'"), "better.loss is of nothing that is measured"),
        (("[[arm]]", "[grid]\nmodel.n_embd = [16, 0]\n[[arm]]"), "arm 'with, n_embd 0': model.n_embd = 0"),
        (('name = "with"', 'name = "with"\nbudget.flops = -1'), "arm 1 budget flops = -1"),
        (("[[arm]]", "[grid]\nmodel.n_embd = []\n[[arm]]"), "grid model n_embd = "),
    ],
)
def test_what_is_wrong_is_one_line(read, edit, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(FILE.replace(*edit, 1))
    assert "\n" not in str(caught.value)
    assert "experiment.toml" in str(caught.value)


def test_nothing_to_compare(read):
    with pytest.raises(ConfigError, match="has nothing to compare"):
        read(FILE.partition("[[arm]]")[0])
