"""What came with an imported model goes out with it, to the byte, but for what has changed."""

import json
import shutil
from pathlib import Path

import pytest

from primegpt import api
from primegpt.cli.main import run as command
from primegpt.errors import UsageError
from primegpt.jobs.bases import open_base
from primegpt.jobs.interop import carried_by
from primegpt.run.folder import RunFolder
from primegpt.tokenizers.char import CharTokenizer

LICENCE = b"Permission is hereby granted \xff to whoever asks.\r\n"
GENERATION = b'{"do_sample": true,\n "temperature": 0.6, "top_p": 0.9, "eos_token_id": [3, 2], "more": "kept"}'
LETTERS = CharTokenizer([chr(0x21 + i) for i in range(70)])


def quiet(message: str) -> None:
    pass


@pytest.fixture
def theirs(random_model, save_run, tmp_path) -> Path:
    """A folder of others, with a licence, a notice, and how its makers generate."""
    run = save_run(random_model(vocab_size=LETTERS.vocab_size, n_layer=1), LETTERS, "made")
    folder = api.export(run, tmp_path / "theirs", say=quiet)
    (folder / "LICENSE").write_bytes(LICENCE)
    (folder / "Notice.txt").write_bytes(b"made elsewhere")
    (folder / "generation_config.json").write_bytes(GENERATION)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(run: Path, **generate: object) -> None:
    path = run / "config.toml"
    text = path.read_text(encoding="utf-8")
    for key, value in generate.items():
        lines = [line for line in text.splitlines() if not line.startswith(f"{key} = ")]
        at = lines.index("[generate]") + 1
        text = "\n".join([*lines[:at], f"{key} = {value}", *lines[at:]])
    path.write_text(text, encoding="utf-8")


def test_what_has_not_changed_is_the_same_to_the_byte(theirs, tmp_path):
    run = api.import_model(theirs, tmp_path / "run", say=quiet)
    assert api.load(run).config.generate.temperature == 0.6
    assert contents(api.export(run, tmp_path / "again", say=quiet)) == contents(theirs)


def test_only_what_has_changed_is_another(theirs, tmp_path):
    run = api.import_model(theirs, tmp_path / "run", say=quiet)
    edit(run, temperature=0.25)
    out = contents(api.export(run, tmp_path / "again", say=quiet))
    assert json.loads(out["generation_config.json"]) == {**json.loads(GENERATION), "temperature": 0.25}
    edit(run, temperature=0.0)
    out = contents(api.export(run, tmp_path / "third", say=quiet))
    found = json.loads(out["generation_config.json"])
    assert found["do_sample"] is False
    assert found.keys().isdisjoint({"temperature", "top_p"})


PENALIZED = b'{"do_sample": true, "min_p": 0.05,  "repetition_penalty": 1.1, "temperature": 0.6}'
NEUTRAL = b'{"do_sample": true, "min_p": 0.0,  "repetition_penalty": 1.0, "temperature": 0.6}'


@pytest.mark.parametrize("generation", [PENALIZED, NEUTRAL])
def test_penalties_are_read_and_only_what_has_changed_of_them_is_another(theirs, tmp_path, generation):
    (theirs / "generation_config.json").write_bytes(generation)
    said = json.loads(generation)
    run = api.import_model(theirs, tmp_path / "run", say=quiet)
    read = api.load(run).config.generate
    assert (read.min_p, read.repetition_penalty) == (said["min_p"], said["repetition_penalty"])
    assert contents(api.export(run, tmp_path / "same", say=quiet))["generation_config.json"] == generation
    edit(run, repetition_penalty=1.5)
    out = contents(api.export(run, tmp_path / "other", say=quiet))
    assert json.loads(out["generation_config.json"]) == {**said, "repetition_penalty": 1.5}
    edit(run, repetition_penalty=1.0, min_p=0.0)
    found = json.loads(contents(api.export(run, tmp_path / "third", say=quiet))["generation_config.json"])
    assert found.get("repetition_penalty", 1.0) == 1.0
    assert found.get("min_p", 0.0) == 0.0


