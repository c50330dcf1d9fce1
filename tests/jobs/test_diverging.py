"""`evaluate --kl-from`: how far a run is from another on the prompts of a file."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from primegpt import api, tokenizers
from primegpt.cli.main import run
from primegpt.data.reading.sources import Document
from primegpt.errors import DataError, MismatchError
from primegpt.jobs import diverging
from primegpt.jobs.prompts import Prompted

MODEL = SimpleNamespace(device=SimpleNamespace(type="cpu"))


@pytest.fixture
def asked(run_on) -> str:
    records = [{"prompt": "the river", "response": "ran"}, {"prompt": "the stone", "response": "lay"}]
    Path("asked.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return run_on("response")


def measured(*flags: str) -> int:
    return run(["evaluate", "response", "--prompts", "asked.jsonl", *flags], 0.0)


def test_a_run_is_where_it_is_and_a_tuned_one_is_not(asked, capsys):
    settings = {"train": {"max_steps": 3, "batch_size": 1, "learning_rate": 0.01}, "data": {"val_fraction": 0.5}}
    tuned = api.finetune(asked, "asked.jsonl", out="tuned", settings=settings)
    capsys.readouterr()
    assert measured("--kl-from", "response", "--json") == 0
    still = json.loads(capsys.readouterr().out)["kl"]
    assert still["per_token"] == still["per_answer"] == 0
    assert still["prompts"] == 2
    apart = tuned.evaluate(prompts="asked.jsonl", kl_from="response", reward=["words"])
    assert apart["kl"]["per_token"] > 0
    assert apart["kl"] == tuned.evaluate(prompts="asked.jsonl", kl_from="response")["kl"]
    assert "reward" in apart
    assert measured("--kl-from", "tuned") == 0
    told = capsys.readouterr().out
    assert "per token" in told
    assert "from tuned" in told


def test_what_cannot_be_compared_is_one_line(asked, run_on, capsys):
    run_on("chat")
    assert measured("--kl-from", "chat") == 2
    assert "chat and response have different tokenizers" in capsys.readouterr().err
    assert run(["evaluate", "response", "--kl-from", "response"], 0.0) == 2
    assert "--prompts" in capsys.readouterr().err
    assert measured("--kl-from", "nowhere") == 2


def test_where_one_tokenizer_has_more_special_tokens_it_is_said(monkeypatch):
    plain = tokenizers.train("bpe", ["the river ran by the stone"], vocab_size=280)
    told = plain.with_special_tokens({"control": ["<user>", "<assistant>"]})
    base, tuned = (SimpleNamespace(folder=SimpleNamespace(path=name), tokenizer=tokenizer, model=MODEL)
                   for name, tokenizer in {"base": plain, "tuned": told}.items())  # fmt: skip
    for asked, other in ((tuned, base), (base, tuned)):
        monkeypatch.setattr(diverging, "load", lambda *_, other=other, **__: other)
        with pytest.raises(MismatchError, match="differ by special tokens that fine-tuning added") as refused:
            diverging.run_beside(asked, "other", [])
        assert "(<user>, <assistant>)" in str(refused.value)
        assert "began with" not in str(refused.value)


def test_a_prompt_that_fills_what_the_other_sees_is_refused(monkeypatch):
    tokenizer = SimpleNamespace(fingerprint="1")
    asked = SimpleNamespace(tokenizer=tokenizer, model=MODEL)
    other = SimpleNamespace(
        folder=SimpleNamespace(path="small"),
        tokenizer=tokenizer,
        config=SimpleNamespace(model=SimpleNamespace(block_size=8)),
    )
    monkeypatch.setattr(diverging, "load", lambda *_, **__: other)
    prompts = [Prompted([1] * size, "", Document("", "asked.jsonl")) for size in (7, 8)]
    assert diverging.run_beside(asked, "small", prompts[:1]) is other
    with pytest.raises(DataError, match=r"asked.jsonl: the prompt has 8 tokens, and small sees 8"):
        diverging.run_beside(asked, "small", prompts)
