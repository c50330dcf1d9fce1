"""Every recipe trains: its own text format, tokenizer and settings, with sizes and budget cut to a few steps."""

import json
import os
import re
from pathlib import Path

import pytest

from primegpt import api
from primegpt.cli.main import run
from primegpt.config import PREFERENCES, RECIPES, read_toml, recipe_names, recipe_path, resolve
from primegpt.data.reading.fetch import CORPORA, corpora_folder
from primegpt.jobs.data import write_tasks

FILES = [RECIPES / f"{name}.toml" for name in recipe_names()]
GPT2 = Path(os.environ.get("PRIMEGPT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "gpt2"

SMALL = [
    *("--model.n_layer", "1", "--model.n_head", "2", "--model.n_embd", "16", "--model.block_size", "128"),
    *("--train.sequence_length", "64", "--train.batch_size", "2", "--train.gradient_accumulation_steps", "2"),
    *("--train.max_steps", "2", "--train.threads", "1", "--train.warmup_steps", "0", "--data.val_tokens", "64"),
    *("--generate.max_new_tokens", "4"),
]


TUNED = ["--train.max_steps", "2", "--train.threads", "1", "--data.val_tokens", "64", "--generate.max_new_tokens", "4"]

REWARDED = ["--train.max_steps", "2", "--train.threads", "1", "--data.songs", "60", "--reinforce.num_generations", "2"]
REWARDED += ["--reinforce.prompts_per_step", "2", "--reinforce.max_new_tokens", "4", "--reinforce.val_prompts", "2"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A user's folder: the text that recipes call `my.txt`, and a web corpus as if it had been fetched."""
    import pyarrow
    import pyarrow.parquet

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text("the river ran under a bridge of stone\n" * 200, encoding="utf-8")
    pages = [f"Page {n} is about rivers, bridges and stones, and how they came to be. " * 5 for n in range(60)]
    reviews = [
        f"Film {n} has a river in it.<br /><br />I liked the caf\u00e9 &amp; the bridge. " * 5 for n in range(60)
    ]
    for name, texts in (("fineweb-edu", pages), ("imdb", reviews)):
        (corpora_folder() / name).mkdir(parents=True)
        for file in CORPORA[name].files:
            pyarrow.parquet.write_table(pyarrow.table({"text": texts}), corpora_folder() / name / file.name)
    (corpora_folder() / "shakespeare").mkdir()
    (corpora_folder() / "shakespeare" / "input.txt").write_text("To be, or not to be.\n" * 300, encoding="utf-8")
    write_tasks("add.jsonl", kind="add", levels=[2], records=60)
    return tmp_path


def flags_for(recipe: Path) -> list[str]:
    """What makes a recipe small, and what it would download."""
    flags, config = list(SMALL), resolve(read_toml(recipe))
    if config.tokenizer.kind == "gpt2":
        if not GPT2.exists():
            pytest.skip("needs GPT-2's vocabulary files")
        flags += ["--tokenizer.path", str(GPT2)]
    elif config.tokenizer.kind != "char":
        flags += ["--tokenizer.vocab_size", "700"]
    if config.data.sources[0].startswith("hf:"):
        flags += ["--data.sources", "fineweb-edu"]
    if config.data.val_fraction < 0.01:
        flags += ["--data.val_fraction", "0.1"]
    if "songbook" in config.data.sources:
        flags += ["--data.songs", "60"]
    if config.train.compile:
        flags += ["--train.compile=false"]
    return flags


def answering(capsys) -> str:
    """A run that has learnt to answer, and what recipes call `pairs.jsonl`."""
    rows = [{"prompt": f"say {n}", "response": f"word {n}"} for n in range(40)]
    Path("answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pairs = [{"prompt": f"say {n}", "chosen": f"word {n}", "rejected": f"{n} word"} for n in range(40)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    given = ["--data.template", "response", "--tokenizer.kind", "char", "--model.preset", "gpt2"]
    assert run(["train", "answers.jsonl", "--out", "answers", *given, *SMALL], 0.0) == 0
    return "answers"


@pytest.mark.parametrize("recipe", FILES, ids=lambda path: path.stem)
def test_a_recipe_trains(recipe, place, capsys):
    config = resolve(read_toml(recipe))
    if config.reinforce.on:
        songs = RECIPES / "songbook-instruct.toml"
        assert run(["train", str(songs), "--out", "songs", *flags_for(songs)], 0.0) == 0
        command, flags = ["reinforce", "songs"], REWARDED
    elif config.train.objective in PREFERENCES:
        command, flags = ["finetune", answering(capsys)], TUNED
    else:
        command, flags = ["train"], flags_for(recipe)
    assert run([*command, str(recipe), "--out", "run", *flags], 0.0) == 0
    trained = api.load("run")
    assert trained.step > 0 or config.reinforce.on  # two steps need not be an improvement
    assert trained.config.model.preset == config.model.preset or config.reinforce.on  # its base's
    assert trained.generate("", max_new_tokens=4) is not None


@pytest.mark.parametrize("recipe", FILES, ids=lambda path: path.stem)
def test_a_recipe_can_be_forecast(recipe, capsys, monkeypatch):
    monkeypatch.setattr("primegpt.jobs.facts.forecast_step", lambda config: 1.0)  # measured in test_timing.py
    assert run(["info", str(recipe)], 0.0) == 0
    printed = capsys.readouterr().out
    assert "parameters" in printed
    assert "memory for training" in printed


def test_the_web_recipe_is_as_its_ancestor_was():
    config = resolve(read_toml(next(path for path in FILES if path.stem == "fineweb-edu-16m")))
    train = config.train
    assert train.batch_size * train.gradient_accumulation_steps * (train.sequence_length or 0) == 32_768
    assert train.max_steps == 12_207
    assert round(12_207 * 32_768 / 300e6, 2) == 1.33


def test_two_stages_first_reviews_then_lyrics(place, capsys):
    """What the second stage changes is the weights: the network, the tokenizer and the first run stay."""
    first, second = (next(path for path in FILES if path.stem == name) for name in ("imdb-pretrain", "lyrics-finetune"))
    assert run(["train", str(first), "--out", "first", *flags_for(first)], 0.0) == 0
    general = api.load("first")
    budget = ["--train.max_steps", "2", "--train.warmup_steps", "0", "--train.threads", "1", "--data.songs", "60"]
    assert run(["finetune", "first", str(second), "--out", "second", *budget], 0.0) == 0
    tuned = api.load("second")
    assert tuned.tokenizer.fingerprint == general.tokenizer.fingerprint
    assert tuned.config.model == general.config.model
    assert tuned.config.train.learning_rate == 1e-5
    assert tuned.config.train.weight_decay == 0.01
    assert "base text" in capsys.readouterr().out


def test_a_recipe_is_found_by_its_name(place, capsys):
    """From anywhere, in every command that takes one, as it is by the path of a file."""
    assert run(["train", "char-10m", "--out", "run", *SMALL], 0.0) == 0
    assert api.load("run").config.data.sources == ("my.txt",)
    assert run(["data", "audit", "--config", "char-10m"], 0.0) == 0
    assert api.info("char-10m")["parameters"] == api.info(RECIPES / "char-10m.toml")["parameters"]
    (place / "configs").mkdir()
    (place / "configs" / "char-10m.toml").write_text("[model]\nn_layer = 3\n", encoding="utf-8")
    assert read_toml(recipe_path("configs/char-10m.toml") or "").values == {"model": {"n_layer": 3}}


def test_what_a_user_has_goes_before_a_recipe_of_that_name(place):
    (place / "demo").mkdir()
    assert recipe_path("demo") is None
    assert recipe_path("char-10m") == RECIPES / "char-10m.toml"
    assert recipe_path("my.txt") is None


def test_the_path_that_a_recipe_had_is_answered_with_its_name(place, capsys):
    assert run(["train", "configs/char-10m.toml"], 0.0) == 2
    assert "needs no path: char-10m" in capsys.readouterr().err


def test_the_help_of_train_names_every_recipe_that_it_takes(capsys):
    assert run(["train", "--help"], 0.0) == 0
    assert set(recipe_names()) - {"lyrics-finetune", "preference", "reinforce-songs"} <= set(
        re.findall(r"[a-z0-9-]+", capsys.readouterr().out)
    )
