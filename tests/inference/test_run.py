"""A run in Python: what it says, what it does, and that it can be quiet."""

import html
import json
import math
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
import torch

import primegpt
from primegpt import api
from primegpt.errors import DataError, UsageError

MODEL = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 64}
TRAIN = {"max_steps": 3, "batch_size": 2, "threads": 1}
TEXT = "the quick brown fox jumps over the lazy dog\n" * 200


def settings(kind: str = "char", **data: object) -> dict[str, dict[str, object]]:
    small = {"kind": kind} if kind == "char" else {"kind": kind, "vocab_size": 300}
    return {"model": MODEL, "train": TRAIN, "data": data, "tokenizer": small, "generate": {"max_new_tokens": 8}}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "my text.txt").write_text(TEXT, encoding="utf-8")
    songs = [
        {"prompt": f"a song about {i}", "lyrics": "la la\nla", "genre": "rock", "emotion": "sad"} for i in range(40)
    ]
    (folder / "songs.jsonl").write_text("\n".join(map(json.dumps, songs)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(place) -> primegpt.Run:
    return primegpt.train(place / "my text.txt", out=place / "run", settings=settings(), quiet=True)


@pytest.fixture(scope="module")
def songs(place) -> primegpt.Run:
    chosen = settings("bpe", template="song")
    return primegpt.train(place / "songs.jsonl", out=place / "songs", settings=chosen, quiet=True)


@pytest.mark.parametrize("kind", ["char", "bpe", "sentencepiece"])
def test_quiet_is_quiet(place, kind, tmp_path, capfd):
    """Not a byte from Python, from libraries in other languages, or as a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = primegpt.train(place / "my text.txt", out=tmp_path / "a", settings=settings(kind), quiet=True)
        primegpt.resume(tmp_path / "a", settings={"train": {"max_steps": 5}}, quiet=True)
        primegpt.finetune(tmp_path / "a", place / "my text.txt", lora=True, out=tmp_path / "b", quiet=True,
                          settings={"train": TRAIN})  # fmt: skip
    assert capfd.readouterr() == ("", "")
    assert first.metrics[-1]["final/val/loss"] > 0


def test_a_process_that_is_asked_to_be_quiet_says_nothing(place, tmp_path):
    """As above, from the first import to the last line of a program."""
    code = f"""
import primegpt
run = primegpt.train({str(place / "my text.txt")!r}, out={str(tmp_path / "run")!r}, settings={settings()!r}, quiet=True)
run.generate("the ")
run.evaluate("some other text")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_whoever_listens_hears_everything(place, tmp_path, capfd):
    heard: list[str] = []
    primegpt.train(place / "my text.txt", out=tmp_path / "run", settings=settings(), say=heard.append)
    assert capfd.readouterr() == ("", "")
    for beginning in ("text  ", "step 3: validation loss", "── sample at step 3", "result  ", "run  "):
        assert [line for line in heard if line.startswith(beginning)], beginning


def test_songs_are_asked_for_by_genre_and_emotion(songs):
    ids = songs.prompt("a song", "rock", "sad")
    names = [songs.tokenizer.special_tokens[name] for name in ("<genre_rock>", "<sad>")]
    assert [id for id in ids if id in names] == names
    wanted = songs.generate(ids)
    assert songs.generate("a song", genre="rock", emotion="sad") == wanted
    assert "".join(songs.stream("a song", genre="rock", emotion="sad")) == wanted
    assert songs.complete("a song", genre="rock", emotion="sad")[0].prompt_ids == ids
    with pytest.raises(UsageError, match="polka"):
        songs.generate("a song", genre="polka")
    with pytest.raises(UsageError, match="as they are"):
        songs.generate(ids, genre="rock")


def test_labels_mean_nothing_to_a_run_of_plain_text(run):
    with pytest.raises(UsageError, match="not trained on instructions"):
        run.generate("a song", genre="rock")


def test_a_text_is_evaluated_as_a_file_with_it_is(run, place, tmp_path):
    other = "a dog jumps over\nthe fox and the dog\n"
    (tmp_path / "other text.txt").write_text(other, encoding="utf-8")
    told = run.evaluate(other)["text"]
    assert told["source"] == "the text given"
    assert (told["tokens"], told["bytes"]) == (len(other), len(other))
    for source in (tmp_path / "other text.txt", str(tmp_path / "other text.txt"), str(tmp_path / "*er text.txt")):
        read = run.evaluate(source)["text"]
        assert {**read, "source": ""} == {**told, "source": ""}
    own = run.evaluate()
    assert own["step"] == run.step
    assert own["text"]["loss"] == pytest.approx(run.metrics[-1]["final/val/loss"], rel=0.02)  # that is in bf16
    assert own == api.evaluate(place / "run")
    assert run.evaluate("two words", stride=1)["text"]["tokens"] == 9


@pytest.mark.parametrize("wrong", ["other.txt", "my other text.txt", "nothing"])
def test_a_misspelt_name_is_no_text(run, wrong):
    with pytest.raises(DataError, match=wrong):
        run.evaluate(wrong)


def test_a_run_of_records_needs_records(songs, place):
    with pytest.raises(UsageError, match="records"):
        songs.evaluate("a text of some words")
    assert songs.evaluate(place / "songs.jsonl")["text"]["tokens"] > 0


def test_metrics_are_the_lines_of_the_file(run):
    lines = (run.folder.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert run.metrics == [json.loads(line) for line in lines]
    assert [line["step"] for line in run.metrics if "train/loss" in line] == [1, 2, 3]


def test_a_run_in_three_lines(run, songs, random_model, save_run):
    what, how, where = repr(run).splitlines()
    assert "prime" in what
    assert "char of 32 ids" in what
    assert "context 64" in what
    assert "finished after 3 steps on " in how
    assert "my text.txt" in how
    loss = run.metrics[-1]["final/val/loss"]
    assert how.endswith(f"validation loss {loss:.4f} nats per character")
    assert str(run.folder.path) in where
    assert f"checkpoint {run.step}" in where
    assert "nats per token" in repr(songs)
    imported = primegpt.load(save_run(random_model(vocab_size=run.tokenizer.vocab_size), run.tokenizer))
    assert "imported, not trained here\n" in repr(imported)
    assert math.isfinite(loss)


def test_a_run_in_a_notebook_has_its_curves_and_orders_nobody(run, random_model, save_run):
    shown = run._repr_html_()
    assert shown.count("<polyline") == 2  # of three steps, and of the evaluations
    assert "finished after 3 steps on " in shown
    imported = primegpt.load(save_run(random_model(vocab_size=run.tokenizer.vocab_size), run.tokenizer))
    moved = imported.folder.path.rename(imported.folder.path.with_name("<script>alert(1)<"))
    shown = primegpt.load(moved)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)&lt;" in shown
    assert "<svg" not in shown


def test_a_completion_in_a_notebook_shades_what_was_unlikely(run):
    (found,) = run.complete("the", logprobs=True, max_new_tokens=8)
    assert found.pieces is not None
    assert "".join(found.pieces) == found.text
    assert len(found.pieces) == len(found.ids)
    shown = found._repr_html_()
    for piece, logprob in zip(found.pieces, found.logprobs, strict=True):
        assert f'title="{math.exp(logprob):.1%}">{html.escape(piece)}</span>' in shown
    (plain,) = run.complete("the", max_new_tokens=8)
    assert plain.pieces is None
    assert "<span" not in plain._repr_html_()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_tokens": 5}, "max_new_tokens"),
        ({"num_return_sequences": 2}, "num_samples"),
        ({"stop": ["."]}, "stop_strings"),
        ({"do_sample": False}, "temperature=0"),
        ({"temprature": 1}, "temperature"),
    ],
)
def test_a_setting_by_another_programs_name_is_told_its_name_here(run, settings, expected):
    with pytest.raises(UsageError, match=expected):
        run.generate("the ", **settings)


