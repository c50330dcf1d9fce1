"""The alignment experiment, tiny: every arm trained and measured once, resumed and reported; and its arithmetic."""

import json
import math
from collections import Counter
from dataclasses import asdict, replace

import pytest

from primegpt import api
from primegpt.cli.main import run
from primegpt.data.songbook import songbook
from primegpt.errors import UsageError
from primegpt.evaluation.adherence import word_adherence
from primegpt.experiments import alignment as report
from primegpt.experiments import alignment_arms as experiment
from primegpt.experiments.arms import Notes, Place, merged
from primegpt.training.trainer import Trainer

TINY = experiment.Size(
    seeds=(1,),
    alignments=(0.0, 1.0),
    max_steps=2,
    batch_size=2,
    songs=24,
    held_out=3,
    prompts=3,
    vocab_size=400,
    overrides={
        "model": {"n_layer": 1, "n_embd": 16, "n_head": 2},
        "train": {"threads": 1, "eval_interval": 2},
        "data": {"val_tokens": 200},
        "generate": {"max_new_tokens": 4},
    },
)
KINDS = [
    *("alignment 0", "alignment 1"),
    *("alignment 0, no masking", "alignment 0, no prompt dropout"),
    *("alignment 1, no masking", "alignment 1, no prompt dropout"),
]


@pytest.fixture(scope="module")
def found(place):
    return api.experiment_alignment(place, size=TINY)