def test_a_least_share_that_did_not_count_does_not_when_drawing_begins(theirs, tmp_path):
    (theirs / "generation_config.json").write_bytes(b'{"do_sample": false, "min_p": 0.05}')
    run = api.import_model(theirs, tmp_path / "run", say=quiet)
    edit(run, temperature=0.5)
    found = json.loads(contents(api.export(run, tmp_path / "hf", say=quiet))["generation_config.json"])
    assert found["do_sample"] is True
    assert "min_p" not in found


def test_an_end_of_text_that_is_new_is_added_to_theirs(theirs, tmp_path):
    (theirs / "generation_config.json").write_bytes(b'{"eos_token_id": 7, "max_new_tokens": 9}')
    run = api.import_model(theirs, tmp_path / "run", say=quiet)
    out = contents(api.export(run, tmp_path / "again", say=quiet))
    found = json.loads(out["generation_config.json"])
    assert found == {"eos_token_id": [7, LETTERS.eot_id], "max_new_tokens": 9}


def test_a_fine_tuned_run_has_what_its_base_had(theirs, random_model, save_run, tmp_path):
    tuned = save_run(random_model(vocab_size=LETTERS.vocab_size, n_layer=1), LETTERS, "tuned")
    open_base(api.import_model(theirs, tmp_path / "run", say=quiet)).copy_to(tuned / "base")
    again = save_run(random_model(vocab_size=LETTERS.vocab_size, n_layer=1), LETTERS, "again")
    open_base(tuned).copy_to(again / "base")  # of a base that was tuned itself
    for run in (tuned, again):
        out = contents(api.export(run, tmp_path / f"{run.name}-hf", say=quiet))
        assert (out["LICENSE"], out["Notice.txt"]) == (LICENCE, b"made elsewhere")
        assert json.loads(out["generation_config.json"])["eos_token_id"] == [3, 2]


@pytest.mark.parametrize("damage", ["edited", "removed", "all removed"])
def test_damage_of_what_goes_out_is_told(theirs, save_run, random_model, tmp_path, damage):
    run = api.import_model(theirs, tmp_path / "run", say=quiet)
    tuned = save_run(random_model(vocab_size=LETTERS.vocab_size, n_layer=1), LETTERS, "tuned")
    open_base(run).copy_to(tuned / "base")
    for exported, owner in ((run, run), (tuned, tuned / "base")):
        file = owner / "carried" / "generation_config.json"
        if damage == "edited":
            file.write_bytes(file.read_bytes().replace(b"0.6", b"0.7"))
        elif damage == "removed":
            file.unlink()
        else:
            shutil.rmtree(file.parent)
        said = list[str]()
        api.export(exported, tmp_path / f"{exported.name}-hf", say=said.append)
        assert any(str(file) in line for line in said)
        assert any(str(file) in line for line in RunFolder(owner).damages())


def test_an_overwritten_run_keeps_nothing_of_it(theirs, tmp_path):
    run = api.import_model(theirs, tmp_path / "run", say=quiet)
    (theirs / "LICENSE").unlink()
    api.import_model(theirs, run, overwrite=True, say=quiet)
    assert carried_by(RunFolder(run), quiet).keys() == {"Notice.txt", "generation_config.json"}


@pytest.mark.parametrize("what", ["leads outside", "is larger than 16 MB", "files that are called licences"])
def test_files_that_are_not_what_they_are_called(theirs, tmp_path, what):
    if what == "leads outside":
        (tmp_path / "secret").write_bytes(b"mine")
        (theirs / "LICENSE").unlink()
        (theirs / "LICENSE").symlink_to(tmp_path / "secret")
    elif what == "is larger than 16 MB":
        with (theirs / "LICENSE").open("wb") as file:
            file.truncate(2**24 + 1)
    else:
        for number in range(30):
            (theirs / f"LICENSE.{number}").write_bytes(b"")
    with pytest.raises(UsageError, match=what):
        api.import_model(theirs, tmp_path / "never", say=quiet)
    assert not (tmp_path / "never").exists()


def test_a_damaged_one_is_one_line(theirs, tmp_path, capsys):
    run = api.import_model(theirs, tmp_path / "run", say=quiet)
    (run / "carried" / "generation_config.json").write_bytes(b"{")
    assert command(["export", str(run), "--out", str(tmp_path / "hf")], 0.0) == 2
    assert "is not JSON" in capsys.readouterr().err
