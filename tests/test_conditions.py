"""No setting is accepted and then ignored: one that cannot matter is refused in a line, before anything is written."""

import json
import shutil
from pathlib import Path
from typing import cast

import pytest

from primegpt import api
from primegpt.cli.main import run
from primegpt.config import Config, Layer, merge, refuse_idle, resolve, write_toml
from primegpt.config.conditions import CONDITIONS
from primegpt.errors import ConfigError, UsageError
from primegpt.inference.run import Run
from primegpt.jobs.evaluation import evaluate_run

SMALL = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "16"]
SMALL += ["--train.max_steps", "2", "--train.threads", "1", "--data.val_tokens", "64"]

# Each key that matters only under others, with a value, and settings under which it does.
SETTINGS = {
    "model.rope_theta": (5e4, {"model": {"position": "rope"}}),
    "model.rope_type": ("linear", {"model": {"position": "rope"}}),
    "model.rope_factor": (4.0, {"model": {"position": "rope", "rope_type": "linear"}}),
    "model.rope_low_freq_factor": (2.0, {"model": {"position": "rope", "rope_type": "llama3"}}),
    "model.rope_high_freq_factor": (3.0, {"model": {"position": "rope", "rope_type": "llama3"}}),
    "model.rope_original_context": (64, {"model": {"position": "rope", "rope_type": "llama3"}}),
    "tokenizer.vocab_size": (300, {"tokenizer": {"kind": "bpe"}}),
    "data.weights": ([2.0, 1.0], {"data": {"sources": ["a.txt", "b.txt"]}}),
    "data.text_field": ("lyrics", {"data": {"template": "text"}}),
    "data.songs": (9, {"data": {"sources": ["a.txt", "songbook"]}}),
    "data.similarity": (0.5, {"data": {"duplicates": "near"}}),
    "data.stride": (8, {"data": {"template": "text"}}),
    "data.isolate_documents": (True, {"data": {"template": "text"}}),
    "data.prompt_field": ("ask", {"data": {"template": "preference"}}),
    "data.response_field": ("say", {"data": {"template": "song"}}),
    "data.genre_field": ("kind", {"data": {"template": "song"}}),
    "data.emotion_field": ("mood", {"data": {"template": "song"}}),
    "data.genre": ("rock", {"data": {"template": "song"}}),
    "data.emotion": ("sad", {"data": {"template": "song"}}),
    "data.structure": ("keep", {"data": {"template": "song"}}),
    "data.prompt_dropout": (0.5, {"data": {"template": "response"}}),
    "data.drop_labels": (True, {"data": {"template": "song"}}),
    "data.mask_prompt": (False, {"data": {"template": "chat"}}),
    "data.pack": (True, {"data": {"template": "response"}}),
    "train.beta": (0.2, {"train": {"objective": "ipo"}}),
    "train.label_smoothing": (0.1, {"train": {"objective": "dpo"}}),
    "train.simpo_gamma": (0.1, {"train": {"objective": "simpo"}}),
    "train.sft_weight": (0.1, {"train": {"objective": "dpo"}}),
    "train.muon_learning_rate": (0.1, {"train": {"optimizer": "muon"}}),
    "train.head_learning_rate": (0.1, {"model": {"tie_embeddings": False}}),
    "train.min_lr": (1e-5, {"train": {"schedule": "linear"}}),
    "train.early_evaluations": ([3], {"reinforce": {"reward": []}}),
    "train.average": (0.1, {"train": {"optimizer": "adamw"}}),
    "lora.alpha": (8.0, {"lora": {"rank": 2}}),
    "lora.dropout": (0.1, {"lora": {"rank": 2}}),
    "lora.targets": (["mlp.c_fc"], {"lora": {"rank": 2}}),
    **{
        f"reinforce.{name}": (value, {"reinforce": {"reward": ["words"]}})
        for name, value in {
            "num_generations": 4,
            "prompts_per_step": 2,
            "max_new_tokens": 9,
            "temperature": 0.9,
            "loss_type": "grpo",
            "scale_rewards": "none",
            "epsilon": 0.1,
            "epsilon_high": 0.3,
            "beta": 0.1,
            "num_iterations": 2,
            "mask_truncated_completions": True,
            "val_prompts": 5,
        }.items()
    },
    "reinforce.use_bias_correction_kl": (False, {"reinforce": {"reward": ["words"], "beta": 0.1}}),
    "generate.start_document": (True, {"data": {"template": "text"}}),
    "generate.length_penalty": (0.5, {"generate": {"num_beams": 2}}),
    "generate.early_stopping": (True, {"generate": {"num_beams": 2}}),
    "generate.temperature": (0.5, {"generate": {"num_beams": 1}}),
    "generate.top_k": (5, {"generate": {"num_beams": 1}}),
    "generate.top_p": (0.5, {"generate": {"num_beams": 1}}),
    "generate.min_p": (0.5, {"generate": {"num_beams": 1}}),
    "generate.temperature_decay": (0.5, {"generate": {"num_beams": 1}}),
    "generate.temperature_floor": (0.1, {"generate": {"num_beams": 1}}),
    "generate.decay_trigger": ("[verse]", {"generate": {"num_beams": 1}}),
}
IDLE = {
    "tokenizer": {"kind": "gpt2"},
    "data": {"sources": ["a.txt"], "template": "text"},
    "train": {"optimizer": "adamw", "schedule": "constant"},
}


