"""Runs that nobody has trained: what matters is how they are asked, and what becomes of what they write."""

from collections.abc import Callable
from string import ascii_lowercase, digits

import pytest

from primegpt import tokenizers
from primegpt.config import read_toml, resolve, write_toml
from primegpt.data.template import vocabulary


@pytest.fixture
def run_on(save_run, random_model, tmp_path, monkeypatch) -> Callable[[str], str]:
    """A run on records of a template, in the current folder, under its name: random letters are what it writes."""
    monkeypatch.chdir(tmp_path)

    def make(template: str) -> str:
        data = resolve({"data": {"template": template}}).data
        letters = f"{ascii_lowercase}{digits} +!?\n"
        tokenizer = tokenizers.train("char", [letters], special_tokens=vocabulary(data, {}))
        path = save_run(random_model(vocab_size=tokenizer.vocab_size), tokenizer, template, max_new_tokens=8)
        config = resolve(read_toml(path / "config.toml"), {"data": {"template": template}})
        (path / "config.toml").write_text(write_toml(config), encoding="utf-8")
        return template

    return make
