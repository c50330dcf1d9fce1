"""The alignment experiment: arms that differ in their prompts alone, and the arithmetic of its measures."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from primegpt import api
from primegpt.config import resolve
from primegpt.data.songbook import songbook
from primegpt.data.verse import themes
from primegpt.evaluation.adherence import word_adherence
from primegpt.experiments import alignment
from primegpt.experiments.analysis import Given, Trained
from primegpt.experiments.file import find_file, read_experiment
from primegpt.experiments.stages import plan_work
from primegpt.terminal import silent

ARMS = ["alignment 0", "alignment 0.25", "alignment 0.5", "alignment 0.75", "alignment 1"]
ARMS += [f"alignment {end}, no {what}" for end in "01" for what in ("masking", "prompt dropout")]


@pytest.fixture(scope="module")
def found(small_experiment, tmp_path_factory):
    """Two of its arms, in small."""
    place = tmp_path_factory.mktemp("alignment")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(place / "cache"))
        patch.setattr(alignment, "PROMPTS", 3)
        path = small_experiment("alignment", place, arms=("alignment 0", "alignment 1"))
        yield api.experiment(path, place / "out", say=silent)


def test_the_file_has_an_arm_for_each_alignment_and_each_variation():
    whole, quick = (read_experiment(find_file("alignment"), quick=quick) for quick in (False, True))
    assert [arm.name for arm in whole.arms] == ARMS
    assert whole.seeds[: len(quick.seeds)] == quick.seeds == (1337,)  # the full experiment goes on from the quick one
    jobs = plan_work(whole).jobs
    assert set(plan_work(quick).jobs) < set(jobs)
    assert sum(job.trains for job in jobs.values()) == 27
    assert sum(job.do == "tokenizer" for job in jobs.values()) == 1
    tricks = plan_work(read_experiment(find_file("tricks"))).jobs
    assert {key for key, job in tricks.items() if job.trains} < set(jobs)  # they are the same models


@pytest.mark.reliability
def test_every_arm_is_measured(found):
    values = found.results["values"]
    for name, of_arms in values.items():
        for of_seeds in of_arms.values():
            assert all(value is None or math.isfinite(value) for value in of_seeds.values()), name
    losses, information = values["own.text.loss"], values["primegpt.experiments.alignment:follows.information"]
    assert all(0 < loss < 7 for of_seeds in losses.values() for loss in of_seeds.values())
    assert all(abs(each) < 0.05 for of_seeds in information.values() for each in of_seeds.values())  # nothing is learnt


@pytest.mark.reliability
def test_arms_differ_in_their_prompts_alone(found):
    """The lyrics are the same in the same order, so is every number of the tokenizer, the model and the budget."""
    made = found.folder / "made"
    opened = [api.load(next(made.glob(f"alignment-{a}--train-*"))) for a in "01"]
    texts = [Path(run.config.data.sources[0]).read_text(encoding="utf-8") for run in opened]
    books = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert [each["lyrics"] for each in books[0]] == [each["lyrics"] for each in books[1]]
    assert all(a["prompt"] != b["prompt"] for a, b in zip(*books, strict=True))
    assert opened[0].tokenizer.fingerprint == opened[1].tokenizer.fingerprint
    left, right = (each.config.model_dump(exclude={"plan"}) for each in opened)
    for data in (left["data"], right["data"]):
        data |= {"sources": (), "val_tokens": None}  # of so small a held-out part there are fewer than asked for
    assert left == right


def test_lifts_are_those_of_the_adherence_score():
    songs = list(songbook(6, seed=2))
    prompts, lyrics = [song.prompt for song in songs], [song.lyrics for song in songs]
    assert alignment.lifts(songs, prompts)["words"] == word_adherence(prompts, prompts).lift
    assert (alignment.lifts(songs, lyrics)["theme"] or 0) > 0.5  # a song sings of its own themes


@pytest.mark.reliability
def test_tricks_are_told_apart(found, monkeypatch):
    monkeypatch.setattr(alignment, "PROMPTS", 3)
    run = api.load(next((found.folder / "made").glob("alignment-0--train-*")))
    assert list(alignment.tricks(run)) == [*alignment.TRICKS, alignment.NO_BANS]


def test_no_song_can_take_more_from_its_prompt_than_the_prompt_says():
    """The entropy of briefs by their law, against that of many briefs; what is estimated is a little too low."""
    briefs = [song.written_to for song in songbook(1000, seed=5)]
    single = Counter(len(brief.themes) for brief in briefs)[1] / len(briefs)
    nouns = Counter(noun for brief in briefs for noun in brief.themes)
    phrases = Counter(phrase for brief in briefs for phrase in brief.phrases)
    per_theme = -sum(n / phrases.total() * math.log(n / phrases.total()) for n in phrases.values())
    estimate = 2 * math.log(4) + (2 - single) * per_theme
    estimate -= single * math.log(single) + (1 - single) * math.log(1 - single)
    assert len(nouns) == len(themes())
    assert alignment.prompt_entropy() == pytest.approx(estimate, rel=0.03)


def test_what_came_out_is_drawn_over_the_alignment():
    """By seeds; arms that differ in more than their alignment stay out of it."""
    measures = ("own.text.loss", "primegpt.experiments.alignment:follows.words")
    config = resolve({})

    def run(arm: str, seed: int, loss: float, words: float | None) -> Trained:
        return Trained(arm, seed, False, config, {"steps": 7}, 7, dict(zip(measures, (loss, words), strict=True)))

    runs = (
        run("alignment 1", 1, 1.5, 0.4),
        run("alignment 0", 1, 1.75, 0.0),
        run("alignment 0", 2, 1.5, None),
        run("alignment 0, no masking", 1, 9.0, 9.0),
    )
    found = alignment.analysis(Given(runs, measures))
    loss, lift = found.plots
    assert loss.series[0].points == [(0.0, 1.625), (1.0, 1.5)]
    assert loss.series[0].intervals == [(0.0, 1.5, 1.75), (1.0, 1.5, 1.5)]
    assert [(line.name, line.points) for line in lift.series] == [("words of the prompt", [(0.0, 0.0), (1.0, 0.4)])]
    ((header, nothing, whole, own),) = found.tables
    assert header == ("alignment", "own", "words")
    assert nothing == ("0", "1.625 [1.50, 1.75]", "0.000")
    assert whole == ("1", "1.500", "0.400")
    songs = list(songbook(alignment.PROMPTS, seed=alignment.PROMPT_SEED))
    lyrics = [song.lyrics for song in songs]
    assert own[1:] == ("–", f"{word_adherence([song.prompt for song in songs], lyrics).lift:.3f}")