def given(key: str, value: object) -> dict[str, dict[str, object]]:
    section, name = key.split(".")
    return {section: {name: value}}


def idle_for(key: str) -> dict[str, dict[str, object]]:
    if key in ("data.text_field", "data.stride", "data.isolate_documents", "generate.start_document"):
        return {"data": {"template": "chat"}}
    if CONDITIONS[key] is CONDITIONS["generate.temperature"]:
        return {"generate": {"num_beams": 3}}
    if key == "train.average":
        return {"lora": {"rank": 2}}
    if key == "train.early_evaluations":
        return {"reinforce": {"reward": ["words"]}}
    return IDLE


def test_every_condition_is_tried():
    assert SETTINGS.keys() == CONDITIONS.keys()


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_that_cannot_matter_is_refused_and_one_that_can_is_not(key):
    value, needed = SETTINGS[key]
    said = Layer(given(key, value))
    refuse_idle(said, resolve(needed, said))
    with pytest.raises(ConfigError, match=f"{key} = .* has no effect without "):
        refuse_idle(said, merge(idle_for(key), said))


def test_several_are_told_in_one_line_with_their_file():
    layer = Layer({"data": {"genre": "rock", "songs": 3}}, "my.toml")
    with pytest.raises(ConfigError, match=r"^my.toml: data.genre .* · data.songs = 3 has no effect without"):
        refuse_idle(layer, resolve(IDLE, layer))


def test_a_runs_own_configuration_says_everything_and_nothing_is_refused():
    saved = write_toml(resolve({"data": {"genre": "rock"}}))
    import tomllib

    refuse_idle(Layer(tomllib.loads(saved)), Config())


