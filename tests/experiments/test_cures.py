"""The cures experiment: what is done to the model that ignores its prompts."""

import math

import pytest

from primegpt import api
from primegpt.experiments import alignment
from primegpt.experiments.file import find_file, read_experiment
from primegpt.experiments.stages import plan_work
from primegpt.terminal import silent


def test_every_cure_begins_with_the_same_model():
    work = plan_work(read_experiment(find_file("cures"), quick=True))
    (base,) = (job for job in work.jobs.values() if job.do == "train")
    tuned = [job for job in work.jobs.values() if job.trains and job is not base]
    assert [outcome.run for outcome in work.outcomes if outcome.arm == "as it is"] == [base]
    assert len(tuned) == len(work.outcomes) - 1 == 7
    assert all(base.key in job.needs for job in tuned)
    sampled = [job for job in work.jobs.values() if job.do == "data sample"]
    assert all(base.key in job.needs for job in sampled)
    assert len(sampled) == 2


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
