"""The order in which the sources of a configuration win, and what is said about a wrong one."""

from typing import get_args

import pytest

from primegpt.config import LEARNT, Layer, preset_name, read_saved, read_toml, resolve, sections, write_toml
from primegpt.config.layers import PRESETS, saved
from primegpt.errors import ConfigError


def test_later_layers_win_above_the_preset_above_the_recipe():
    recipe = {"model": {"preset": "prime", "n_layer": 2}, "train": {"learning_rate": 1e-1, "optimizer": "adamw"}}
    file, flags = {"model": {"n_layer": 3, "n_head": 2}}, {"model": {"n_layer": 4}}
    config = resolve(file, flags, recipe=recipe)
    assert (config.model.n_layer, config.model.n_head, config.model.preset) == (4, 2, "prime")
    assert config.train.optimizer == "muon"  # the preset's, above the recipe's
    assert resolve(file, {"model": {"preset": "gpt2"}}, recipe=recipe).train.optimizer == "adamw"


def test_a_presets_name_counts_wherever_it_stands():
    assert preset_name({"model": {"preset": "qwen3"}}, {"train": {}}, {"model": {"preset": "prime"}}) == "prime"
    with pytest.raises(ConfigError, match="'prme' is not a preset; did you mean 'prime'"):
        resolve({"model": {"preset": "prme"}})