RIVER = "the river ran under a bridge of stone\n" * 60


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text(RIVER, encoding="utf-8")
    rows = [{"prompt": f"say {n}", "response": f"word {n}"} for n in range(40)]
    Path("answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on my.txt. It is copied, and trained once."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "my.txt").write_text(RIVER, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PRIMEGPT_CACHE", str(folder / "cache"))
        assert run(["train", "my.txt", "--tokenizer.kind", "char", "--out", "base", *SMALL], 0.0) == 0
    return folder / "base"


@pytest.fixture
def base(trained, place) -> str:
    shutil.copytree(trained, "base")
    return "base"


def refused(capsys, place: Path, *arguments: str) -> str:
    before = set(place.rglob("*"))
    capsys.readouterr()
    assert run(list(arguments), 0.0) == 2, arguments
    captured = capsys.readouterr()
    assert captured.err.startswith("primegpt: ")
    assert captured.err.count("\n") == 1, captured.err
    assert set(place.rglob("*")) == before
    return captured.err


def test_flags_and_files_of_ones_own_are_checked(place, capsys):
    said = refused(capsys, place, "train", "my.txt", "--data.genre", "rock", *SMALL)
    assert "data.genre = 'rock' has no effect without data.template = \"song\"" in said
    Path("my.toml").write_text('[data]\nsources = ["my.txt"]\nsongs = 5\n[model]\nblock_size = 16\n', encoding="utf-8")
    assert "my.toml: data.songs = 5 has no effect" in refused(capsys, place, "train", "my.toml")
    # What a recipe says for itself may cease to matter by a flag; nobody asked for it here.
    Path("my.toml").write_text(
        '[data]\nsources = ["my.txt"]\n[tokenizer]\nkind = "bpe"\nvocab_size = 300\n'
        '[model]\npreset = "prime"\n[train]\nmuon_learning_rate = 0.03\n',
        encoding="utf-8",
    )
    flags = ["--train.optimizer", "adamw", "--tokenizer.kind", "char", "--out", "run"]
    assert run(["train", "my.toml", *flags, *SMALL], 0.0) == 0
    assert run(["train", "run/config.toml", "--out", "again"], 0.0) == 0


def test_a_file_may_set_how_a_source_is_read_that_a_flag_names(place, capsys):
    own = '[data.source."answers.jsonl"]\n{} = "response"\n[model]\nblock_size = 16\n'
    Path("my.toml").write_text(own.format("text_field"), encoding="utf-8")
    flags = ["--data.sources", "answers.jsonl", "--tokenizer.kind", "char", "--out", "run"]
    assert run(["train", "my.toml", *flags, *SMALL], 0.0) == 0
    shutil.rmtree("run")
    Path("my.toml").write_text(own.format("genre"), encoding="utf-8")
    said = refused(capsys, place, "train", "my.toml", *flags, *SMALL)
    assert "my.toml: data.source.answers.jsonl.genre = 'response' has no effect without" in said


def test_an_alphabet_has_the_size_that_is_asked_for_and_no_other(place):
    """The size of a recipe is that of pieces: with characters, all of them are kept unless the user says otherwise."""
    Path("many.txt").write_text("".join(chr(0x4E00 + n % 3000) for n in range(60_000)), encoding="utf-8")
    flags = ["--tokenizer.kind", "char", *SMALL]
    Path("my.toml").write_text('[data]\nsources = ["many.txt"]\n[tokenizer]\nkind = "bpe"\nvocab_size = 300\n')
    for source, more, size in (("many.txt", [], 3004), ("my.toml", [], 3004), ("many.txt", ["100"], 100)):
        sized = ["--tokenizer.vocab_size", *more] if more else []
        assert run(["train", source, *flags, *sized, "--out", "run", "--overwrite"], 0.0) == 0
        assert api.load("run").tokenizer.vocab_size == size


def test_training_from_scratch_has_no_base(place, capsys):
    Path("my.toml").write_text('[data]\nsources = ["my.txt"]\n[lora]\nrank = 2\n[model]\nblock_size = 16\n')
    for flags in (["my.txt", "--data.base_text", "my.txt", *SMALL], ["my.toml", *SMALL]):
        assert "primegpt finetune BASE" in refused(capsys, place, "train", *flags)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--tokenizer.kind", "bpe"], "tokenizer.kind asks for 'bpe'"),
        (["--tokenizer.vocab_size", "300"], "tokenizer.vocab_size asks for 300"),
        (["--tokenizer.path", "tok"], "tokenizer.path asks for"),
        (["--tokenizer.special_tokens.genre", "<polka>"], "special_tokens.genre asks for ('<polka>',)"),
        (["--model.vocab_size", "99"], "model.vocab_size asks for 99"),
        (["--model.n_layer", "3"], "model.n_layer = 3"),
        (["--model.block_size", "8"], "model.block_size = 8"),
        (["--lora", "--lora.rank", "0"], "lora.rank = 0"),
        (["--lora.alpha", "3"], "lora.alpha = 3.0 has no effect"),
        (["--lora", "--lora.targets", "mlp.c_gate"], "nothing would learn"),
        (["--data.weights", "3"], "data.weights = (3.0,) has no effect without several sources"),
    ],
)
def test_finetuning_refuses_what_it_cannot_change(base, place, capsys, flags, named):
    assert run(["tokenizer", "train", "answers.jsonl", "--data.template", "response", "--out", "tok"], 0.0) == 0
    assert named in refused(capsys, place, "finetune", base, "my.txt", *flags, "--train.max_steps", "2")


