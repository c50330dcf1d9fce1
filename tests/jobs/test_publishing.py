"""Pushing to the hub, against one on this machine: what is there then, and what is said where it does not work."""

import json
import re
import socket
import time
from pathlib import Path

import pytest
import tomli_w

from primegpt import api
from primegpt.cli.main import run as command
from primegpt.config import resolve
from primegpt.config.layers import Layer
from primegpt.errors import UsageError
from primegpt.jobs.configuring import configure
from primegpt.report.history import History
from primegpt.report.model_card import UNTOLD, _said, recipe, shown_source
from primegpt.tokenizers.char import CharTokenizer

# The library's own, of the client that it is built on.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
SMALL = "--train.max_steps 3 --train.batch_size 2 --train.threads 1 --model.n_layer 1 --model.n_embd 32 "
SMALL += "--model.n_head 2 --model.preset gpt2"
WORDS = "the river ran under a bridge of stone and the song went on until morning\n"


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that was trained for three steps on a file in a folder with a name that is nobody's business."""
    place = tmp_path_factory.mktemp("secret-project")
    (place / "my.txt").write_text(WORDS * 100, encoding="utf-8")
    small = [*SMALL.split(), "--out", str(place / "runs" / "river")]
    assert command(["train", str(place / "my.txt"), *small], 0.0) == 0
    return place / "runs" / "river"


@pytest.fixture
def letters_run(random_model, save_run) -> Path:
    letters = CharTokenizer("abc")
    return save_run(random_model(vocab_size=letters.vocab_size, n_layer=1), letters)


def refused(run: Path, repo: str, capsys, *expected: str, private: bool = False) -> None:
    """Pushing fails in one line that has `expected` in it and no token, and leaves nothing beside the run."""
    started, before = time.monotonic(), sorted(run.parent.iterdir())
    assert command(["push", str(run), repo, *(["--private"] if private else [])], 0.0) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    for text in ("primegpt: ", *expected):
        assert text in said
    assert "hf_" not in said
    assert sorted(run.parent.iterdir()) == before
    assert time.monotonic() - started < 30


def test_what_is_pushed_is_what_export_writes_and_a_card(trained, hub, tmp_path, capsys):
    assert command(["push", str(trained), "me/river", "--private"], 0.0) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{hub.address}/me/river\n"
    assert "hf_" not in printed.out + printed.err
    files = dict(hub.files["me/river"])
    card = files.pop("README.md").decode()
    exported = api.export(trained, tmp_path / "hf", say=quiet)
    assert files == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert hub.private["me/river"]
    assert hub.commits == ["primegpt push river"]
    assert "secret-project" not in card
    assert "bridge" not in card  # nothing of the text, which a report may quote
    assert "hf_" not in card
    told = History.read(trained).summary()
    for part in ("my.txt", f"{told['final_loss']:.4f}", "tokens seen", "primegpt train recipe.toml", "GPT2LMHeadModel"):
        assert part in card, part
    assert not list(trained.parent.glob(".push-*"))


def test_the_recipe_of_a_card_is_that_of_the_run(trained):
    run = History.read(trained)
    again = resolve(Layer(recipe(run), "recipe"))
    changed = again.changes(run.config).keys()
    assert {name for name in changed if not name.startswith("plan.")} <= UNTOLD | {"data.sources"}
    assert again.data.sources == ("my.txt",)


def test_the_recipe_of_a_card_can_be_trained_with(tmp_path, monkeypatch):
    """Of a run with records, and of sources with settings of their own: no path is told, and nothing contradicts."""
    monkeypatch.chdir(tmp_path)
    for name, template, record in (
        ("songs", "song", {"prompt": "a song", "genre": "pop", "lyrics": "[verse]\nthe river ran\nto the sea"}),
        ("answers", "response", {"prompt": "who", "response": "the river"}),
    ):
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(record) + "\n") * 60, encoding="utf-8")
        given = {"data": {"template": template}, "train": {"sample_prompts": ["a private prompt"]}}
        small = {"n_layer": 1, "n_embd": 32, "n_head": 2, "block_size": 64}
        given |= {"model": small, "tokenizer": {"kind": "char"}}
        given["train"] |= {"max_steps": 1, "batch_size": 2, "threads": 1}
        run = api.train(tmp_path / f"{name}.jsonl", out=tmp_path / "runs" / name, settings=given, quiet=True)
        told = tomli_w.dumps(recipe(History.read(run.folder.path)))
        (tmp_path / "recipe.toml").write_text(told, encoding="utf-8")
        assert "private" not in told
        assert configure([tmp_path / "recipe.toml"], Layer({}, "nothing")).data.template == template


def test_sources_with_settings_of_their_own_are_told_by_name():
    own = {"text_field": "words", "weight": None}
    found = _said(own), shown_source(r"C:\\me\\secret\\my.jsonl"), shown_source("/home/me/secret/my.jsonl")
    assert found == ({"text_field": "words"}, "my.jsonl", "my.jsonl")


def test_sources_are_told_without_the_way_to_them():
    assert shown_source("/home/me/secret/my.txt") == "my.txt"
    assert shown_source("../letters/*.txt") == "*.txt"
    assert shown_source("hf:org/name") == "hf:org/name"
    assert shown_source("songbook") == "songbook"


