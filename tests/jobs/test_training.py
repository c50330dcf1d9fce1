"""What a training command does around its steps."""

import primegpt.api
from primegpt.jobs import training
from primegpt.report import pictures


def test_what_a_run_has_found_of_its_steps_is_for_later_plans(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(training, "correct", lambda config, seconds: told.append((config.train.attention, seconds)))
    (tmp_path / "text.txt").write_text("All work and no play makes Jack a dull boy.\n" * 100, encoding="utf-8")
    settings = {"model": {"n_layer": 1, "n_embd": 16, "n_head": 1, "block_size": 16}, "train": {"max_steps": 8}}
    run = primegpt.api.train(tmp_path / "text.txt", out=tmp_path / "run", settings=settings, quiet=True)
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
