"""The recipes of docs/interop.md, at the other end: what Transformers makes of a run that was talked to."""

import re
from pathlib import Path

import pytest
import torch

from primegpt import api, tokenizers
from primegpt.config import read_saved, write_toml

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
CORPUS = "the river ran under a bridge of stone — and the song went on until mörning\n" * 20
TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "what ran under\nthe bridge? "},
    {"role": "assistant", "content": " the river"},
    {"role": "user", "content": "and the song…"},
]


def quiet(message: str) -> None:
    pass


def test_a_prime_run_is_loaded_as_the_recipe_says(random_model, save_run, tmp_path, monkeypatch, capsys):
    tokenizer = tokenizers.train("bpe", [CORPUS], 320)
    run = save_run(random_model("prime", vocab_size=tokenizer.vocab_size), tokenizer)
    api.export(run, tmp_path / "prime-hf", say=quiet)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (recipe,) = [block for block in blocks if "prime-hf" in block]
    exec(recipe, {})
    assert capsys.readouterr().out.startswith("the river")


@pytest.mark.parametrize("template", ["chat", "response"])
def test_an_answer_to_a_conversation_is_ours(template, random_model, save_run, tmp_path):
    chat, response = ("<system>", "<user>", "<assistant>", "</turn>"), ("<prompt>", "<response>", "</response>")
    names = {"chat": chat, "response": response}
    tokenizer = tokenizers.train("bpe", [CORPUS], 320, {"control": names[template]})
    path = save_run(random_model("qwen3", vocab_size=tokenizer.vocab_size, block_size=128), tokenizer)
    config = read_saved(path / "config.toml").with_values(data={"template": template})
    (path / "config.toml").write_text(write_toml(config), encoding="utf-8")
    out = api.export(path, tmp_path / "hf", say=quiet)
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    run = api.load(path, device="cpu")
    ids = theirs.apply_chat_template(TALK, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == run.conversation(TALK)
    assert model.generation_config.eos_token_id == [tokenizer.eot_id, tokenizer.token_id(names[template][-1])]
    never = [tokenizer.token_id(name) for name in names[template][:-1]]  # ours writes none of them
    settings = {"do_sample": False, "max_new_tokens": 40, "suppress_tokens": never}
    answer = model.generate(torch.tensor([ids]), **settings)[0, len(ids) :]
    ours = run.complete(ids, temperature=0.0, max_new_tokens=40)[0].ids
    assert answer.tolist()[: len(ours)] == ours
    assert len(ours) == 40 or answer[len(ours)] in model.generation_config.eos_token_id
