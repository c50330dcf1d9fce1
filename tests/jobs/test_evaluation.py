"""`primegpt evaluate` from the command line: a table, the same as JSON, and what cannot be measured in one line."""

import json
import math
from pathlib import Path

import pytest
import torch

from primegpt import api
from primegpt.cli.main import run
from primegpt.data.reading import fetch
from primegpt.jobs.evaluation import countdown
from primegpt.jobs.text_loss import loss_of_text

SMALL = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--train.max_steps", "3"]
TEXT = "the river ran under a bridge of stone and the song went on until morning\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a run on a text and one on the songbook."""
    place = tmp_path_factory.mktemp("place")
    (place / "my.txt").write_text(TEXT * 60, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(place / "cache"))
        text = ["train", str(place / "my.txt"), "--out", str(place / "text"), "--model.block_size", "32"]
        songs = ["train", "songbook", "--data.songs", "40", "--tokenizer.kind", "bpe", "--tokenizer.vocab_size", "400"]
        short = ["--model.block_size", "128", "--generate.max_new_tokens", "24", "--out", str(place / "songs")]
        assert run([*text, *SMALL], 0.0) == 0
        assert run([*songs, *short, *SMALL], 0.0) == 0
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("PRIMEGPT_CACHE", str(place / "cache"))


def report(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    assert run(["evaluate", *arguments, "--json"], 0.0) == 0
    return json.loads(capsys.readouterr().out)


def test_with_no_option_it_is_the_loss_that_training_judged(place, capsys):
    result = report(capsys, "text")["text"]
    judged = json.loads((place / "text/metrics.jsonl").read_text().splitlines()[-1])
    assert result["loss"] == pytest.approx(judged["final/val/loss"], rel=2e-3)  # training may judge in bf16
    assert result["bits_per_byte"] == pytest.approx(result["loss"] / math.log(2), rel=1e-6)  # characters of one byte
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))


def test_a_text_is_scored_by_document_every_target_once(capsys):
    Path("two").mkdir(exist_ok=True)
    Path("two/a.txt").write_text(TEXT * 3, encoding="utf-8")
    Path("two/b.txt").write_text("stone", encoding="utf-8")
    both = report(capsys, "text", "--text", "two")["text"]
    parts = [report(capsys, "text", "--text", f"two/{name}.txt")["text"] for name in "ab"]
    assert both["tokens"] == both["bytes"] == 3 * len(TEXT) + 5
    total = sum(part["loss"] * part["tokens"] for part in parts)
    assert both["loss"] == pytest.approx(total / both["tokens"], rel=1e-6)
    strided = report(capsys, "text", "--text", "two", "--stride", "5")["text"]
    assert strided["tokens"] == both["tokens"]
    assert strided["loss"] != both["loss"]


def test_a_text_begins_as_the_models_of_others_know_it(random_model, save_run, spaced_tokenizer):
    """After their own beginning of text, unless the run was trained here."""
    model, text = random_model(vocab_size=spaced_tokenizer.vocab_size), TEXT[:30]
    ids = spaced_tokenizer.encode(text)
    for name, start, first in (("theirs", None, "<s>"), ("trained", True, "</s>")):
        opened = api.load(str(save_run(model, spaced_tokenizer, name, start_document=start)), device="cpu")
        whole = torch.tensor([[spaced_tokenizer.token_id(first), *ids]])
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(model(whole[:, :-1])[0], whole[0, 1:]).item()
        Path("begins.txt").write_text(text, encoding="utf-8")
        assert loss_of_text(opened, "begins.txt")["loss"] == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("source", [None, "two"])
def test_the_batch_size_changes_nothing(source):
    Path("two").mkdir(exist_ok=True)
    Path("two/a.txt").write_text(TEXT * 3, encoding="utf-8")
    opened = api.load("text")
    values = [loss_of_text(opened, source, batch_size=size)["perplexity"] for size in (1, 4, 32)]
    assert values[1:] == pytest.approx(values[:1] * 2, rel=1e-5)


def test_the_batch_size_of_the_command_line_changes_nothing_either(capsys):
    values = [report(capsys, "text", "--batch-size", size)["text"]["perplexity"] for size in ("1", "32")]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_characters_that_the_run_does_not_know_are_counted(capsys):
    Path("odd.txt").write_text("the €iver €€\n", encoding="utf-8")
    assert run(["evaluate", "text", "--text", "odd.txt"], 0.0) == 0
    assert "3 characters are not in the run's vocabulary" in capsys.readouterr().err