def test_every_arm_is_measured_and_reported(place, found):
    assert list(found["kinds"]) == KINDS
    for finding in found["kinds"].values():
        assert 0 < finding["loss"]["own"][0] < 7
        assert set(finding["adherence"]) == {"words", "theme", "genre", "emotion"}
        assert abs(finding["information"][0]) < 0.05  # after two steps nothing is learnt
    assert list(found["tricks"]) == [*experiment.TRICKS, experiment.NO_BANS]
    assert found["songbook"]["adherence"]["theme"]["own"] == 1
    rows = report.table(found)
    assert all(len(row) == len(report.HEADER) for row in rows)
    assert [row[0] for row in rows][-1] == "the songbook's own songs"
    page = (place / "report.html").read_text(encoding="utf-8")
    assert "no prompt dropout" in page
    assert "http" not in page.split("Content-Security-Policy")[1].replace("http-equiv", "")
    for name in ("loss", "lift", "information", "rescue"):
        assert (place / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((place / "results.json").read_text(encoding="utf-8"))["kinds"].keys() == set(KINDS)


def test_arms_differ_in_their_prompts_alone(place, found):
    """The lyrics are the same in the same order, so is every number of the tokenizer, the model and the budget."""
    books = {}
    for alignment in TINY.alignments:
        path = place / "books" / f"24-songs-seed-0-alignment-{alignment:g}.jsonl"
        books[alignment] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [each["lyrics"] for each in books[0.0]] == [each["lyrics"] for each in books[1.0]]
    assert all(a["prompt"] != b["prompt"] for a, b in zip(books[0.0], books[1.0], strict=True))
    opened = [api.load(place / "runs" / f"alignment-{a}-seed-1") for a in "01"]
    assert opened[0].tokenizer.fingerprint == opened[1].tokenizer.fingerprint
    left, right = (each.config.model_dump(exclude={"plan"}) for each in opened)
    assert left.pop("data") | {"sources": ()} == right.pop("data") | {"sources": ()}
    assert left == right
    unmasked = api.load(place / "runs" / "alignment-0-no-masking-seed-1").config
    assert not unmasked.data.mask_prompt
    assert api.load(place / "runs" / "alignment-1-no-prompt-dropout-seed-1").config.data.prompt_dropout == 0


def test_a_finished_arm_is_not_trained_again(place, found, monkeypatch):
    """Neither by the same experiment, nor by one with more seeds: that trains only what is new."""
    trained = []
    real = Place.trained

    def counted(self, arm, tokenizer):
        trained.append(arm.name)
        return real(self, arm, tokenizer)

    monkeypatch.setattr(Place, "trained", counted)
    assert api.experiment_alignment(place, size=TINY) == found
    assert trained == []
    notes = place / "measures" / "alignment-1-seed-1.json"
    kept = notes.read_bytes()
    notes.unlink()  # as if it had been interrupted after training: the run is taken up, and measured the same
    again = api.experiment_alignment(place, size=TINY)
    assert trained == ["alignment-1-seed-1"]
    assert notes.read_bytes() == kept
    assert again == found


def _step(run, arm):
    return {"step": run.step}


def test_an_interrupted_arm_is_taken_up_where_it_was(tmp_path, monkeypatch):
    size = replace(TINY, max_steps=4, overrides=merged(TINY.overrides, {"train": {"checkpoint_interval": 1}}))
    arm, said = experiment.arms(size)[0], list[str]()
    place = Place(tmp_path / "out", said.append)
    tokenizer = place.tokenizer(arm.book, size.vocab_size, "song")
    step = Trainer.step

    def stopped(self):
        if self.state.step == 2:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            place.carry_out([arm], tokenizer, _step)
    assert place.notes.read(arm) is None
    place.carry_out([arm], tokenizer, _step)
    assert "continuing at step 2 of 4" in said
    assert place.notes.read(arm) == {"step": 4}


def test_the_command_prints_the_table_or_json(place, found, monkeypatch, capsys):
    monkeypatch.setattr(report, "QUICK", TINY)
    assert run(["experiment", "alignment", "--quick", "--out", str(place)], 0.0) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| " + " | ".join(report.HEADER) + " |"
    assert [line.split(" | ")[0] for line in lines[2:8]] == [f"| {kind}" for kind in KINDS]
    assert lines[-1].endswith("report.html")
    assert run(["experiment", "alignment", "--quick", "--out", str(place), "--json"], 0.0) == 0
    assert json.loads(capsys.readouterr().out)["kinds"].keys() == set(KINDS)


def test_other_settings_do_not_mix_with_what_was_measured(place, found):
    with pytest.raises(UsageError, match="--out"):
        api.experiment_alignment(place, size=replace(TINY, max_steps=3))


def test_the_quick_experiment_is_the_beginning_of_the_full_one():
    quick, full = experiment.arms(experiment.QUICK), experiment.arms(experiment.FULL)
    assert quick == full[: len(quick)]
    assert len(full) == 3 * len(quick) == 27
    assert len({arm.name for arm in full}) == len(full)


def test_seeds_are_pooled_by_their_mean_score(tmp_path):
    songs = list(songbook(6, seed=2))
    echo, silent = [song.prompt for song in songs], [""] * 6
    information = {"information": 0.1, "interval": [0.0, 0.2], "tokens": 60, "songs": 6}

    def measures(outputs):
        return {"outputs": outputs, "loss": {"own": 1.0, "aligned": 1.0}, "information": information, "tricks": {}}

    one = experiment.findings(songs, {"alignment 1": [measures(echo)]})["kinds"]["alignment 1"]
    assert one["adherence"]["words"] == asdict(word_adherence(echo, echo))
    assert one["adherence"]["words"]["own"] == 1
    both = experiment.findings(songs, {"alignment 1": [measures(echo), measures(silent)]})["kinds"]["alignment 1"]
    assert both["adherence"]["words"]["own"] == 0.5
    assert both["adherence"]["words"]["lift"] == pytest.approx(one["adherence"]["words"]["lift"] / 2)
    assert both["lift_of_seeds"] == [one["adherence"]["words"]["lift"], 0.0]


def test_no_song_can_take_more_from_its_prompt_than_the_prompt_says():
    """The entropy of briefs by their law, against that of many briefs; what is estimated is a little too low."""
    briefs = [song.written_to for song in songbook(1000, seed=5)]
    single = Counter(len(brief.themes) for brief in briefs)[1] / len(briefs)
    nouns = Counter(noun for brief in briefs for noun in brief.themes)
    phrases = Counter(phrase for brief in briefs for phrase in brief.phrases)
    per_theme = -sum(n / phrases.total() * math.log(n / phrases.total()) for n in phrases.values())
    estimate = 2 * math.log(4) + (2 - single) * per_theme
    estimate -= single * math.log(single) + (1 - single) * math.log(1 - single)
    assert len(nouns) == len(experiment.themes())
    assert experiment.prompt_entropy() == pytest.approx(estimate, rel=0.03)


def test_notes_know_which_arm_they_are_of(tmp_path):
    arm = experiment.arms(TINY)[0]
    notes = Notes(tmp_path)
    assert notes.read(arm) is None
    notes.write(arm, {"loss": 1.0})
    assert notes.read(arm) == {"loss": 1.0}
    assert notes.by_kind([arm]) == {"alignment 0": [{"loss": 1.0}]}
    with pytest.raises(UsageError, match="other settings"):
        notes.read(replace(arm, settings={}))