@pytest.mark.parametrize("prompt", [None, 5, b"the ", ["the ", "a "], [1.5], torch.tensor([1.5])])
def test_what_is_no_prompt_is_refused(run, prompt):
    with pytest.raises(UsageError, match="a text or ids"):
        run.generate(prompt)


def test_ids_of_any_make_are_a_prompt(run):
    ids = run.tokenizer.encode("the ")
    expected = run.generate(ids)
    for same in (tuple(ids), np.array(ids), torch.tensor(ids)):
        assert run.generate(same) == expected
    assert run.generate("the ", stop_strings="o") == run.generate("the ", stop_strings=["o"])


def test_threads_may_write_with_one_run_at_once(run):
    expected = [run.generate("the ", seed=seed, max_new_tokens=40) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: run.generate("the ", seed=seed, max_new_tokens=40), range(4)))
    assert found == expected
    streams = [run.stream("the ", seed=seed, max_new_tokens=40) for seed in range(2)]
    texts = ["", ""]
    for pieces in zip_longest(*streams, fillvalue=""):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    assert texts == expected[:2]


def test_a_device_that_is_no_device_is_refused(run):
    with pytest.raises(UsageError, match="'gpu' is not available here; this machine has: cpu"):
        primegpt.load(run.folder.path, device="gpu")
