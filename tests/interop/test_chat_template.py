"""A run that was trained on conversations is exported with the template that gives its ids, and comes back with it."""

import json
from pathlib import Path

import jinja2
import pytest
from gguf import GGUFReader

from primegpt import api, tokenizers
from primegpt.config import read_saved, write_toml
from primegpt.interop.chat_template import FILE
from tokenizers import Tokenizer

CORPUS = "the river ran under a bridge of stone — and the song went on until mörning\n" * 20
TALKS = [
    [{"role": "user", "content": "what ran?"}],
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what ran under\nthe bridge? "},
        {"role": "assistant", "content": " the river"},
        {"role": "user", "content": "and the song…"},
    ],
]
CONTROLS = {
    "chat": ("<system>", "<user>", "<assistant>", "</turn>"),
    "response": ("<prompt>", "<response>", "</response>"),
    "text": ("<user>",),
}


def quiet(message: str) -> None:
    pass


@pytest.fixture
def make_run(random_model, save_run):
    """A maker of runs that were trained with a layout."""

    def make(template: str) -> Path:
        tokenizer = tokenizers.train("bpe", [CORPUS], 320, {"control": CONTROLS[template]})
        run = save_run(random_model(vocab_size=tokenizer.vocab_size, n_layer=1), tokenizer, template)
        config = read_saved(run / "config.toml").with_values(data={"template": template})
        (run / "config.toml").write_text(write_toml(config), encoding="utf-8")
        return run

    return make


def rendered(template: str, messages: list[dict[str, str]]) -> str:
    """As Transformers does it."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True)


@pytest.mark.parametrize("template", ["chat", "response"])
def test_what_is_rendered_elsewhere_has_the_ids_of_a_conversation_here(template, make_run, tmp_path):
    run = api.load(make_run(template), device="cpu")
    out = api.export(run.folder.path, tmp_path / "hf", say=quiet)
    theirs = Tokenizer.from_file(str(out / "tokenizer.json"))
    for messages in TALKS:
        text = rendered((out / FILE).read_text(encoding="utf-8"), messages)
        assert theirs.encode(text, add_special_tokens=False).ids == run.conversation(messages)
    ends = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [run.tokenizer.eot_id, run.tokenizer.token_id(CONTROLS[template][-1])]


@pytest.mark.parametrize("template", ["chat", "response"])
def test_it_comes_back_from_a_folder_and_from_a_file(template, make_run, tmp_path):
    run = make_run(template)
    ours, ids = api.load(run, device="cpu"), []
    for to in ("hf", "gguf"):
        out = api.export(run, tmp_path / f"out.{to}", to=to, dtype="f32", say=quiet)
        back = api.load(api.import_model(out, tmp_path / f"back-{to}", say=quiet), device="cpu")
        assert back.conversation(TALKS[1]) == ours.conversation(TALKS[1])
        again = api.export(back.folder.path, tmp_path / f"again.{to}", to=to, dtype="f32", say=quiet)
        ids.append((out, again))
    (folder, folder_again), (file, file_again) = ids
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in folder_again.iterdir()
    }
    fields = [{n: f.contents() for n, f in GGUFReader(path).fields.items()} for path in (file, file_again)]
    assert fields[0].pop("general.name") != fields[1].pop("general.name")
    assert fields[0] == fields[1]
    assert fields[0]["tokenizer.ggml.eot_token_id"] == ours.tokenizer.token_id(CONTROLS[template][-1])


def test_plain_text_has_none(make_run, tmp_path):
    out = api.export(make_run("text"), tmp_path / "hf", say=quiet)
    assert not (out / FILE).exists()
    assert isinstance(json.loads((out / "generation_config.json").read_text())["eos_token_id"], int)


def test_a_template_of_ours_without_its_tokens_is_no_layout(make_run, tmp_path):
    out = api.export(make_run("chat"), tmp_path / "hf", say=quiet)
    plain = api.export(make_run("text"), tmp_path / "plain", say=quiet)
    (plain / FILE).write_bytes((out / FILE).read_bytes())
    back = api.load(api.import_model(plain, tmp_path / "back", say=quiet), device="cpu")
    assert back.config.data.template == "text"