def test_finetuning_may_say_what_the_base_is_anyway(base, place):
    flags = ["--tokenizer.kind", "char", "--tokenizer.path", base, "--model.n_layer", "1", "--train.max_steps", "2"]
    assert run(["finetune", base, "my.txt", "--out", "tuned", *flags[2:], "--train.threads", "1"], 0.0) == 0
    assert run(["finetune", base, "my.txt", "--out", "again", *flags[:2], *flags[4:], "--train.threads", "1"], 0.0) == 0


def test_a_resumed_run_takes_a_budget_alone(base, place, capsys):
    for flags in (["--train.batch_size", "2"], ["--data.genre", "rock"], ["--model.n_layer", "2"]):
        assert "give no setting but a budget" in refused(capsys, place, "train", "--resume", base, *flags)
    with pytest.raises(ConfigError, match="no setting but a budget"):
        api.resume(base, settings={"train": {"seed": 2}})


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "audit", "my.txt", "--data.stride", "5"],
        ["tokenizer", "train", "my.txt", "--out", "tok", "--data.val_fraction", "0.2"],
        ["evaluate", "base", "--text", "my.txt", "--data.weights", "2"],
        ["data", "prepare", "my.txt", "--generate.top_k", "5"],
    ],
)
def test_what_only_training_uses_is_no_option_of_commands_that_read(place, capsys, arguments):
    assert "unknown option" in refused(capsys, place, *arguments).lower()


def test_the_same_from_python(base, place):
    from primegpt.jobs.data import audit, prepare_data
    from primegpt.jobs.tokenizers import train_tokenizer

    with pytest.raises(ConfigError, match=r"data.stride = 5 has no effect here"):
        audit("my.txt", settings={"data": {"stride": 5}})
    with pytest.raises(ConfigError, match=r"generate.top_k = 5 has no effect here"):
        prepare_data("my.txt", settings={"generate": {"top_k": 5}})
    with pytest.raises(ConfigError, match=r"tokenizer.path = 'x' has no effect here"):
        train_tokenizer("my.txt", out="tok", settings={"tokenizer": {"path": "x"}})
    with pytest.raises(ConfigError, match=r"data.sources = .* has no effect here"):
        api.evaluate(base, text="my.txt", settings={"data": {"sources": ["my.txt"]}})


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 5},
        {"stride": 5, "memorization": True},
        {"batch_size": 2, "adherence": True},
        {"settings": {"data": {"text_field": "lyrics"}}},
    ],
)
def test_evaluate_refuses_options_of_measures_that_were_not_asked_for(options):
    with pytest.raises(UsageError, match="leave it out"):
        evaluate_run(cast(Run, None), **options)  # before the run is looked at


def test_a_kind_of_gpu_is_of_gpus(base, place, capsys):
    assert "give their number: --gpus 1" in refused(capsys, place, "info", base, "--gpu", "a100")
    assert run(["info", base, "--gpus", "2", "--gpu", "a100"], 0.0) == 0


def test_beams_draw_nothing(base, place, capsys):
    flags = ["--beams", "2", "--temperature", "0.5"]
    assert "generate.temperature = 0.5 has no effect" in refused(capsys, place, "generate", base, "the", *flags)
    assert "beam search" in refused(capsys, place, "generate", base, "the", "--length-penalty", "2")
