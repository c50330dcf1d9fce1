"""What a training command does around its steps."""

from pathlib import Path

import pytest
import torch

import primegpt.api
from primegpt.jobs import training
from primegpt.planning import plan as planning
from primegpt.report import pictures
from primegpt.training.trainer import Trainer

TINY = {"n_layer": 1, "n_embd": 16, "n_head": 1, "block_size": 16}


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("All work and no play makes Jack a dull boy.\n" * 100, encoding="utf-8")
    return path


def test_what_a_run_has_found_of_its_steps_is_for_later_plans(text, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(training, "correct", lambda config, seconds: told.append((config.train.attention, seconds)))
    settings = {"model": TINY, "train": {"max_steps": 8}}
    run = primegpt.api.train(text, out=tmp_path / "run", settings=settings, quiet=True)
    ((kernel, seconds),) = told
    assert kernel == run.config.train.attention
    assert 0 < seconds < 5


def test_what_draws_is_there_when_it_is_wanted_and_missed_only_then(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(pictures, "import_module", loaded.append)
    monkeypatch.setattr(pictures.Thread, "start", lambda thread: thread.run())
    pictures.load_in_background()
    assert loaded == ["matplotlib.figure", "matplotlib.backends.backend_agg"]
    monkeypatch.setattr(pictures, "import_module", lambda name: 1 / 0)
    pictures.load_in_background()


def test_threads_are_the_runs_own_choice_unless_they_were_asked_for(text, tmp_path, monkeypatch):
    """A configuration that a run has saved sets all that it says, and a resume reads what was chosen then."""

    def trained(name: str, source: Path, **train) -> tuple[str, ...]:
        settings = {"train": train} if source.suffix == ".toml" else {"model": TINY, "train": train}
        return primegpt.api.train(source, out=tmp_path / name, settings=settings, quiet=True).config.plan.chosen

    monkeypatch.setattr(planning, "available_cores", lambda: 2)
    ours = trained("ours", text, max_steps=2)
    assert ours == ("threads", "eval_interval", "sample_interval", "checkpoint_interval", "log_interval")
    assert trained("asked", text, max_steps=2, threads=2) == ours[1:]
    assert trained("again", tmp_path / "ours" / "config.toml", max_steps=2) == ()
    config = tmp_path / "ours" / "config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("threads = 2\n", "", 1), encoding="utf-8")  # [train]
    for steps in (3, 4):
        resumed = primegpt.api.resume(tmp_path / "ours", settings={"train": {"max_steps": steps}}, quiet=True)
        assert resumed.config.plan.chosen == ours


def test_a_process_has_its_threads_again_after_a_run(text, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "step", lambda trainer: (torch.set_num_threads(1), one_step(trainer))[1])
    settings = {"model": TINY, "train": {"max_steps": 2, "threads": 2}}
    primegpt.api.train(text, out=tmp_path / "run", settings=settings, quiet=True)
    assert torch.get_num_threads() == 2


one_step = Trainer.step