def test_hellaswag_in_a_table(place, capsys):
    line = {"ctx": "the river ran", "endings": ["under a bridge", "on", "until", "stone " * 9], "label": "0"}
    Path("h.jsonl").write_text((json.dumps(line) + "\n") * 3, encoding="utf-8")
    assert run(["evaluate", "text", "--hellaswag", "h.jsonl", "--limit", "2"], 0.0) == 0
    table = capsys.readouterr().out
    assert "2 items, chance 25%" in table
    assert "2 contexts cut" in table
    assert all(f"\n{metric} " in table for metric in ("acc", "acc_norm", "acc_bytes", "acc_tokens"))
    assert "perplexity" not in table  # only what was asked for
    result = report(capsys, "text", "--hellaswag", "h.jsonl", "--limit", "1")["hellaswag"]
    assert result["acc_stderr"] is None
    assert result["items"] == 1


def test_hellaswag_by_its_fetched_name(place, capsys):
    assert run(["evaluate", "text", "--hellaswag", "hellaswag"], 0.0) == 2
    assert "hellaswag is not on this machine; fetch it first: primegpt data fetch hellaswag" in capsys.readouterr().err
    folder = fetch.corpora_folder() / "hellaswag"
    folder.mkdir(parents=True)
    line = {"ctx": "the river ran", "endings": ["under a bridge", "on", "until", "stone"], "label": "0"}
    (folder / "hellaswag_val.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert report(capsys, "text", "--hellaswag", "hellaswag", "--limit", "1")["hellaswag"]["items"] == 1


def test_adherence_and_memorisation_of_a_songbook_run(capsys):
    result = report(capsys, "songs", "--adherence", "--memorization", "--limit", "5")
    adherence = result["adherence"]
    assert set(adherence["generated"]) == {"words", "genre", "emotion", "theme"}
    assert adherence["real"]["theme"]["own"] == 1
    assert adherence["left_out"] == []
    assert adherence["prompt_information"]["songs"] == 5
    assert abs(adherence["prompt_information"]["information"]) < 0.05  # after three steps it has learnt nothing
    copied = result["memorization"]
    assert set(copied["generated"]) == {"share_8", "share_12", "share_20", "longest", "longest_text"}
    assert copied["held_out"]["longest"] >= 3
    assert run(["evaluate", "songs", "--adherence", "--memorization", "--limit", "5"], 0.0) == 0
    table = capsys.readouterr().out
    for row in ("adherence", "words", "prompt information", "copied 12-grams", "longest copied span"):
        assert f"\n{row} " in table


def test_a_text_of_one_line_again_and_again_is_all_copied(capsys):
    copied = report(capsys, "text", "--memorization", "--limit", "4")["memorization"]
    assert copied["held_out"]["share_20"] == 1
    assert copied["generated"]["share_20"] < 0.1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["text", "--adherence"], "trained on plain text"),
        (["songs", "--adherence", "--limit", "1"], "raise --limit"),
        (["text", "--hellaswag", "none.jsonl"], "none.jsonl"),
        (["text", "--text", "none.txt"], "none.txt"),
        (["text", "--stride", "33"], "--stride 33"),
        (["text", "--limit", "0"], "limit = 0"),
        (["text", "--batch-size", "0"], "batch_size = 0"),
        (["none"], "none"),
    ],
)
def test_what_cannot_be_measured_is_one_line(capsys, arguments, expected):
    capsys.readouterr()
    assert run(["evaluate", *arguments], 0.0) == 2
    captured = capsys.readouterr()
    assert expected in captured.err.splitlines()[-1]
    assert captured.out == ""


def test_without_a_text_of_its_own_a_run_can_be_measured_on_another(random_model, save_run, capsys):
    """As one that was imported; a trained run's checkpoint knows its text."""
    tokenizer = api.load("text").tokenizer
    imported = str(save_run(random_model(vocab_size=tokenizer.vocab_size), tokenizer))
    assert run(["evaluate", imported], 0.0) == 2
    assert "--text" in capsys.readouterr().err
    assert run(["evaluate", imported, "--text", "my.txt"], 0.0) == 0


def test_progress_tells_the_time_left(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr("primegpt.jobs.evaluation.time.monotonic", lambda: now[0])
    progress = countdown(lines.append, "HellaSwag")
    for done in range(1, 10):
        now[0] += 4.0
        progress(done, 1000)
    assert lines == ["HellaSwag: 3 of 1,000, 1 h 6 min left", "HellaSwag: 6 of 1,000, 1 h 6 min left",
                     "HellaSwag: 9 of 1,000, 1 h 6 min left"]  # fmt: skip
