"""The cures experiments: what is done to the model that ignores its prompts, and to one that knows few answers."""

import math

import pytest

from primegpt import api
from primegpt.experiments import alignment
from primegpt.experiments.file import find_file, read_experiment
from primegpt.experiments.stages import plan_work
from primegpt.terminal import silent


@pytest.mark.parametrize(("name", "tuned"), [("cures", 7), ("cures-tasks", 4)])
def test_every_cure_begins_with_the_same_model(name, tuned):
    work = plan_work(read_experiment(find_file(name), quick=True))
    (base,) = (job for job in work.jobs.values() if job.do == "train")
    after = [job for job in work.jobs.values() if job.trains and job is not base]
    assert [outcome.run for outcome in work.outcomes if outcome.arm == "as it is"] == [base]
    assert len(after) == len(work.outcomes) - 1 == tuned
    assert all(base.key in job.needs for job in after)
    sampled = [job for job in work.jobs.values() if job.do == "data sample"]
    assert all(base.key in job.needs for job in sampled)
    assert len(sampled) == 2
    for outcome in work.outcomes:
        judged, _ = outcome.measures["kl.per_token"]
        assert base.key in judged.needs


@pytest.mark.reliability
def test_every_cure_is_measured(small_experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(alignment, "PROMPTS", 3)
    arms = [arm.name for arm in read_experiment(find_file("cures")).arms]
    arms.remove("DPO")  # songs of four tokens are all worth the same, and make no pairs
    found = api.experiment(small_experiment("cures", tmp_path, arms), tmp_path / "out", say=silent)
    for name, of_arms in found.results["values"].items():
        for of_seeds in of_arms.values():
            assert all(value is None or math.isfinite(value) for value in of_seeds.values()), name
    distance = found.results["values"]["kl.per_token"]
    assert distance["as it is"] == {1337: 0.0}
    assert all(of_seeds[1337] > 0 for arm, of_seeds in distance.items() if arm != "as it is")


@pytest.mark.reliability
def test_every_cure_of_wrong_answers_is_measured(small_experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "cache"))
    arms = ["as it is", "more of the same", "GRPO"]  # the others need an answer that is right
    found = api.experiment(small_experiment("cures-tasks", tmp_path, arms), tmp_path / "out", say=silent)
    values = found.results["values"]
    assert values["reward.mean"] == {arm: {1337: 0.0} for arm in arms}
    assert values["kl.per_token"]["as it is"] == {1337: 0.0}
    assert values["kl.per_token"]["more of the same"][1337] > 0