def test_what_is_pushed_can_be_imported_by_its_name(letters_run, hub, tmp_path):
    api.push(letters_run, "me/river", private=True, say=quiet)
    back = api.load(api.import_model("me/river", tmp_path / "back", say=quiet), device="cpu")
    assert back.generate("ab", seed=1) == api.load(letters_run, device="cpu").generate("ab", seed=1)


def test_a_card_that_is_there_is_kept(letters_run, hub, capsys):
    hub.create("me/river")
    hub.files["me/river"]["README.md"] = b"license: mit"
    run = api.load(letters_run, device="cpu")
    assert run.push("me/river") == f"{hub.address}/me/river"
    assert hub.files["me/river"]["README.md"] == b"license: mit"
    assert "model.safetensors" in hub.files["me/river"]
    assert "has a README.md, which is kept" in capsys.readouterr().err


def test_a_name_without_an_owner_is_ones_own(letters_run, hub):
    assert api.push(letters_run, "river", say=quiet).endswith("/me/river")
    assert "pipeline(" in hub.files["me/river"]["README.md"].decode()
    assert not hub.private["me/river"]


def test_what_was_imported_says_so(letters_run, hub):
    api.push(letters_run, "me/river", say=quiet)
    card = hub.files["me/river"]["README.md"].decode()
    assert "it was imported" in card
    assert re.match(r"---\n.*\n---\n", card, re.DOTALL)


def test_another_push_leaves_nothing_of_the_one_before(letters_run, hub):
    api.push(letters_run, "me/river", say=quiet)
    left = ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "chat_template.jinja", "qwen.tiktoken")
    hub.files["me/river"] |= dict.fromkeys((*left, "notes.md"), b"of another model")
    api.push(letters_run, "me/river", say=quiet)
    assert not hub.files["me/river"].keys() & set(left)
    assert hub.files["me/river"].keys() >= {"notes.md", "model.safetensors", "README.md", "config.json"}


def test_a_chat_that_is_pushed_comes_back_with_its_layout(tmp_path, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turns = [{"role": "user", "content": "who"}, {"role": "assistant", "content": "the river"}]
    (tmp_path / "chats.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 60, encoding="utf-8")
    small = {"n_layer": 1, "n_embd": 32, "n_head": 2, "block_size": 64, "preset": "qwen3"}
    given = {"model": small, "data": {"template": "chat"}, "train": {"max_steps": 1, "batch_size": 2, "threads": 1}}
    run = api.train("chats.jsonl", out="runs/chats", settings=given | {"tokenizer": {"vocab_size": 300}}, quiet=True)
    api.push(run.folder.path, "me/chats", say=quiet)
    assert "chat_template.jinja" in hub.files["me/chats"]
    back = api.load(api.import_model("me/chats", tmp_path / "back", say=quiet), device="cpu")
    assert back.config.data.template == "chat"
    assert back.conversation(turns[:1]) == run.conversation(turns[:1])


def test_a_card_has_no_empty_tables(letters_run, hub):
    api.push(letters_run, "me/river", say=quiet)
    card = hub.files["me/river"]["README.md"].decode()
    assert "| --- | --- |\n\n" not in card


def test_what_is_to_be_private_is_not_put_where_all_can_read_it(letters_run, hub, capsys):
    hub.create("me/river", private=False)
    refused(letters_run, "me/river", capsys, "is there already, and public", private=True)
    assert not hub.files["me/river"]


@pytest.mark.parametrize(
    ("token", "fails", "expected"),
    [
        (None, {}, ["nobody is logged in", "hf auth login"]),
        ("hf_anothers", {}, ["does not know the token", "HF_TOKEN"]),
        ("hf_é", {}, ["was not written"]),
        ("hf_ofThisTestAlone", {"/api/": 403}, ["may not write to me/river"]),
        ("hf_ofThisTestAlone", {"/commit/": 403}, ["may not write to me/river"]),
        ("hf_ofThisTestAlone", {"/api/repos/create": 500}, ["answered 500"]),
    ],
)
def test_what_the_hub_does_not_allow_is_one_line(letters_run, hub, capsys, monkeypatch, token, fails, expected):
    hub.fails = fails
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    refused(letters_run, "me/river", capsys, *expected)


def test_without_a_network_it_is_one_line(letters_run, hub, capsys, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    refused(letters_run, "me/river", capsys, "was not written", "ConnectError", "where there is a network")


@pytest.mark.parametrize("repo", ["", "a/b/c", "../x", "me/..", "me/x y", "-x", "x" * 200, "me/a--b"])
def test_names_that_no_repository_has(letters_run, repo):
    with pytest.raises(UsageError, match="cannot name a repository"):
        api.push(letters_run, repo, say=quiet)


def test_what_cannot_be_exported_makes_no_repository(random_model, save_run, hub, capsys):
    letters = CharTokenizer("abc")
    run = save_run(random_model("prime", vocab_size=letters.vocab_size, embedding_norm=False), letters)
    refused(run, "me/river", capsys, "embedding_norm")
    assert not hub.files
