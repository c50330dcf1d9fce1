"""Whether answers keep to their prompts, of any records that have prompts; and refusals that come before any work."""

import json
from pathlib import Path

import pytest

from primegpt import api
from primegpt.cli.main import run
from primegpt.jobs.answers import unseen_prompts
from primegpt.jobs.text_loss import own_corpus

SMALL = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--train.max_steps", "3"]
SMALL += [
    "--train.threads",
    "1",
    "--train.batch_size",
    "2",
    "--generate.max_new_tokens",
    "6",
    "--tokenizer.kind",
    "char",
]
WORDS = ["river", "stone", "moon", "winter", "garden", "engine", "letter", "window"]


def records(kind: str) -> list[dict]:
    rows = []
    for n, word in enumerate(WORDS * 6):
        asked, answer = f"{word} {WORDS[n // 8]}", f"oh {word}"
        if kind == "chat":
            turns = [("user", asked), ("assistant", answer), ("user", "and then?"), ("assistant", "no more")]
            rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
        else:
            rows.append({"prompt": asked, ("lyrics" if kind == "song" else "response"): answer})
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a run on records of each kind, and one on plain text."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("PRIMEGPT_CACHE", str(place / "cache"))
        for kind in ("song", "response", "chat"):
            Path(f"{kind}.jsonl").write_text("\n".join(map(json.dumps, records(kind))), encoding="utf-8")
            flags = ["--data.template", kind, "--model.block_size", "64", "--out", kind]
            assert run(["train", f"{kind}.jsonl", *flags, *SMALL], 0.0) == 0
        Path("my.txt").write_text("the river ran under a bridge\n" * 60, encoding="utf-8")
        assert run(["train", "my.txt", "--model.block_size", "16", "--out", "text", *SMALL], 0.0) == 0
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("PRIMEGPT_CACHE", str(place / "cache"))


@pytest.mark.parametrize("kind", ["song", "response", "chat"])
def test_prompts_and_answers_are_those_of_held_out_records(kind):
    opened = api.load(kind)
    asked = unseen_prompts(opened, own_corpus(opened), 100)
    known = {(f"{word} {other}", f"oh {word}") for word in WORDS for other in WORDS}
    assert len(asked) == own_corpus(opened).val.n_documents
    for each in asked:
        truth = opened.tokenizer.decode(each.truth, skip_special_tokens=True)
        assert (each.prompt.strip(), truth.strip()) in known  # of a conversation the first answer, and what led to it


@pytest.mark.parametrize("kind", ["song", "response", "chat"])
def test_adherence_of_a_users_own_records(kind, capsys):
    assert run(["evaluate", kind, "--adherence", "--json"], 0.0) == 0
    measured = json.loads(capsys.readouterr().out)["adherence"]
    assert set(measured["generated"]) == set(measured["real"]) == {"words"}
    assert measured["left_out"] == ["genre", "emotion", "theme"]
    assert 0.4 < measured["real"]["words"]["own"] <= 1  # every answer has one of the two words of its prompt
    assert measured["real"]["words"]["lift"] > 0.2
    information = measured["prompt_information"]
    assert information["information"] == pytest.approx(information["shuffled"] - information["own"])
    assert run(["evaluate", kind, "--adherence", "--memorization"], 0.0) == 0
    table = capsys.readouterr().out
    assert "\nwords " in table
    assert "left out: genre, emotion, theme, which can be judged of the songbook's songs alone" in table


def test_adherence_of_any_records_with_answers(capsys):
    """Other records than the run learnt from: one field of each is right, so that the ceiling is known."""
    given = [{"prompt": f"purple {word}", "response": f"so {word}"} for word in WORDS]
    Path("other.jsonl").write_text("\n".join(map(json.dumps, given)), encoding="utf-8")
    assert run(["evaluate", "response", "--adherence", "--prompts", "other.jsonl", "--json"], 0.0) == 0
    measured = json.loads(capsys.readouterr().out)["adherence"]
    assert measured["left_out"] == ["genre", "emotion", "theme"]
    words = measured["real"]["words"]
    assert words["own"] == pytest.approx(0.5)  # "purple" is asked for by all of them, and said by none
    assert words["lift"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["response", "--prompts", "response.jsonl"], "--prompts and --reward go together"),
        (["text", "--adherence"], "trained on plain text without any"),
        (["response", "--adherence", "--limit", "1"], "1 of 1 leave half of the model's block"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(arguments, expected, capsys, monkeypatch):
    monkeypatch.setattr("primegpt.jobs.evaluation.answers_to", lambda *_: pytest.fail("refusals come first"))
    assert run(["evaluate", *arguments], 0.0) == 2
    assert expected in capsys.readouterr().err


def test_a_run_on_plain_text_is_refused_before_its_text_is_read_again(monkeypatch, capsys):
    monkeypatch.setattr("primegpt.jobs.evaluation.own_corpus", lambda *_: pytest.fail("refusals come first"))
    assert run(["evaluate", "text", "--adherence", "--memorization"], 0.0) == 2
    assert "--data.template" in capsys.readouterr().err


def test_prompts_that_leave_no_room_for_an_answer_are_left_out(place):
    opened = api.load("response")
    asked = unseen_prompts(opened, own_corpus(opened), 100)
    from primegpt.jobs.answers import Asked, comparable

    long = Asked([0] * 33, [1], "long")
    assert comparable(opened, [*asked, long]) == asked


def test_every_input_is_looked_at_before_anything_is_measured(monkeypatch, capsys):
    """A file that is missing, or prompts that are, cost nobody the measures that came before."""
    monkeypatch.setattr("primegpt.jobs.evaluation.loss_of_text", lambda *_, **__: pytest.fail("refusals come first"))
    for more, expected in (["--hellaswag", "none.jsonl"], "none.jsonl"), (["--adherence"], "needs prompts"):
        assert run(["evaluate", "text", "--text", "my.txt", *more], 0.0) == 2
        assert expected in capsys.readouterr().err


def test_sample_prompts_that_the_model_cannot_read_are_said_before_training(capsys):
    prompts = ["--train.sample_prompts", "the \u20ac", "--train.sample_prompts", "the river ran under a bridge"]
    flags = ["--model.block_size", "16", "--out", "prompted", *prompts, *SMALL]
    assert run(["train", "my.txt", *flags], 0.0) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "train.sample_prompts" in line]
    assert len(warned) == 2
    assert "knows no '\u20ac'" in warned[0]
    assert "28 tokens, the model sees 16" in warned[1]


def test_a_tokenizer_that_cannot_be_kept_is_not_learnt(monkeypatch, capsys):
    monkeypatch.setattr("primegpt.tokenizers.store.train", lambda *_, **__: pytest.fail("refusals come first"))
    assert run(["tokenizer", "train", "my.txt", "--out", "my.txt/tok"], 0.0) == 2
    assert "my.txt is a file, so there can be no tokenizer my.txt/tok" in capsys.readouterr().err
