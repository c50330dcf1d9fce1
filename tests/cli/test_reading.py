"""Every command that reads a source takes the same options for it, and names them where a field is missing."""

import json
from pathlib import Path

import pytest

from primegpt import tokenizers
from primegpt.cli.main import run

SMALL = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.block_size", "64"]
SMALL += ["--train.max_steps", "2", "--train.batch_size", "2", "--train.threads", "1", "--tokenizer.kind", "char"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with songs under other names, and a run that was trained on them with each template."""
    place = tmp_path_factory.mktemp("place")
    songs = [{"wish": f"about {word}", "words": f"the {word} and I\n" * 3} for word in ["river", "stone", "moon"] * 9]
    (place / "songs.jsonl").write_text("\n".join(map(json.dumps, songs)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("PRIMEGPT_CACHE", str(place / "cache"))
        assert run(["train", "songs.jsonl", *FIELD, "--out", "text", *SMALL], 0.0) == 0
        assert run(["train", "songs.jsonl", *RESPONSE, "--out", "response", *SMALL], 0.0) == 0
    return place


FIELD = ["--data.text_field", "words"]
RESPONSE = ["--data.template", "response", "--data.prompt_field", "wish", "--data.response_field", "words"]


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("PRIMEGPT_CACHE", str(place / "cache"))


COMMANDS = {
    "audit": ["data", "audit", "songs.jsonl"],
    "prepare": ["data", "prepare", "songs.jsonl"],
    "tokenizer": ["tokenizer", "train", "songs.jsonl", "--out", "tok", "--overwrite", "--kind", "char"],
    "evaluate": ["evaluate", "text", "--text", "songs.jsonl"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_advice_of_an_error_works_in_the_command_that_gave_it(command, capsys):
    fields = ["--data.text_field", "word"]
    assert run([*command, *fields], 0.0) == 2
    said = capsys.readouterr().err
    assert "songs.jsonl, line 1: there is no field 'word', only 'wish', 'words'; say --data.text_field words" in said
    assert run([*command, *FIELD], 0.0) == 0
    assert run([*command, *RESPONSE], 0.0) == (0 if command[0] != "evaluate" else 2)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize("missing", ["prompt_field", "response_field"])
def test_each_field_that_is_missing_names_its_own_option(command, missing, capsys):
    flags = dict(zip(RESPONSE[::2], RESPONSE[1::2], strict=True)) | {f"--data.{missing}": "nothing"}
    command = ["response" if word == "text" else word for word in command]
    assert run([*command, *(word for pair in flags.items() for word in pair)], 0.0) == 2
    assert f"there is no field 'nothing', only 'wish', 'words'; say --data.{missing} NAME" in capsys.readouterr().err


def test_fields_that_nobody_named_name_their_options_too(capsys):
    for template, field, option in (("song", "lyrics", "response"), ("response", "response", "response")):
        flags = ["--data.template", template, "--data.prompt_field", "wish"]
        assert run(["data", "audit", "songs.jsonl", *flags], 0.0) == 2
        assert (
            f"there is no field '{field}', only 'wish', 'words'; say --data.{option}_field" in capsys.readouterr().err
        )


def test_records_are_audited_as_they_are_learnt(capsys):
    assert run(["data", "audit", "songs.jsonl", *RESPONSE, "--json"], 0.0) == 0
    songs = [json.loads(line) for line in Path("songs.jsonl").read_text(encoding="utf-8").splitlines()]
    facts = json.loads(capsys.readouterr().out)
    assert facts["n_documents"] == len(songs)
    assert facts["characters"] == sum(len(song["wish"] + song["words"]) for song in songs)


def test_no_more_is_audited_than_will_be_read(capsys):
    assert run(["data", "audit", "songs.jsonl", *FIELD, "--data.max_bytes", "100", "--json"], 0.0) == 0
    assert json.loads(capsys.readouterr().out)["characters"] < 200


def test_a_tokenizer_for_records_has_the_ids_of_their_template(capsys):
    assert run([*COMMANDS["tokenizer"], *RESPONSE], 0.0) == 0
    assert tokenizers.load("tok").special_kinds["control"] == ("<prompt>", "<response>", "</response>")
    assert not tokenizers.load("tok").count_unknown("about the river\n")
    assert run(["data", "prepare", "songs.jsonl", *RESPONSE, "--tokenizer.path", "tok"], 0.0) == 0


@pytest.mark.parametrize("name", ["text", "response"])
def test_evaluate_reads_a_source_as_the_run_did(name, capsys):
    losses = []
    for flags in ([], FIELD if name == "text" else RESPONSE):
        capsys.readouterr()
        assert run(["evaluate", name, "--text", "songs.jsonl", *flags, "--json"], 0.0) == 0
        losses.append(json.loads(capsys.readouterr().out)["text"]["loss"])
    assert losses[0] == losses[1]


def test_evaluate_reads_the_records_of_a_run_as_plain_text_if_told_to(capsys):
    plain = ["--data.template", "text", *FIELD]
    assert run(["evaluate", "response", "--text", "songs.jsonl", *plain, "--json"], 0.0) == 0
    songs = [json.loads(line) for line in Path("songs.jsonl").read_text(encoding="utf-8").splitlines()]
    found = json.loads(capsys.readouterr().out)["text"]
    assert found["bytes"] == found["tokens"] == sum(len(song["words"]) for song in songs)