def test_a_budget_takes_the_place_of_an_earlier_layers():
    file = {"train": {"max_steps": 5000, "batch_size": 3}}
    config = resolve(file, {"train": {"minutes": 1.0}})
    assert (config.train.minutes, config.train.max_steps, config.train.batch_size) == (1.0, None, 3)
    with pytest.raises(ConfigError, match=r"train\.minutes and train\.epochs are budgets; give only one"):
        resolve(file, {"train": {"minutes": 1.0, "epochs": 2.0}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"n_layers": 2}}, r"my\.toml: unknown key 'model\.n_layers'; did you mean 'n_layer'"),
        ({"modle": {}}, "modle"),
        ({"model": {"n_embd": 10, "n_head": 3}}, "not divisible"),
        ({"train": {"learning_rate": float("nan")}}, r"train\.learning_rate"),
        ({"train": {"batch_size": 0}}, r"train\.batch_size"),
        ({"train": {"sequence_length": 99}, "model": {"block_size": 9}}, "above"),
        ({"data": {"min_length": 9, "max_length": 3}}, "nothing is left"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_origin(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(Layer(values, "my.toml"))
    assert "\n" not in str(caught.value)


def test_a_resolved_configuration_is_written_and_read_back(tmp_path):
    config = resolve({"model": {"preset": "prime", "vocab_size": 99}, "data": {"sources": ("a", "b")}})
    (tmp_path / "config.toml").write_text(write_toml(config), encoding="utf-8")
    assert resolve(read_toml(tmp_path / "config.toml")) == config
    (tmp_path / "config.toml").write_text("model = [", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(tmp_path / "config.toml")


def test_a_saved_configuration_is_not_changed_by_a_younger_preset(tmp_path, monkeypatch):
    """A switch that the preset has got since: the run was trained without it."""
    monkeypatch.setitem(PRESETS, "prime", {"model": {"qk_norm": True}})
    path = tmp_path / "config.toml"
    lines = write_toml(resolve({"model": {"preset": "prime"}})).splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("embedding_norm")))
    monkeypatch.setitem(PRESETS, "prime", {"model": {"qk_norm": True, "embedding_norm": True}})
    saved = read_saved(path)
    assert (saved.model.qk_norm, saved.model.embedding_norm) == (True, False)
    assert not saved.with_values(train={"max_steps": 3}).model.embedding_norm
    assert resolve(read_toml(path)).model.embedding_norm  # a recipe of the user's, in contrast


def test_nothing_that_can_be_said_is_lost_in_writing():
    """TOML has no null, so a key may be unset only where that is what leaving it out means."""
    for section, kind in sections().items():
        for name, field in kind.model_fields.items():
            if type(None) in get_args(field.annotation):
                assert field.default is None, f"{section}.{name} = None would come back as {field.default}"
    off = resolve({"generate": {"top_k": 0}})
    assert "top_k = 0" in write_toml(off)


def test_a_ready_tokenizer_takes_the_place_of_one_to_be_learnt():
    recipe = {"tokenizer": {"kind": "char", "vocab_size": 300}}
    config = resolve({"tokenizer": {"path": "tok"}}, recipe=recipe)
    assert not LEARNT & config.tokenizer.model_fields_set
    assert resolve({"tokenizer": {"path": "tok", "kind": "char"}}).tokenizer.kind == "char"
    assert resolve(recipe, {"tokenizer": {"path": "tok"}}).tokenizer.vocab_size is None


ABSURD = {
    "10**30": 10**30,
    "5,000 digits": 10**5000,
    "negative": -(10**30),
    "inf": float("inf"),
    "nan": float("nan"),
    "true": True,
    "1e300": 1e300,
    "text": "x" * 1_000_000,
    "nested": [[[[]]]],
    "table": {"a": {"b": 1}},
    "escape": "\x1b[31m\0\ud800",
}


NUMBERS = [
    (section, name)
    for section, kind in sections().items()
    for name, field in kind.model_fields.items()
    if section != "plan" and {int, float} & {field.annotation, *get_args(field.annotation)}
]


@pytest.mark.parametrize(("section", "name"), NUMBERS)
def test_every_number_is_bounded(section, name):
    """So a new key needs bounds; what is told is one short line with the key."""
    for value in ("10**30", "5,000 digits", "negative", "inf", "nan", "true", "1e300"):
        with pytest.raises(ConfigError, match=rf"^my\.toml: {section}\.{name} = ") as caught:
            resolve(Layer({section: {name: ABSURD[value]}}, "my.toml"))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250


def test_a_bound_is_named_with_the_key_and_the_value():
    with pytest.raises(ConfigError, match=r"train\.batch_size = 70000: input should be less than or equal to 65536"):
        resolve({"train": {"batch_size": 70000}})
    with pytest.raises(ConfigError, match=r"train\.keep_checkpoints = 0: .*to 1, or input should be 'milestones'$"):
        resolve({"train": {"keep_checkpoints": 0}})
    with pytest.raises(ConfigError, match=r"train\.batch_size \* .* tokens of one step"):
        resolve({"train": {"batch_size": 60000, "gradient_accumulation_steps": 60000}})


@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("key", ["model.preset", "model", "tokenizer.special_tokens", "data.sources", "data.weights"])
def test_a_value_of_another_kind_is_one_short_line(key, value):
    section, _, name = key.partition(".")
    with pytest.raises(ConfigError) as caught:
        resolve({section: {name: ABSURD[value]} if name else ABSURD[value]})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("[model]\nvocab_size = " + "9" * 5000, "a number has thousands of digits"),
        (
            "[model]\nvocab_size = 0x" + "f" * 5000,
            r"an integer of about 6,021 digits: .*less than or equal",
        ),
        ("x." * 900 + "b = 1", "unknown key 'x'"),
        (f"{'x' * 100_000} = 1", "unknown key 'xxxx"),
        ("[model]\nn_layer = 1e999", "n_layer = inf"),
        ("# é\n[model]\n".encode("latin-1"), r"not UTF-8: byte 2 \(0xe9\) makes no character; save it as UTF-8"),
        ("[model]\n".encode("utf-16"), "not UTF-8: it is UTF-16"),
        (b"\0" * (2**24 + 1), "larger than 16 MB"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_short_line(content, message, tmp_path):
    path = tmp_path / "my.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(read_toml(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_byte_order_mark_is_no_part_of_a_configuration(tmp_path):
    (tmp_path / "my.toml").write_bytes("\ufeff[model]\nn_layer = 3\n".encode())
    assert resolve(read_toml(tmp_path / "my.toml")).model.n_layer == 3


@pytest.mark.parametrize(
    ("written", "track"),
    [
        ({"tensorboard": True}, ("tensorboard",)),  # as earlier versions had it
        ({"tensorboard": False}, ()),
        ({"tensorboard": False, "track": ["wandb"]}, ("wandb",)),
        ({"tensorboard": True, "track": ["wandb"]}, ("wandb", "tensorboard")),
        ({"tensorboard": True, "track": "wandb mlflow"}, ("wandb", "mlflow", "tensorboard")),
        ({"tensorboard": True, "track": "tensorboard"}, ("tensorboard",)),
        ({"track": "wandb mlflow"}, ("wandb", "mlflow")),
        ({"track": ("wandb mlflow", "trackio")}, ("wandb", "mlflow", "trackio")),  # as a command line gives it
    ],
)
def test_trackers_of_earlier_and_of_later_versions(written, track):
    assert saved(Layer({"train": written})).train.track == track


@pytest.mark.parametrize("written", ["3 30", ("3 30",), [3, 30], ("3", "30")])
def test_steps_of_early_evaluations_may_stand_in_one_text(written):
    assert resolve({"train": {"early_evaluations": written}}).train.early_evaluations == (3, 30)


@pytest.mark.parametrize("written", ["mlp.c_fc attn.c_attn", ("mlp.c_fc attn.c_attn",), ["mlp.c_fc", "attn.c_attn"]])
def test_layers_with_adapters_may_stand_in_one_text(written):
    assert resolve({"lora": {"targets": written}}).lora.targets == ("mlp.c_fc", "attn.c_attn")


def test_a_name_in_a_list_keeps_its_spaces():
    written = {"special_tokens": {"control": ["<a song>", "<end>"]}}
    assert resolve({"tokenizer": written}).tokenizer.special_tokens == {"control": ("<a song>", "<end>")}
