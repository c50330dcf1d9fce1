"""The duplication experiment, tiny: three corpora, the same compute, what tells them apart."""

import json

import pytest

from primegpt import api
from primegpt.cli.main import run
from primegpt.data.songbook import songbook
from primegpt.experiments import duplication as experiment

TINY = experiment.Size(
    seeds=(1,),
    max_steps=4,
    batch_size=2,
    small_songs=12,
    times=3,
    held_out=2,
    prompts=3,
    vocab_size=400,
    overrides={
        "model": {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 64},
        "train": {"threads": 1, "checkpoint_interval": 2, "eval_interval": 2},
        "generate": {"max_new_tokens": 16},
    },
)


@pytest.fixture(scope="module")
def found(place):
    return api.experiment_duplication(place, size=TINY)


def test_three_corpora_of_the_sizes_they_claim():
    books = experiment.books(experiment.FULL)
    sizes = {kind: _text(book) * book.copies for kind, book in books.items()}
    assert sizes["small"] == pytest.approx(70e3, rel=0.05)
    assert sizes["copied"] == pytest.approx(10e6, rel=0.05)
    assert books["varied"].songs == books["copied"].songs * books["copied"].copies


def _text(book):
    """The bytes of a book; of a large one, by its first songs."""
    sample = [len(song.text.encode()) for song in songbook(min(book.songs, 400), seed=book.seed)]
    return sum(sample) / len(sample) * book.songs


def test_copies_hold_nothing_but_the_small_text(place, found):
    songs = {
        kind: [json.loads(line)["text"] for line in (place / "books" / book.file).read_text("utf-8").splitlines()]
        for kind, book in experiment.books(TINY).items()
    }
    assert songs["copied"] == 3 * songs["small"]
    assert len(set(songs["varied"])) == len(songs["varied"]) == 36


def test_every_arm_is_measured_and_reported(place, found):
    assert list(found["kinds"]) == ["small", "copied", "varied"]
    for finding in found["kinds"].values():
        assert [step for step, *_ in finding["held_out"]] == [0, 2, 4]
        assert finding["loss"] == [finding["held_out"][-1][1]]
        assert set(finding["copied"]) == {"8", "12", "20"}
    # What is held out of copies stands in what is learnt.
    assert any("held-out" in line or "validation" in line for line in found["kinds"]["copied"]["warnings"])
    rows = experiment.table(found)
    assert [row[0] for row in rows] == ["70 KB", "70 KB copied to 10 MB", "10 MB of varied text"]
    assert all(len(row) == len(experiment.HEADER) for row in rows)
    assert "What copies are worth" in (place / "report.html").read_text(encoding="utf-8")
    for name in ("held-out", "own", "copied"):
        assert (place / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_the_table(place, found, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "FULL", TINY)
    assert run(["experiment", "duplication", "--out", str(place)], 0.0) == 0
    assert "| 70 KB copied to 10 MB |" in capsys.readouterr().out


def test_seeds_are_put_together_at_the_steps_that_both_have():
    measures = {
        "held_out": [(0, 6.0), (5, 3.0), (9, 4.0)],
        "own": [(0, 6.0), (9, 1.0)],
        "copied": {"12": 1.0},
        "by_chance": {"12": 0.1},
        "longest": 40,
        "text_bytes": 10,
        "epochs": 2.0,
        "warnings": [],
        "samples": [""],
        "longest_text": "",
    }
    finding = experiment.findings({"small": [measures, measures | {"held_out": [(0, 6.0), (9, 5.0)]}]})["kinds"][
        "small"
    ]
    assert finding["held_out"] == [(0, 6.0, 6.0, 6.0), (9, 4.5, 4.0, 5.0)]
    assert finding["loss"] == [4.0, 5.0]
    assert finding["best"] == [3.0, 5.0]
    assert finding["own_loss"] == [1.0, 1.0]
