"""The duplication experiment, tiny: three corpora, the same compute, what tells them apart."""

import json

import pytest

from primegpt import api
from primegpt.data.songbook import songbook
from primegpt.experiments import duplication
from primegpt.experiments.file import find_file, read_experiment
from primegpt.inference.run import load
from primegpt.run.checkpoint import list_checkpoints
from primegpt.terminal import silent

ARMS = ["70 KB", "70 KB copied to 10 MB", "10 MB of varied text"]


@pytest.fixture(scope="module")
def found(small_experiment, tmp_path_factory):
    place = tmp_path_factory.mktemp("duplication")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(place / "cache"))
        patch.setattr(duplication, "PROMPTS", 3)
        patch.setattr(duplication, "NEW_SONGS", 4)
        yield api.experiment(small_experiment("duplication", place), place / "out", say=silent)


def test_three_corpora_of_the_sizes_they_claim():
    (stages, *_) = (arm.stages for arm in read_experiment(find_file("duplication")).arms)
    said = {stage.name: stage.said for stage in stages}
    sizes = {name: _text(said[name]["songs"]) for name in ("small", "varied")}
    assert sizes["small"] == pytest.approx(70e3, rel=0.05)
    assert sizes["small"] * said["copies"]["times"] == pytest.approx(10e6, rel=0.05)
    assert said["varied"]["songs"] == said["small"]["songs"] * said["copies"]["times"]


def _text(songs):
    """The bytes of a book; of a large one, by its first songs."""
    sample = [len(song.text.encode()) for song in songbook(min(songs, 400), seed=0)]
    return sum(sample) / len(sample) * songs


@pytest.mark.reliability
def test_copies_hold_nothing_but_the_small_text(found):
    made = found.folder / "made"
    small, copies = (next(made.glob(f"*{name}-*.jsonl")).read_text(encoding="utf-8") for name in ("small", "copies"))
    assert copies == small * 2
    songs = [json.loads(line)["text"] for line in small.splitlines()]
    assert len(set(songs)) == len(songs)


@pytest.mark.reliability
def test_every_arm_is_measured(found):
    assert found.results["arms"] == ARMS
    values = found.results["values"]
    run = load(next((found.folder / "made").glob("70-KB--train-*")), checkpoint="last", say=silent)
    best = values["primegpt.experiments.duplication:best_on_the_way"]["70 KB"][1337]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplication, "NEW_SONGS", 4)
        assert best == pytest.approx(duplication.best_on_the_way(run))
    assert list(list_checkpoints(run.folder.checkpoints_dir)) == [0, 2]
    # What is held out of copies stands in what is learnt.
    copied = next((found.folder / "made").glob("70-KB-copied*--train-*")) / "data.json"
    warnings = json.loads(copied.read_text())["audit"]["warnings"]
    assert any("held-out" in line or "validation" in line for line in warnings)
